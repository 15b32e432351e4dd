/* out.c: the queue behind out.h, and the only calls of send, sendmsg and
 * sendfile.
 *
 * Its law: whatever sending will need is reserved when a piece is appended, so
 * appending may fail and then changes nothing, while sending and abandoning
 * need no memory.  It knows neither what the bytes mean nor who owns them. */
#define _GNU_SOURCE
#include "out.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

enum {
  FIRST_CAPACITY = 64,
  RUNS_MAX = 64, /* that one sendmsg takes */
  BLOCK_BYTES = 16 * 1024,
};

/* Copied bytes that the area had no room for.  Its users are the pieces in it
 * and, while it grows, the queue; the last one to leave frees it. */
struct fc_block {
  size_t users;
  size_t used;
  size_t size;
  char bytes[];
};

static struct fc_block *new_block(size_t size) {
  struct fc_block *block = malloc(sizeof *block + size);
  if (block == NULL) return NULL;
  block->users = 1;
  block->used = 0;
  block->size = size;
  return block;
}

static void leave_block(struct fc_block *block) {
  if (block != NULL && --block->users == 0) free(block);
}

fc_out *fc_out_new(void) {
  fc_out *out = malloc(sizeof *out);
  if (out == NULL) return NULL;
  /* Not the area: its pages cost nothing until they are written to. */
  memset(out, 0, offsetof(fc_out, area));
  out->pieces = malloc(FIRST_CAPACITY * sizeof *out->pieces);
  out->finished = malloc(FIRST_CAPACITY * sizeof *out->finished);
  if (out->pieces == NULL || out->finished == NULL) {
    fc_out_delete(out);
    return NULL;
  }
  out->capacity = out->finished_capacity = FIRST_CAPACITY;
  return out;
}

void fc_out_delete(fc_out *out) {
  if (out == NULL) return;
  for (uint32_t i = out->first; i < out->last; i++) leave_block(out->pieces[i].block);
  leave_block(out->block);
  free(out->pieces);
  free(out->finished);
  free(out);
}

/* Doubles an array whose elements have this size; NULL with ENOMEM. */
static void *doubled(void *array, uint32_t *capacity, size_t size) {
  if (*capacity > UINT32_MAX / 2) {
    errno = ENOMEM;
    return NULL;
  }
  void *grown = realloc(array, (size_t)*capacity * 2 * size);
  if (grown != NULL) *capacity *= 2;
  return grown;
}

/* One more place at the end of the pieces: those at the front that are sent
 * already, if they are half of all, else new ones. */
static int make_room(fc_out *out) {
  if (out->first >= out->capacity / 2) {
    uint32_t waiting = out->last - out->first;
    memmove(out->pieces, out->pieces + out->first, waiting * sizeof *out->pieces);
    out->first = 0;
    out->last = waiting;
    return FC_OK;
  }
  fc_piece *grown = doubled(out->pieces, &out->capacity, sizeof *grown);
  if (grown == NULL) return FC_ERR;
  out->pieces = grown;
  return FC_OK;
}

/* A place for every owner that waits and for one more.  Counting each piece as
 * if it had an owner is cheaper than counting owners. */
static int reserve_finished(fc_out *out) {
  if (out->n_finished + (out->last - out->first) < out->finished_capacity) return FC_OK;
  void **grown = doubled(out->finished, &out->finished_capacity, sizeof *grown);
  if (grown == NULL) return FC_ERR;
  out->finished = grown;
  return FC_OK;
}

/* The next piece, counted, for the caller to fill in ptr and what a file has;
 * NULL with ENOMEM.  Filled in place: a piece that is built elsewhere and copied
 * costs 10 ns more. */
static fc_piece *append(fc_out *out, size_t len, void *owner) {
  if (FC_UNLIKELY(out->last == out->capacity) && make_room(out) < 0) return NULL;
  if (owner != NULL && reserve_finished(out) < 0) return NULL;
  fc_piece *piece = &out->pieces[out->last++];
  piece->len = len;
  piece->owner = owner;
  piece->block = NULL;
  out->bytes += len;
  return piece;
}

/* Appends bytes of the area (block NULL) or of a block.  Something of ours lies
 * before both, so a piece that ends where these begin is of the same memory. */
