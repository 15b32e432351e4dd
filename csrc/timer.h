/* timer.h: deadlines, one per connection, in constant time.
 *
 * A wheel of FC_WHEEL_SLOTS slots of FC_WHEEL_TICK_MS each.  Moving a deadline
 * later, which every served request does, is one store: the node stays in its
 * slot and is moved when that slot comes up.  A deadline may therefore be
 * reported up to one tick late, and never early.  The caller brings the time
 * (not negative); the wheel reads no clock.  A wheel holds pointers to itself
 * and must not move in memory. */
#ifndef FC_TIMER_H
#define FC_TIMER_H

#include "fc.h"

#define FC_WHEEL_SLOTS 1024
#define FC_WHEEL_TICK_MS 64

/* Embedded in its owner.  Zero-initialised means "not set". */
typedef struct fc_deadline {
  struct fc_deadline *next; /* both NULL while not in the wheel */
  struct fc_deadline *prev;
  int64_t at_ms;    /* the moment, on the caller's monotonic clock */
  int64_t filed_ms; /* every moment after this one may be stored without a move */
  void *owner;      /* what expired; the wheel never looks */
} fc_deadline;

typedef struct fc_wheel {
  fc_deadline slots[FC_WHEEL_SLOTS]; /* list heads */
  fc_deadline due;                   /* the nodes of the slots whose time has come */
  uint64_t occupied[FC_WHEEL_SLOTS / 64];
  int64_t tick; /* every slot before this tick has been swept */
  size_t count; /* nodes in the wheel */
} fc_wheel;

void fc_wheel_init(fc_wheel *wheel, int64_t now_ms);

/* What fc_wheel_set does when a store is not enough. */
void fc_wheel_file(fc_wheel *wheel, fc_deadline *node, int64_t at_ms);

/* Sets or moves a deadline.  Constant time; moving it later, or to any moment
 * that its slot does not come too late for, is a store. */
static inline void fc_wheel_set(fc_wheel *wheel, fc_deadline *node, int64_t at_ms) {
  if (FC_LIKELY(node->next != NULL && at_ms > node->filed_ms)) {
    node->at_ms = at_ms;
    return;
  }
  fc_wheel_file(wheel, node, at_ms);
}

/* Forgets a deadline; harmless when it is not set. */
void fc_wheel_clear(fc_wheel *wheel, fc_deadline *node);

/* Takes the next expired deadline out of the wheel and returns it, or NULL
 * when none is due at now_ms.  Call until NULL.  Between two calls any deadline
 * may be set or cleared; one that is set again, be it to a moment that has
 * passed, is reported at a later tick, so the calls come to an end. */
fc_deadline *fc_wheel_expired(fc_wheel *wheel, int64_t now_ms);

/* Milliseconds from now_ms until the wheel wants to be swept, 0 if it does
 * now, -1 if it is empty.  May be early (a lazily moved node, or one beyond
 * the last slot), never late by more than one tick. */
int64_t fc_wheel_wait_ms(const fc_wheel *wheel, int64_t now_ms);

static inline int fc_deadline_is_set(const fc_deadline *node) { return node->next != NULL; }

#endif
