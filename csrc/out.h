/* out.h: what is still to send: byte spans and file ranges, in order.
 *
 * The only file that calls send, sendmsg and sendfile.  Bytes are either
 * copied (small ones: one send for a whole pipelined batch) or stay with an
 * owner that C never counts: when the last byte of a piece is with the kernel,
 * its owner is pulled with fc_out_finished.  A loop has one fc_out, the tray,
 * that the connection being served writes to; a connection whose socket
 * refuses bytes takes the tray with it and the loop gets a new one, so nothing
 * is copied twice and idle connections own none. */
#ifndef FC_OUT_H
#define FC_OUT_H

#include "fc.h"

#define FC_OUT_AREA (32 * 1024)
#define FC_OUT_COPY_MAX 4096 /* at most this is copied rather than referenced */
/* One flush sends at most this much, so that a quick reader of something huge
 * does not keep the other connections waiting. */
#define FC_OUT_FLUSH_MAX (2 * 1024 * 1024)

typedef struct fc_piece {
  const char *ptr; /* NULL for a file range, and for no bytes at all */
  size_t len;
  void *owner;            /* pulled when the piece is sent; may be NULL */
  struct fc_block *block; /* where copied bytes of an overflowing queue live, else NULL */
  int64_t offset;         /* files */
  int file_fd;
} fc_piece;

typedef struct fc_out {
  size_t bytes; /* still to send */
  fc_piece *pieces;
  uint32_t first, last, capacity; /* pieces[first, last) wait */
  uint32_t area_used;
  struct fc_block *block; /* the block that grows once the area is full */
  void **finished;
  uint32_t n_finished, finished_capacity;
  struct fc_out *next; /* for the caller's free list */
  char area[FC_OUT_AREA];
} fc_out;

fc_out *fc_out_new(void);
/* Frees a queue.  fc_out_abandon and fc_out_finished come first if it may
 * still hold owners. */
void fc_out_delete(fc_out *out);

/* Each appends; FC_ERR with ENOMEM, and then nothing was appended and the owner
 * is still the caller's.  What is referred to, bytes or open file, must stay
 * until its owner is pulled.  An owner may come with no bytes: it is finished
 * in its turn. */
int fc_out_copy(fc_out *out, const char *ptr, size_t len);
int fc_out_refer(fc_out *out, const char *ptr, size_t len, void *owner);
int fc_out_file(fc_out *out, int file_fd, int64_t offset, size_t len, void *owner);

/* Sends until the queue is empty (FC_OK), the socket takes no more or has taken
 * FC_OUT_FLUSH_MAX bytes (FC_AGAIN: go on when it is writable), or fails
 * (FC_ERR, errno; ENODATA: a file was shorter than promised).  Never allocates
 * and never raises SIGPIPE. */
int fc_out_flush(fc_out *out, int socket_fd);

/* Drops all that waits; its owners become finished. */
void fc_out_abandon(fc_out *out);
/* The next owner whose bytes are no longer needed, or NULL.  Each comes once
 * for each time it was appended, in no certain order. */
void *fc_out_finished(fc_out *out);

static inline int fc_out_is_empty(const fc_out *out) { return out->first == out->last; }

#endif
