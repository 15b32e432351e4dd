/* bench_out.c: what is queued and given to a socket whose other end reads it: a
 * small head, a head with a body that is referred to, sixteen small answers. */
#include "out.h"

#include <sys/socket.h>
#include <unistd.h>

#include "measure.h"

enum { HEAD = 150, BODY = 16 * 1024 };

static char bytes[BODY], sink[1 << 20];
static int ends[2];

static int sent(fc_out *out) {
  size_t len = out->bytes;
  int result = fc_out_flush(out, ends[0]);
  while (fc_out_finished(out) != NULL) continue;
  while (len > 0) {
    ssize_t n = read(ends[1], sink, sizeof sink);
    if (n <= 0) return FC_ERR;
    len -= (size_t)n;
  }
  return result;
}

static int copies(fc_out *out, int n) {
  for (int i = 0; i < n; i++) fc_out_copy(out, bytes, HEAD);
  return sent(out);
}

static int refers(fc_out *out) {
  fc_out_copy(out, bytes, HEAD);
  fc_out_refer(out, bytes, BODY, bytes);
  return sent(out);
}

int main(void) {
  fc_out *out = fc_out_new();
  if (out == NULL || socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return 1;
  if (copies(out, 1) != FC_OK || refers(out) != FC_OK) return 1;
  MEASURE("150 bytes, sent and read", KEEP(copies(out, 1)));
  MEASURE("sixteen times 150 bytes", KEEP(copies(out, 16)));
  MEASURE("150 bytes and 16 KiB", KEEP(refers(out)));
  fc_out_delete(out);
  return 0;
}
