/* bench_body.c: 64 KiB of body, counted and in chunks of 4 KiB. */
#include "body.h"

#include <string.h>

#include "measure.h"

enum { CHUNK = 4096, CHUNKS = 16 };

static char counted[CHUNK * CHUNKS];
static char chunked[CHUNKS * (CHUNK + 8) + 8];

static size_t take(const fc_framing *framing, const char *data, size_t len) {
  fc_body body;
  size_t taken = 0, used;
  fc_span span;
  fc_body_start(&body, framing);
  for (;;) {
    int step = fc_body_next(&body, data, len, &used, &span);
    data += used;
    len -= used;
    if (step != FC_BODY_DATA) return taken;
    taken += span.len;
  }
}

int main(void) {
  fc_framing with_length = {.body = FC_BODY_COUNTED, .length = sizeof counted};
  fc_framing in_chunks = {.body = FC_BODY_CHUNKED};
  char *at = chunked;
  for (int i = 0; i < CHUNKS; i++) {
    memcpy(at, "1000\r\n", 6);
    memcpy(at + 6 + CHUNK, "\r\n", 2);
    at += CHUNK + 8;
  }
  memcpy(at, "0\r\n\r\n", 5);
  size_t len = (size_t)(at - chunked) + 5;
  if (take(&with_length, counted, sizeof counted) != sizeof counted) return 1;
  if (take(&in_chunks, chunked, len) != sizeof counted) return 1;
  MEASURE("64 KiB counted", KEEP(take(&with_length, counted, sizeof counted)));
  MEASURE("64 KiB in sixteen chunks", KEEP(take(&in_chunks, chunked, len)));
  return 0;
}
