/* bench_buf.c: a head of 600 bytes that comes in pieces of 100. */
#include "buf.h"

#include "measure.h"

enum { PIECE = 100, PIECES = 6 };

static char piece[PIECE];

static size_t gather(fc_buf *buf) {
  for (int i = 0; i < PIECES; i++) fc_buf_append(buf, piece, PIECE);
  size_t len = buf->len;
  fc_buf_consume(buf, len);
  return len;
}

static size_t gather_anew(void) {
  fc_buf buf = {0};
  size_t len = gather(&buf);
  fc_buf_free(&buf);
  return len;
}

int main(void) {
  fc_buf buf = {0};
  MEASURE("into memory that is there", KEEP(gather(&buf)));
  MEASURE("into new memory", KEEP(gather_anew()));
  fc_buf_free(&buf);
  return 0;
}
