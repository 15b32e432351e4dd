/* board.h: the scoreboard: one slot per worker, in memory shared by the primary
 * and all workers.
 *
 * A slot is a cache line of counters and, far enough from it that the siblings'
 * looks at the counters do not meet it, a note of the request begun last.  The
 * slot survives its worker, so a worker that was killed can still be asked what
 * it was doing.  Each worker writes its own slot with relaxed stores; everybody may read all
 * of them.  `connections` alone is written by others too: whoever hands a
 * connection over counts it at the receiver, so that counts move with the
 * descriptor.  The memory is made by the primary before it forks (mmap,
 * MAP_SHARED | MAP_ANONYMOUS) and freed by nobody.  It knows no sockets.
 *
 * What a slot has counted in all is its tally, which no successor starts anew:
 * the sum over all slots never goes back. */
#ifndef FC_BOARD_H
#define FC_BOARD_H

#include <stdatomic.h>
#include <string.h>

#include "fc.h"

enum {
  FC_SLOT_EMPTY = 0,
  FC_SLOT_BOOTING = 1,
  FC_SLOT_READY = 2,
  FC_SLOT_DRAINING = 3,
};

#define FC_NOTE_PEER_BYTES 20
#define FC_NOTE_TEXT_BYTES 96

/* The request that a worker has begun last.  A reader in another process may
 * see it half written; that costs a word in a log and nothing else, so the
 * writer pays for no lock. */
typedef struct fc_note {
  _Atomic int64_t since_ms;         /* monotonic, at the turn that began it */
  _Atomic uint32_t len;             /* of text; 0: none yet */
  uint8_t peer[FC_NOTE_PEER_BYTES]; /* an fc_peer */
  char text[FC_NOTE_TEXT_BYTES];    /* method and target as they came, cut off */
} fc_note;

/* Latencies are counted in buckets that grow with them: 16 for each power of
 * two, so a bucket's middle is within 1/32 of whatever fell into it, from 1 us
 * (16 units of 64 ns) to 18 minutes; what lasts longer is in the last one. */
#define FC_LATENCY_UNIT_BITS 6
#define FC_LATENCY_SUB_BITS 4
#define FC_LATENCY_BUCKETS 496

/* Of all workers that the slot has had; one writer at a time, as they live one
 * after the other. */
typedef struct fc_tally {
  _Atomic uint64_t requests; /* these three: of the workers before this one */
  _Atomic uint64_t accepted;
  _Atomic uint64_t handed_over;
  _Atomic uint64_t bytes_in; /* read from connections, and written to them */
  _Atomic uint64_t bytes_out;
  _Atomic uint64_t statuses[5]; /* responses of 1xx, 2xx … 5xx, whatever is beyond in the last */
  _Atomic uint64_t errors;      /* the application failed */
  _Atomic uint64_t lost;        /* the client was gone before its response was whole */
  _Atomic uint64_t refused;     /* no application saw them: malformed, too large, too late */
  _Atomic uint64_t latency_ns;  /* from the turn that read the request to the response's end */
  _Atomic uint64_t queue_ns;    /* the part of it before the application had the request;
                                 * the rest is the handler's */
  _Atomic uint64_t busy_ns;     /* turns, without their waits */
  _Atomic uint64_t latency[FC_LATENCY_BUCKETS];
} fc_tally;

