/* fc.h: the words that every file of csrc shares: result codes and spans.
 *
 * A function that can fail returns an int: FC_OK or a count when it worked,
 * FC_AGAIN when the kernel has nothing for us now, FC_EOF when the peer has
 * sent its last byte, FC_ERR otherwise.  errno is valid after FC_ERR and at no
 * other time.  Nothing here allocates, and nothing here knows HTTP. */
#ifndef FC_H
#define FC_H

#include <stddef.h>
#include <stdint.h>

enum {
  FC_OK = 0,
  FC_ERR = -1,
  FC_AGAIN = -2,
  FC_EOF = -3,
};

/* Bytes that somebody else owns.  Every span says where it came from in the
 * comment of the function that hands it out, and is dead when that says so. */
typedef struct fc_span {
  const char *ptr;
  size_t len;
} fc_span;

#if defined(__GNUC__)
#define FC_LIKELY(x) __builtin_expect(!!(x), 1)
#define FC_UNLIKELY(x) __builtin_expect(!!(x), 0)
#else
#define FC_LIKELY(x) (x)
#define FC_UNLIKELY(x) (x)
#endif

/* One cache line: what two processes write must not share it. */
#define FC_CACHE_LINE 64

#endif
