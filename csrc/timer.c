/* timer.c: the wheel behind timer.h.
 *
 * Tick k begins when the clock reads k * FC_WHEEL_TICK_MS, and the slot of tick
 * k is looked at then; a deadline is filed at the first tick that begins when
 * it has passed.  All nodes are filed at ticks in [tick, tick + SLOTS), so no
 * slot mixes two rounds of the wheel, and what lies beyond is filed at the last
 * of them and filed again from there.  When time passes, whole slots move to
 * the due list, and only then is each node looked at: a jump of hours costs one
 * look a node. */
#include "timer.h"

enum { SLOT_MASK = FC_WHEEL_SLOTS - 1, WORD_BITS = 64, WORDS = FC_WHEEL_SLOTS / WORD_BITS };

static void list_clear(fc_deadline *head) { head->next = head->prev = head; }

static int list_is_empty(const fc_deadline *head) { return head->next == head; }

static void list_append(fc_deadline *head, fc_deadline *node) {
  node->prev = head->prev;
  node->next = head;
  head->prev->next = node;
  head->prev = node;
}

/* Moves all of `from`, which is not empty, to the end of `to`. */
static void list_move_all(fc_deadline *to, fc_deadline *from) {
  from->next->prev = to->prev;
  to->prev->next = from->next;
  from->prev->next = to;
  to->prev = from->prev;
  list_clear(from);
}

/* The last tick that has begun at the moment. */
static int64_t tick_begun(int64_t ms) { return ms <= 0 ? 0 : ms / FC_WHEEL_TICK_MS; }

/* The first tick that begins at the moment or later. */
static int64_t tick_after(int64_t ms) {
  return ms <= 0 ? 0 : ms / FC_WHEEL_TICK_MS + (ms % FC_WHEEL_TICK_MS != 0);
}

static void mark(fc_wheel *wheel, size_t slot) {
  wheel->occupied[slot / WORD_BITS] |= UINT64_C(1) << slot % WORD_BITS;
}

static void unmark(fc_wheel *wheel, size_t slot) {
  wheel->occupied[slot / WORD_BITS] &= ~(UINT64_C(1) << slot % WORD_BITS);
}

/* How many ticks after wheel->tick the first occupied slot comes; -1: none. */
static int64_t first_occupied(const fc_wheel *wheel) {
  size_t start = (size_t)wheel->tick & SLOT_MASK;
  /* The word of `start` is looked at twice: first only from there on, and at
   * last whole, when what is left in it is the end of the round. */
  for (size_t i = 0; i <= WORDS; i++) {
    size_t word = (start / WORD_BITS + i) % WORDS;
    uint64_t bits = wheel->occupied[word];
    if (i == 0) bits &= ~UINT64_C(0) << start % WORD_BITS;
    if (bits == 0) continue;
    size_t slot = word * WORD_BITS + (size_t)__builtin_ctzll(bits);
    return (int64_t)((slot - start) & SLOT_MASK);
  }
  return -1;
}

static void attach(fc_wheel *wheel, fc_deadline *node) {
  int64_t last = wheel->tick + FC_WHEEL_SLOTS - 1;
  int64_t tick = tick_after(node->at_ms);
  if (tick < wheel->tick) tick = wheel->tick;
  if (tick > last) tick = last;
  size_t slot = (size_t)tick & SLOT_MASK;
  /* All moments after the tick before are filed at this tick or a later one. */
  node->filed_ms = (tick - 1) * FC_WHEEL_TICK_MS;
  list_append(&wheel->slots[slot], node);
  mark(wheel, slot);
}

static void detach(fc_wheel *wheel, fc_deadline *node) {
  fc_deadline *after = node->next;
  int was_alone = after == node->prev;
  node->prev->next = after;
  after->prev = node->prev;
  node->next = node->prev = NULL;
  /* What is on both sides of a node that was alone is the list's head. */
  if (was_alone && after != &wheel->due) unmark(wheel, (size_t)(after - wheel->slots));
}

void fc_wheel_init(fc_wheel *wheel, int64_t now_ms) {
  for (size_t slot = 0; slot < FC_WHEEL_SLOTS; slot++) list_clear(&wheel->slots[slot]);
  for (size_t word = 0; word < WORDS; word++) wheel->occupied[word] = 0;
  list_clear(&wheel->due);
  wheel->tick = tick_begun(now_ms);
  wheel->count = 0;
}

void fc_wheel_file(fc_wheel *wheel, fc_deadline *node, int64_t at_ms) {
  if (fc_deadline_is_set(node)) {
    detach(wheel, node);
  } else {
    wheel->count++;
  }
  node->at_ms = at_ms;
  attach(wheel, node);
}

void fc_wheel_clear(fc_wheel *wheel, fc_deadline *node) {
  if (!fc_deadline_is_set(node)) return;
  detach(wheel, node);
  wheel->count--;
}

/* Moves the slots of all ticks that have begun to the due list. */
static void sweep(fc_wheel *wheel, int64_t now_ms) {
  int64_t begun = tick_begun(now_ms);
  if (begun < wheel->tick) return;
  for (;;) {
    int64_t ahead = first_occupied(wheel);
    if (ahead < 0 || wheel->tick + ahead > begun) break;
    size_t slot = (size_t)(wheel->tick + ahead) & SLOT_MASK;
    list_move_all(&wheel->due, &wheel->slots[slot]);
    unmark(wheel, slot);
  }
  wheel->tick = begun + 1;
}

fc_deadline *fc_wheel_expired(fc_wheel *wheel, int64_t now_ms) {
  sweep(wheel, now_ms);
  while (!list_is_empty(&wheel->due)) {
    fc_deadline *node = wheel->due.next;
    detach(wheel, node);
    if (node->at_ms <= now_ms) {
      wheel->count--;
      return node;
    }
    attach(wheel, node);
  }
  return NULL;
}

int64_t fc_wheel_wait_ms(const fc_wheel *wheel, int64_t now_ms) {
  if (wheel->count == 0) return -1;
  if (!list_is_empty(&wheel->due)) return 0;
  int64_t at_ms = (wheel->tick + first_occupied(wheel)) * FC_WHEEL_TICK_MS;
  return at_ms > now_ms ? at_ms - now_ms : 0;
}