typedef struct fc_slot {
  _Alignas(2 * FC_CACHE_LINE) _Atomic int32_t state; /* FC_SLOT_… */
  _Atomic int32_t pid;
  _Atomic uint32_t generation;  /* grows with every worker in this slot */
  _Atomic int32_t waiting;      /* 1 while its poll would take more work at once */
  _Atomic int32_t connections;  /* held, or on the way to its inbox */
  _Atomic int32_t running;      /* exchanges the application is working on */
  _Atomic int64_t heartbeat_ms; /* monotonic, at the last turn */
  _Atomic uint64_t accepted;
  _Atomic uint64_t handed_over;
  _Atomic uint64_t requests;
  /* What is written seldom is on a line of its own, beside the counters. */
  _Alignas(FC_CACHE_LINE) _Atomic int32_t limit; /* the most connections it may hold */
  _Atomic int32_t drops;                         /* 1: above the limit it closes what it is given */
  _Atomic uint32_t taken; /* parcels of this generation that left its inbox */
  /* Processors fetch lines in pairs, so not in the next one. */
  _Alignas(2 * FC_CACHE_LINE) fc_note note;
  _Alignas(2 * FC_CACHE_LINE) _Atomic uint64_t stall_ns; /* the longest turn */
  fc_tally tally;
} fc_slot;

typedef struct fc_board {
  uint32_t slots;
  _Atomic uint32_t used;  /* no slot from here on was ever taken */
  _Atomic int32_t wanted; /* somebody sleeps until a worker can take one more */
  fc_slot slot[];
} fc_board;

#define FC_BOARD_SLOTS_MAX 65536
#define FC_SLOT_NO_LIMIT INT32_MAX

/* Shared memory for `slots` (1..FC_BOARD_SLOTS_MAX) workers, all EMPTY; NULL
 * with errno. */
fc_board *fc_board_create(uint32_t slots);
/* The same in a file of fc_board_bytes(slots) zero bytes at least, for processes
 * that come by the board later than by a fork. */
fc_board *fc_board_open(uint32_t slots, int fd);
size_t fc_board_bytes(uint32_t slots);
void fc_board_destroy(fc_board *board);

/* Takes a slot for a new worker: generation + 1, counters 0 (the tally keeps what
 * they were), no note, no limit, BOOTING.  Called by the primary before the fork.  Returns the
 * generation, which is never 0; 0 for a slot that the board does not have. */
uint32_t fc_board_take(fc_board *board, uint32_t index, int64_t now_ms);

/* The READY slot other than `self` that waits in its poll and holds the fewest
 * connections, provided it holds at most `most` and is below its limit; -1 if there is none.  Ties
 * go to the first one after `self`, so that no slot is favoured.  A `self` that the board does not
 * have leaves nobody out. */
int fc_board_least(const fc_board *board, uint32_t self, int32_t most);

/* The shortest latency, in ns, that falls into a bucket; for FC_LATENCY_BUCKETS
 * the end of the last one. */
uint64_t fc_latency_floor(uint32_t bucket);

/* The bucket of a latency: constant time, some ten instructions. */
static inline uint32_t fc_latency_bucket(uint64_t ns) {
  uint64_t units = ns >> FC_LATENCY_UNIT_BITS;
  if (units < 1 << FC_LATENCY_SUB_BITS) return (uint32_t)units;
  uint32_t shift = 63 - (uint32_t)__builtin_clzll(units) - FC_LATENCY_SUB_BITS;
  uint32_t bucket = (shift << FC_LATENCY_SUB_BITS) + (uint32_t)(units >> shift);
  return bucket < FC_LATENCY_BUCKETS ? bucket : FC_LATENCY_BUCKETS - 1;
}

/* The hot path's counters.  Relaxed: one writer, and readers that only look. */
static inline void fc_count(_Atomic uint64_t *counter, uint64_t more) {
  atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + more,
                        memory_order_relaxed);
}
static inline void fc_slot_served(fc_slot *slot) { fc_count(&slot->requests, 1); }
static inline void fc_slot_status(fc_slot *slot, int status) {
  uint32_t class = (uint32_t)status / 100 - 1;
  fc_count(&slot->tally.statuses[class < 5 ? class : 4], 1);
}
/* From one moment to a later one.  Whoever refreshes the loop's clock within a turn
 * may make it the earlier one by a little: that is 0. */
