/* buf.c: the growable run of bytes behind buf.h. */
#include "buf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SMALLEST = 256 };

int fc_buf_grow(fc_buf *buf, size_t more) {
  /* No object is larger than PTRDIFF_MAX, which also keeps every sum and
   * every doubling below from wrapping. */
  if (more > (size_t)PTRDIFF_MAX - buf->len) {
    errno = ENOMEM;
    return FC_ERR;
  }
  size_t cap = buf->cap < SMALLEST / 2 ? SMALLEST : buf->cap * 2;
  if (cap > (size_t)PTRDIFF_MAX) cap = (size_t)PTRDIFF_MAX;
  if (cap < buf->len + more) cap = buf->len + more;
  char *ptr = realloc(buf->ptr, cap);
  if (ptr == NULL) {
    errno = ENOMEM;
    return FC_ERR;
  }
  buf->ptr = ptr;
  buf->cap = cap;
  return FC_OK;
}

int fc_buf_append(fc_buf *buf, const void *bytes, size_t len) {
  if (len == 0) return FC_OK;
  if (fc_buf_reserve(buf, len) < 0) return FC_ERR;
  memcpy(buf->ptr + buf->len, bytes, len);
  buf->len += len;
  return FC_OK;
}

void fc_buf_consume(fc_buf *buf, size_t n) {
  buf->len -= n;
  if (n > 0 && buf->len > 0) memmove(buf->ptr, buf->ptr + n, buf->len);
}

void fc_buf_free(fc_buf *buf) {
  free(buf->ptr);
  memset(buf, 0, sizeof *buf);
}
