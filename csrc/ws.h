/* ws.h: WebSocket frames (RFC 6455 section 5) and the UTF-8 of their text.
 *
 * It sees one frame at a time, as a server does: what a client sends is masked,
 * what it gets is not.  It keeps no message, owns no bytes and reads no byte
 * beyond those that it was given.  What a message is, which extension may set a
 * reserved bit and how long anything may be is the affair of websocket.pyx. */
#ifndef FC_WS_H
#define FC_WS_H

#include "fc.h"

enum {
  FC_WS_CONTINUATION = 0,
  FC_WS_TEXT = 1,
  FC_WS_BINARY = 2,
  FC_WS_CLOSE = 8,
  FC_WS_PING = 9,
  FC_WS_PONG = 10,
};

enum {
  FC_WS_FIN = 0x80,
  FC_WS_RSV1 = 0x40, /* permessage-deflate: the message is compressed */
  FC_WS_RSV2 = 0x20,
  FC_WS_RSV3 = 0x10,
};

enum {
  FC_WS_HEAD_MAX = 14,     /* longest head of a client's frame */
  FC_WS_OWN_HEAD_MAX = 10, /* of ours, which has no mask */
  FC_WS_CONTROL_MAX = 125, /* longest payload of a control frame */
};

typedef struct fc_ws_frame {
  uint64_t length; /* of the payload, below 2^63 */
  uint8_t mask[4];
  uint8_t opcode; /* FC_WS_CONTINUATION to FC_WS_PONG */
  uint8_t flags;  /* FC_WS_FIN and FC_WS_RSV1…3 */
} fc_ws_frame;

/* Reads the head of a client's frame.  Returns its length, 6 to 14; 0 while
 * [ptr, ptr + len) is not the whole of it; FC_ERR for a head that no client may
 * send, as soon as that is certain, and *why gets a constant text: not masked,
 * a reserved opcode, a control frame that is long or in pieces, a length that
 * is not minimal or has its highest bit set.  It does not judge the reserved
 * bits. */
int fc_ws_read_head(fc_ws_frame *frame, const char *ptr, size_t len, const char **why);

/* Writes the head of a frame of ours into FC_WS_OWN_HEAD_MAX bytes at ptr and
 * returns its length: 2, 4 or 10.  first is the opcode with the flags. */
size_t fc_ws_write_head(char *ptr, int first, uint64_t length);

/* Copies len bytes and takes the mask off; they must not overlap.  at: how much
 * of the frame's payload came before.  Returns 0 if every byte is ASCII. */
int fc_ws_unmask(char *to, const char *from, size_t len, const uint8_t mask[4], uint64_t at);

/* Whether an endpoint may send this close code (RFC 6455 section 7.4 and the
 * registry it founded). */
int fc_ws_may_send_code(int code);

/* UTF-8 (RFC 3629) in pieces.  Zero-initialised: between two characters. */
typedef struct fc_utf8 {
  uint8_t left; /* bytes that the character still needs */
  uint8_t low;  /* the range of the next of them */
  uint8_t high;
} fc_utf8;

/* Takes the next piece.  Returns 1, or 0 at the first byte that no UTF-8 can
 * have there; the state is spoilt then. */
int fc_utf8_feed(fc_utf8 *utf8, const char *ptr, size_t len);

/* Whether the text may end here. */
static inline int fc_utf8_is_whole(const fc_utf8 *utf8) { return utf8->left == 0; }

#endif
