/* buf.h: a growable run of bytes.
 *
 * Zero-initialised means empty and owning nothing.  Growth at least doubles,
 * so appending is amortised constant time.  Pointers into it die at the next
 * call that may grow it. */
#ifndef FC_BUF_H
#define FC_BUF_H

#include "fc.h"

typedef struct fc_buf {
  char *ptr;
  size_t len;
  size_t cap;
} fc_buf;

/* What fc_buf_reserve does when there is no room. */
int fc_buf_grow(fc_buf *buf, size_t more);

/* Makes room for `more` bytes after len.  FC_ERR with ENOMEM; the bytes that
 * are there stay. */
static inline int fc_buf_reserve(fc_buf *buf, size_t more) {
  return FC_LIKELY(buf->cap - buf->len >= more) ? FC_OK : fc_buf_grow(buf, more);
}

/* Copies len bytes to the end; they must not be the buffer's own.  FC_ERR with
 * ENOMEM, and then nothing was appended. */
int fc_buf_append(fc_buf *buf, const void *bytes, size_t len);
/* Removes the first n bytes (n <= len); keeps the memory. */
void fc_buf_consume(fc_buf *buf, size_t n);
/* Gives the memory back. */
void fc_buf_free(fc_buf *buf);

#endif
