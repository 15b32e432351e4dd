/* conn.h: one TCP or unix connection: accept, fill, close, hand over.
 *
 * The only file that calls accept, recv and close on connections, and that
 * passes descriptors to other workers.  It knows no HTTP. */
#ifndef FC_CONN_H
#define FC_CONN_H

#include "buf.h"
#include "fc.h"
#include "loop.h"
#include "out.h"
#include "timer.h"

/* The peer's address in 20 bytes instead of sockaddr_storage's 128. */
typedef struct fc_peer {
  uint8_t family; /* 4, 6, or 0 for unix and unknown */
  uint8_t bytes[16];
  uint16_t port;
} fc_peer;
_Static_assert(sizeof(fc_peer) == 20, "the scoreboard's note has room for so much");

typedef struct fc_conn {
  fc_source source;
  fc_deadline deadline;
  fc_out *out; /* NULL: nothing waits to be sent */
  fc_buf in;   /* bytes read and not yet understood */
  fc_peer peer;
} fc_conn;

/* Accepts one connection, non-blocking and close-on-exec.  Returns the
 * descriptor, FC_AGAIN, or FC_ERR (EMFILE and ENFILE among others); a
 * connection that was aborted while it waited is passed over. */
int fc_conn_accept(int listener_fd, fc_peer *peer);

/* Asks the kernel who is at the other end (for handed-over descriptors). */
void fc_conn_peer(int fd, fc_peer *peer);

/* Writes the numeric address as text, at most 46 bytes with the NUL, and
 * returns its length; 0 and "" for unix, or if `size` is too small. */
size_t fc_peer_text(const fc_peer *peer, char *text, size_t size);

/* Reads once into [ptr, ptr + size).  Returns the count (> 0), FC_AGAIN,
 * FC_EOF, or FC_ERR (EINVAL for a size of 0, which could not tell an end). */
int64_t fc_conn_fill(int fd, char *ptr, size_t size);

/* Waits in poll(2) until the socket is readable or writable (FC_READ or
 * FC_WRITE), for callers that may block.  Returns 1 (also when it has failed:
 * the next call on it says how), 0 on timeout, FC_AGAIN when a signal came in
 * between (see to it, then wait again), or FC_ERR. */
int fc_conn_poll(int fd, int what, int timeout_ms);

/* No more bytes will be sent; the peer reads EOF after what it was sent. */
void fc_conn_shutdown(int fd);
void fc_conn_close(int fd);
/* Closes with a reset: for peers that take nothing any more. */
void fc_conn_abort(int fd);

/* What travels with a handed-over descriptor. */
typedef struct fc_parcel {
  uint32_t listener;   /* index of the listener it came from */
  uint32_t generation; /* of the receiver, as the sender counted it there */
  uint32_t requests;   /* that were read on it so far */
} fc_parcel;

/* Sends a descriptor to an inbox (a datagram socket) without blocking; the
 * caller closes its own copy after FC_OK.  FC_AGAIN: the inbox is full, or the
 * kernel has too many descriptors on their way. */
int fc_conn_hand_over(int inbox_fd, int fd, fc_parcel parcel);
/* Takes one from an inbox: the descriptor, non-blocking and close-on-exec, or
 * FC_AGAIN, or FC_ERR.  After EMFILE (no descriptor was free) or EBADMSG (no
 * parcel of ours) the message is gone, and with it whatever it carried. */
int fc_conn_receive(int inbox_fd, fc_parcel *parcel);

#endif
