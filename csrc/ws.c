/* ws.c: see ws.h. */
#include "ws.h"

#include <string.h>

/* ---- heads */

enum { OPCODE = 0x0f, CONTROL = 0x08, MASKED = 0x80, LENGTH = 0x7f, TWO_BYTES = 126, EIGHT = 127 };

static int refuse(const char **why, const char *text) {
  *why = text;
  return FC_ERR;
}

static uint64_t big_endian(const char *ptr, size_t n) {
  uint64_t value = 0;
  for (size_t i = 0; i < n; i++) value = value << 8 | (uint8_t)ptr[i];
  return value;
}

static int is_reserved(uint8_t opcode) {
  return (opcode > FC_WS_BINARY && opcode < FC_WS_CLOSE) || opcode > FC_WS_PONG;
}

/* The length behind the first two bytes; n of the frame's bytes hold it. */
static int read_length(fc_ws_frame *frame, const char *ptr, size_t n, const char **why) {
  frame->length = big_endian(ptr, n);
  if (n == 2 && frame->length < TWO_BYTES) return refuse(why, "the length is not minimal");
  if (n == 8 && frame->length >> 16 == 0) return refuse(why, "the length is not minimal");
  if (frame->length >> 63 != 0) return refuse(why, "the length has its highest bit set");
  return FC_OK;
}

int fc_ws_read_head(fc_ws_frame *frame, const char *ptr, size_t len, const char **why) {
  if (len < 1) return 0;
  uint8_t first = (uint8_t)ptr[0];
  frame->opcode = first & OPCODE;
  frame->flags = first & (uint8_t)~OPCODE;
  if (is_reserved(frame->opcode)) return refuse(why, "a reserved opcode");
  int is_control = (frame->opcode & CONTROL) != 0;
  if (is_control && !(first & FC_WS_FIN)) return refuse(why, "a control frame in pieces");
  if (len < 2) return 0;
  uint8_t second = (uint8_t)ptr[1];
  if (!(second & MASKED)) return refuse(why, "a frame without a mask");
  frame->length = second & LENGTH;
  if (is_control && frame->length > FC_WS_CONTROL_MAX) {
    return refuse(why, "a control frame above 125 bytes");
  }
  size_t n = frame->length == EIGHT ? 8 : frame->length == TWO_BYTES ? 2 : 0;
  if (len < 2 + n) return 0;
  if (n != 0 && read_length(frame, ptr + 2, n, why) != FC_OK) return FC_ERR;
  if (len < 6 + n) return 0;
  memcpy(frame->mask, ptr + 2 + n, 4);
  return (int)(6 + n);
}

size_t fc_ws_write_head(char *ptr, int first, uint64_t length) {
  size_t n = length < TWO_BYTES ? 0 : length < 1 << 16 ? 2 : 8;
  ptr[0] = (char)first;
  ptr[1] = n == 0 ? (char)length : n == 2 ? TWO_BYTES : EIGHT;
  for (size_t i = 0; i < n; i++) ptr[2 + i] = (char)(length >> (8 * (n - 1 - i)) & 0xff);
  return 2 + n;
}

/* ---- masks */

int fc_ws_unmask(char *restrict to, const char *restrict from, size_t len, const uint8_t mask[4],
                 uint64_t at) {
  uint8_t pattern[8];
  for (size_t i = 0; i < 8; i++) pattern[i] = mask[(at + i) & 3];
  uint64_t key;
  memcpy(&key, pattern, 8);
  uint64_t seen = 0;
  size_t words = len / 8;
  /* Plain words, of which the compiler makes vectors. */
  for (size_t i = 0; i < words; i++) {
    uint64_t word;
    memcpy(&word, from + 8 * i, 8);
    word ^= key;
    seen |= word;
    memcpy(to + 8 * i, &word, 8);
  }
  for (size_t i = 8 * words; i < len; i++) {
    uint8_t byte = (uint8_t)from[i] ^ pattern[i & 7];
    seen |= byte;
    to[i] = (char)byte;
  }
  return (seen & UINT64_C(0x8080808080808080)) != 0;
}

/* ---- close codes */

int fc_ws_may_send_code(int code) {
  if (code >= 3000 && code <= 4999) return 1;
  /* 1004 is reserved; 1005, 1006 and 1015 are for an endpoint's own use. */
  return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014);
}

/* ---- UTF-8 */

/* A character's first byte that is not ASCII; the ranges are those of RFC 3629
 * section 4, which leave out overlong forms, surrogates and what lies beyond
 * U+10FFFF. */
static int lead(fc_utf8 *utf8, uint8_t byte) {
  utf8->low = 0x80;
  utf8->high = 0xbf;
  if (byte < 0xc2 || byte > 0xf4) return 0;
  if (byte < 0xe0) {
    utf8->left = 1;
  } else if (byte < 0xf0) {
    utf8->left = 2;
    if (byte == 0xe0) utf8->low = 0xa0;
    if (byte == 0xed) utf8->high = 0x9f;
  } else {
    utf8->left = 3;
    if (byte == 0xf0) utf8->low = 0x90;
    if (byte == 0xf4) utf8->high = 0x8f;
  }
  return 1;
}

/* How many of the first bytes are ASCII, counted in words. */
static size_t ascii_run(const char *ptr, size_t len) {
  size_t at = 0;
  while (len - at >= 8) {
    uint64_t word;
    memcpy(&word, ptr + at, 8);
    if (word & UINT64_C(0x8080808080808080)) break;
    at += 8;
  }
  return at;
}

int fc_utf8_feed(fc_utf8 *utf8, const char *ptr, size_t len) {
  fc_utf8 now = *utf8;
  size_t at = 0;
  while (at < len) {
    uint8_t byte = (uint8_t)ptr[at];
    if (now.left != 0) {
      if (byte < now.low || byte > now.high) return 0;
      now.left--;
      now.low = 0x80;
      now.high = 0xbf;
      at++;
    } else if (byte < 0x80) {
      size_t run = ascii_run(ptr + at, len - at);
      at += run != 0 ? run : 1;
    } else {
      if (!lead(&now, byte)) return 0;
      at++;
    }
  }
  *utf8 = now;
  return 1;
}
