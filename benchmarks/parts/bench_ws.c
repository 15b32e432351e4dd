/* bench_ws.c: a frame's head, taking off the mask, and the check of UTF-8. */
#include "ws.h"

#include <string.h>

#include "measure.h"

enum { SMALL = 128, LARGE = 64 * 1024 };

static char from[LARGE], to[LARGE];

static int check(size_t len) {
  fc_utf8 utf8 = {0};
  return fc_utf8_feed(&utf8, from, len) && fc_utf8_is_whole(&utf8);
}

int main(void) {
  static const uint8_t MASK[4] = {0x37, 0xfa, 0x21, 0x3d};
  static const char HEAD[] = "\x81\xfe\x01\x00\x37\xfa\x21\x3d";
  fc_ws_frame frame;
  const char *why;
  char head[FC_WS_OWN_HEAD_MAX];
  memset(from, 'x', sizeof from);
  MEASURE("read a head", KEEP(fc_ws_read_head(&frame, HEAD, sizeof HEAD - 1, &why)));
  MEASURE("write a head", KEEP(fc_ws_write_head(head, FC_WS_TEXT | FC_WS_FIN, SMALL)));
  MEASURE("unmask 128 bytes", KEEP(fc_ws_unmask(to, from, SMALL, MASK, 0)));
  MEASURE("unmask 64 KiB", KEEP(fc_ws_unmask(to, from, LARGE, MASK, 0)));
  MEASURE("UTF-8, 64 KiB of ASCII", KEEP(check(LARGE)));
  for (size_t i = 0; i + 2 <= sizeof from; i += 2) memcpy(from + i, "\xc3\xa4", 2);
  MEASURE("UTF-8, 64 KiB of two bytes each", KEEP(check(LARGE)));
  return 0;
}
