/* check.h: what every C test here stands on: CHECK, a summary, bytes that lie
 * flush against an unreadable page, and numbers that are random but the same
 * in every run.
 *
 * A test is a plain main() that ends with `return check_summary("stem")`.  It
 * knows nothing of what it tests. */
#ifndef FC_CHECK_H
#define FC_CHECK_H

#ifndef _GNU_SOURCE
#error "define _GNU_SOURCE before the first include: guarded() needs mmap"
#endif

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static unsigned long check_passed;
static unsigned long check_failed;

/* Counts one fact, says where it is wrong (the first 20 times), and goes on. */
#define CHECK(fact) check_fact((fact) ? 1 : 0, #fact, __FILE__, __LINE__)

static inline int check_fact(int holds, const char *fact, const char *file, int line) {
  if (holds) {
    check_passed++;
  } else if (++check_failed <= 20) {
    fprintf(stderr, "%s:%d: not true: %s\n", file, line, fact);
  }
  return holds;
}

/* Prints the totals; what main() returns.  A test that checked nothing failed. */
static inline int check_summary(const char *stem) {
  printf("%s: %lu passed, %lu failed\n", stem, check_passed, check_failed);
  return check_failed == 0 && check_passed > 0 ? 0 : 1;
}

#define GUARDED_ALIVE 16

/* Copies the bytes so that the one after the last lies in a page that nobody
 * may read; with bytes NULL they are zero.  The copy may be written to, and
 * lives until GUARDED_ALIVE further calls. */
static inline char *guarded(const void *bytes, size_t len) {
  static struct {
    char *map;
    size_t size;
  } alive[GUARDED_ALIVE];
  static size_t next;
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t readable = (len / page + 1) * page;
  size_t turn = next++ % GUARDED_ALIVE;
  if (alive[turn].map != NULL) munmap(alive[turn].map, alive[turn].size);
  void *map =
      mmap(NULL, readable + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED || mprotect((char *)map + readable, page, PROT_NONE) < 0) {
    perror("guarded");
    exit(2);
  }
  alive[turn].map = map;
  alive[turn].size = readable + page;
  char *copy = (char *)map + readable - len;
  if (bytes != NULL && len > 0) memcpy(copy, bytes, len);
  return copy;
}

/* Numbers in [0, below), from a seed of the caller's (xorshift64*). */
static inline uint64_t check_random(uint64_t *seed, uint64_t below) {
  *seed ^= *seed >> 12;
  *seed ^= *seed << 25;
  *seed ^= *seed >> 27;
  return (*seed * UINT64_C(2685821657736338717) >> 11) % below;
}

#endif