static int append_copied(fc_out *out, const char *ptr, size_t len, struct fc_block *block) {
  if (!fc_out_is_empty(out)) {
    fc_piece *last = &out->pieces[out->last - 1];
    if (last->ptr != NULL && last->ptr + last->len == ptr) {
      last->len += len;
      out->bytes += len;
      return FC_OK;
    }
  }
  fc_piece *piece = append(out, len, NULL);
  if (piece == NULL) return FC_ERR;
  piece->ptr = ptr;
  piece->block = block;
  if (block != NULL) block->users++;
  return FC_OK;
}

/* A copy is never split: one that is larger than a block gets a larger block. */
static int copy_to_block(fc_out *out, const char *ptr, size_t len) {
  struct fc_block *block = out->block;
  if (block == NULL || len > block->size - block->used) {
    block = new_block(len > BLOCK_BYTES ? len : BLOCK_BYTES);
    if (block == NULL) return FC_ERR;
  }
  char *to = block->bytes + block->used;
  if (append_copied(out, to, len, block) < 0) {
    if (block != out->block) leave_block(block);
    return FC_ERR;
  }
  memcpy(to, ptr, len);
  block->used += len;
  if (block != out->block) {
    leave_block(out->block);
    out->block = block;
  }
  return FC_OK;
}

int fc_out_copy(fc_out *out, const char *ptr, size_t len) {
  if (len == 0) return FC_OK;
  if (FC_UNLIKELY(out->block != NULL || len > FC_OUT_AREA - out->area_used))
    return copy_to_block(out, ptr, len);
  char *to = out->area + out->area_used;
  if (append_copied(out, to, len, NULL) < 0) return FC_ERR;
  memcpy(to, ptr, len);
  out->area_used += (uint32_t)len;
  return FC_OK;
}

int fc_out_refer(fc_out *out, const char *ptr, size_t len, void *owner) {
  if (len == 0 && owner == NULL) return FC_OK;
  fc_piece *piece = append(out, len, owner);
  if (piece == NULL) return FC_ERR;
  piece->ptr = len > 0 ? ptr : NULL;
  return FC_OK;
}

int fc_out_file(fc_out *out, int file_fd, int64_t offset, size_t len, void *owner) {
  if (len == 0 && owner == NULL) return FC_OK;
  fc_piece *piece = append(out, len, owner);
  if (piece == NULL) return FC_ERR;
  piece->ptr = NULL;
  piece->offset = offset;
  piece->file_fd = file_fd;
  return FC_OK;
}

/* Takes the first piece out of the queue. */
static void finish_first(fc_out *out) {
  const fc_piece *piece = &out->pieces[out->first++];
  if (piece->owner != NULL) out->finished[out->n_finished++] = piece->owner;
  leave_block(piece->block);
}

/* The first n bytes, none of them a file's, are with the kernel. */
static void took(fc_out *out, size_t n) {
  out->bytes -= n;
  while (!fc_out_is_empty(out) && n >= out->pieces[out->first].len) {
    n -= out->pieces[out->first].len;
    finish_first(out);
  }
  if (n == 0) return;
  out->pieces[out->first].ptr += n;
  out->pieces[out->first].len -= n;
}

/* An empty queue begins again at the start of everything. */
static void start_over(fc_out *out) {
  out->first = out->last = 0;
  out->area_used = 0;
  leave_block(out->block);
  out->block = NULL;
}

static int is_file(const fc_piece *piece) { return piece->ptr == NULL; }

/* What a failed call means; 1: do it again. */
static int failed(void) {
  if (errno == EINTR) return 1;
  return errno == EAGAIN ? FC_AGAIN : FC_ERR;
}

/* A segment that is not full waits for what follows it; never when nothing
 * does, for then the kernel would hold it back for 200 ms. */
static int send_flags(const fc_out *out, size_t sending) {
  return MSG_NOSIGNAL | (out->bytes > sending ? MSG_MORE : 0);
}

/* Of each of the following: FC_OK when all that was tried is sent.  A count
 * that falls short says that the socket is full: asking again would only cost
 * a call. */
static int conclude(fc_out *out, size_t sending, size_t sent) {
  took(out, sent);
  return sent < sending ? FC_AGAIN : FC_OK;
}

