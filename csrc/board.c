/* board.c: the scoreboard behind board.h. */
#define _GNU_SOURCE
#include "board.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

_Static_assert(offsetof(fc_slot, note) == 2 * FC_CACHE_LINE,
               "the counters are alone in their pair");
_Static_assert(offsetof(fc_slot, requests) + sizeof(uint64_t) <= FC_CACHE_LINE,
               "the counters are one cache line");
_Static_assert(offsetof(fc_slot, limit) == FC_CACHE_LINE, "nobody writes beside the counters");
_Static_assert(offsetof(fc_slot, stall_ns) == 4 * FC_CACHE_LINE, "a note is one pair of lines");
_Static_assert(sizeof(fc_slot) % (2 * FC_CACHE_LINE) == 0, "slots meet in no pair of lines");

size_t fc_board_bytes(uint32_t slots) { return sizeof(fc_board) + slots * sizeof(fc_slot); }

static fc_board *map(uint32_t slots, int flags, int fd) {
  if (slots == 0 || slots > FC_BOARD_SLOTS_MAX) {
    errno = EINVAL;
    return NULL;
  }
  /* Fresh pages are zero, which is EMPTY, and aligned for the slots. */
  void *memory =
      mmap(NULL, fc_board_bytes(slots), PROT_READ | PROT_WRITE, MAP_SHARED | flags, fd, 0);
  if (memory == MAP_FAILED) return NULL;
  fc_board *board = memory;
  board->slots = slots;
  return board;
}

fc_board *fc_board_create(uint32_t slots) { return map(slots, MAP_ANONYMOUS, -1); }

fc_board *fc_board_open(uint32_t slots, int fd) { return map(slots, 0, fd); }

void fc_board_destroy(fc_board *board) {
  if (board != NULL) munmap(board, fc_board_bytes(board->slots));
}

uint64_t fc_latency_floor(uint32_t bucket) {
  uint32_t octave = bucket >> FC_LATENCY_SUB_BITS;
  if (octave == 0) return (uint64_t)bucket << FC_LATENCY_UNIT_BITS;
  uint64_t sub = (bucket & ((1 << FC_LATENCY_SUB_BITS) - 1)) + (1 << FC_LATENCY_SUB_BITS);
  return sub << (octave - 1) << FC_LATENCY_UNIT_BITS;
}

uint32_t fc_board_take(fc_board *board, uint32_t index, int64_t now_ms) {
  if (index >= board->slots) return 0;
  fc_slot *slot = &board->slot[index];
  /* First, so that nobody hands the dead worker's successor a connection that
   * the next lines would forget. */
  atomic_store(&slot->state, FC_SLOT_BOOTING);
  atomic_store(&slot->pid, 0);
  atomic_store(&slot->waiting, 0);
  atomic_store(&slot->connections, 0);
  atomic_store(&slot->running, 0);
  atomic_store(&slot->heartbeat_ms, now_ms);
  atomic_store(&slot->limit, FC_SLOT_NO_LIMIT);
  atomic_store(&slot->drops, 0);
  atomic_store(&slot->taken, 0);
  fc_count(&slot->tally.requests, atomic_exchange(&slot->requests, 0));
  fc_count(&slot->tally.accepted, atomic_exchange(&slot->accepted, 0));
  fc_count(&slot->tally.handed_over, atomic_exchange(&slot->handed_over, 0));
  atomic_store(&slot->stall_ns, 0);
  atomic_store(&slot->note.len, 0);
  if (atomic_load(&board->used) <= index) atomic_store(&board->used, index + 1);
  uint32_t generation = atomic_load(&slot->generation) + 1;
  if (generation == 0) generation = 1; /* 0 means that nobody was ever here */
  atomic_store(&slot->generation, generation);
  return generation;
}

/* What the slot holds if it could take one more at once, else INT32_MAX. */
static int32_t held_by(const fc_slot *slot) {
  if (atomic_load_explicit(&slot->state, memory_order_relaxed) != FC_SLOT_READY) return INT32_MAX;
  if (!atomic_load_explicit(&slot->waiting, memory_order_relaxed)) return INT32_MAX;
  int32_t held = atomic_load_explicit(&slot->connections, memory_order_relaxed);
  return held < atomic_load_explicit(&slot->limit, memory_order_relaxed) ? held : INT32_MAX;
}

int fc_board_least(const fc_board *board, uint32_t self, int32_t most) {
  int found = -1;
  int32_t fewest = INT32_MAX;
  uint32_t used = atomic_load_explicit(&board->used, memory_order_relaxed);
  uint32_t first = self < used ? self + 1 : 0;
  for (uint32_t i = 0; i < used; i++) {
    uint32_t index = first + i < used ? first + i : first + i - used;
    int32_t held = held_by(&board->slot[index]);
    if (index == self || held > most || held >= fewest) continue;
    fewest = held;
    found = (int)index;
  }
  return found;
}
