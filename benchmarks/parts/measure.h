/* measure.h: what one call of a part costs, in nanoseconds.
 *
 * MEASURE runs a statement until a sample has lasted long enough, takes the
 * shortest of several samples, since whatever disturbs only ever adds, and
 * prints one line: the name, a tab, the nanoseconds.  Time alone says little on
 * a shared machine; the counts of `perf stat` or callgrind over these programs
 * do not move. */
#ifndef FC_MEASURE_H
#define FC_MEASURE_H

#include <stdint.h>
#include <stdio.h>
#include <time.h>

enum { MEASURE_SAMPLES = 7 };
static const double MEASURE_SAMPLE_NS = 5e6;

static inline double measure_now_ns(void) {
  struct timespec now;
  timespec_get(&now, TIME_UTC); /* C11's own; the shortest sample forgives a step */
  return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* Keeps the compiler from leaving out what nobody reads. */
#define KEEP(value) __asm__ volatile("" : : "g"(value) : "memory")

#define MEASURE(name, statement)                      \
  do {                                                \
    double best_ns = 1e18;                            \
    uint64_t calls = 1;                               \
    for (int sample = 0; sample < MEASURE_SAMPLES;) { \
      double begin_ns = measure_now_ns();             \
      for (uint64_t call = 0; call < calls; call++) { \
        statement;                                    \
      }                                               \
      double took_ns = measure_now_ns() - begin_ns;   \
      if (took_ns < MEASURE_SAMPLE_NS) {              \
        calls *= 2;                                   \
        continue;                                     \
      }                                               \
      double each_ns = took_ns / (double)calls;       \
      if (each_ns < best_ns) best_ns = each_ns;       \
      sample++;                                       \
    }                                                 \
    printf("%s\t%.2f\n", name, best_ns);              \
  } while (0)

#endif