static int send_one(fc_out *out, int socket_fd, size_t most) {
  const fc_piece *piece = &out->pieces[out->first];
  size_t sending = piece->len < most ? piece->len : most;
  for (;;) {
    ssize_t sent = send(socket_fd, piece->ptr, sending, send_flags(out, sending));
    if (FC_LIKELY(sent >= 0)) return conclude(out, sending, (size_t)sent);
    int result = failed();
    if (result < 0) return result;
  }
}

/* Puts the memory pieces at the front, up to `most` bytes, into a message of
 * RUNS_MAX runs; returns the bytes. */
static size_t gather(const fc_out *out, size_t most, struct msghdr *message) {
  size_t bytes = 0;
  for (uint32_t i = out->first; i != out->last && bytes < most; i++) {
    const fc_piece *piece = &out->pieces[i];
    if (is_file(piece) || message->msg_iovlen == RUNS_MAX) break;
    struct iovec *run = &message->msg_iov[message->msg_iovlen++];
    /* iovec has no const of its own; the kernel only reads. */
    run->iov_base = (void *)(uintptr_t)piece->ptr;
    run->iov_len = piece->len < most - bytes ? piece->len : most - bytes;
    bytes += run->iov_len;
  }
  return bytes;
}

static int send_many(fc_out *out, int socket_fd, size_t most) {
  struct iovec runs[RUNS_MAX];
  struct msghdr message = {.msg_iov = runs};
  size_t sending = gather(out, most, &message);
  for (;;) {
    ssize_t sent = sendmsg(socket_fd, &message, send_flags(out, sending));
    if (sent >= 0) return conclude(out, sending, (size_t)sent);
    int result = failed();
    if (result < 0) return result;
  }
}

/* sendfile has no MSG_NOSIGNAL, and the application may have given SIGPIPE its
 * deadly default back.  The kernel sends the signal to this very thread, so it
 * is blocked here and swallowed if it came. */
static ssize_t sendfile_quietly(int socket_fd, int file_fd, off_t offset, size_t len) {
  const struct timespec at_once = {0, 0};
  sigset_t sigpipe, before;
  sigemptyset(&sigpipe);
  sigaddset(&sigpipe, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &sigpipe, &before);
  ssize_t sent = sendfile(socket_fd, file_fd, &offset, len);
  int saved = errno;
  if (sent < 0 && saved == EPIPE && !sigismember(&before, SIGPIPE))
    sigtimedwait(&sigpipe, NULL, &at_once);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  errno = saved;
  return sent;
}

/* Sends of the file range at the front; a count that falls short may be the
 * file's end as well as a full socket, so the next call has to tell. */
static int send_file(fc_out *out, int socket_fd, size_t most) {
  fc_piece *piece = &out->pieces[out->first];
  if (piece->len == 0) {
    finish_first(out);
    return FC_OK;
  }
  size_t sending = piece->len < most ? piece->len : most;
  ssize_t sent = sendfile_quietly(socket_fd, piece->file_fd, (off_t)piece->offset, sending);
  if (sent < 0) {
    int result = failed();
    return result < 0 ? result : FC_OK;
  }
  if (sent == 0) {
    errno = ENODATA;
    return FC_ERR;
  }
  piece->offset += sent;
  piece->len -= (size_t)sent;
  out->bytes -= (size_t)sent;
  if (piece->len == 0) finish_first(out);
  return FC_OK;
}

static int send_next(fc_out *out, int socket_fd, size_t most) {
  const fc_piece *piece = &out->pieces[out->first];
  if (is_file(piece)) return send_file(out, socket_fd, most);
  if (out->last - out->first == 1 || is_file(piece + 1)) return send_one(out, socket_fd, most);
  return send_many(out, socket_fd, most);
}

int fc_out_flush(fc_out *out, int socket_fd) {
  size_t most = FC_OUT_FLUSH_MAX;
  while (!fc_out_is_empty(out)) {
    size_t before = out->bytes;
    if (most == 0) return FC_AGAIN;
    int result = send_next(out, socket_fd, most);
    if (result < 0) return result;
    most -= before - out->bytes;
  }
  start_over(out);
  return FC_OK;
}

void fc_out_abandon(fc_out *out) {
  while (!fc_out_is_empty(out)) finish_first(out);
  out->bytes = 0;
  start_over(out);
}

void *fc_out_finished(fc_out *out) {
  return out->n_finished > 0 ? out->finished[--out->n_finished] : NULL;
}