static inline uint64_t fc_span_ns(int64_t from_ns, int64_t to_ns) {
  return to_ns > from_ns ? (uint64_t)(to_ns - from_ns) : 0;
}
/* A response has ended: its request was there at `noticed_ns` and waited for
 * `queued_ns` before the application had it. */
static inline void fc_slot_answered(fc_slot *slot, int status, int64_t noticed_ns,
                                    uint64_t queued_ns, int64_t now_ns) {
  uint64_t latency = fc_span_ns(noticed_ns, now_ns);
  fc_slot_status(slot, status);
  fc_count(&slot->tally.latency_ns, latency);
  fc_count(&slot->tally.queue_ns, queued_ns);
  fc_count(&slot->tally.latency[fc_latency_bucket(latency)], 1);
}
/* A turn that began at `began_ns` has gone on from `since_ns` until now. */
static inline void fc_slot_worked(fc_slot *slot, int64_t began_ns, int64_t since_ns,
                                  int64_t now_ns) {
  fc_count(&slot->tally.busy_ns, (uint64_t)(now_ns - since_ns));
  uint64_t whole = (uint64_t)(now_ns - began_ns);
  if (whole > atomic_load_explicit(&slot->stall_ns, memory_order_relaxed)) {
    atomic_store_explicit(&slot->stall_ns, whole, memory_order_relaxed);
  }
}
static inline void fc_slot_run(fc_slot *slot, int32_t more) {
  atomic_store_explicit(&slot->running,
                        atomic_load_explicit(&slot->running, memory_order_relaxed) + more,
                        memory_order_relaxed);
}
/* Keeps the line [line, line + len) of the request that begins now, and its
 * client, `peer` of FC_NOTE_PEER_BYTES. */
static inline void fc_slot_note(fc_slot *slot, const char *line, size_t len, const void *peer,
                                int64_t now_ms) {
  fc_note *note = &slot->note;
  size_t kept = len < FC_NOTE_TEXT_BYTES ? len : FC_NOTE_TEXT_BYTES;
  atomic_store_explicit(&note->since_ms, now_ms, memory_order_relaxed);
  memcpy(note->peer, peer, FC_NOTE_PEER_BYTES);
  memcpy(note->text, line, kept);
  atomic_store_explicit(&note->len, (uint32_t)kept, memory_order_relaxed);
}
static inline void fc_slot_beat(fc_slot *slot, int32_t waiting, int64_t now_ms) {
  atomic_store_explicit(&slot->heartbeat_ms, now_ms, memory_order_relaxed);
  atomic_store_explicit(&slot->waiting, waiting, memory_order_relaxed);
}
/* Several processes add to this one. */
static inline void fc_slot_hold(fc_slot *slot, int32_t more) {
  atomic_fetch_add_explicit(&slot->connections, more, memory_order_relaxed);
}
/* Counts one more connection, provided the slot is below its limit; returns
 * whether it was. */
static inline int fc_slot_reserve(fc_slot *slot) {
  int32_t held = atomic_load_explicit(&slot->connections, memory_order_relaxed);
  while (held < atomic_load_explicit(&slot->limit, memory_order_relaxed)) {
    if (atomic_compare_exchange_weak_explicit(&slot->connections, &held, held + 1,
                                              memory_order_relaxed, memory_order_relaxed)) {
      return 1;
    }
  }
  return 0;
}

/* Who finds no worker that can take one more asks to be told, looks once again,
 * and sleeps. */
static inline void fc_board_want(fc_board *board) {
  atomic_store(&board->wanted, 1);
  atomic_thread_fence(memory_order_seq_cst);
}
/* Called after a worker has come to be able to: whether somebody is to be told. */
static inline int fc_board_is_wanted(fc_board *board) {
  atomic_thread_fence(memory_order_seq_cst);
  return atomic_load_explicit(&board->wanted, memory_order_relaxed) &&
         atomic_exchange(&board->wanted, 0);
}

#endif
