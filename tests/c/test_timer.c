/* test_timer.c: the wheel's limits one by one, then against a model that looks
 * at every node.  Built with csrc/timer.c. */
#define _GNU_SOURCE
#include "timer.h"

#include "check.h"

#define TICK FC_WHEEL_TICK_MS
#define HORIZON ((int64_t)FC_WHEEL_SLOTS * FC_WHEEL_TICK_MS)
#define START_MS INT64_C(1000003) /* not at the beginning of a tick */

static fc_wheel wheel;

static void begin(int64_t now_ms) {
  memset(&wheel, 0x5a, sizeof wheel); /* init must not count on zeroes */
  fc_wheel_init(&wheel, now_ms);
}

static size_t drain(int64_t now_ms) {
  size_t n = 0;
  while (fc_wheel_expired(&wheel, now_ms) != NULL) n++;
  return n;
}

/* The first millisecond at which the node is reported when it is asked for in
 * every single one. */
static int64_t reported_at(const fc_deadline *node, int64_t from_ms, int64_t to_ms) {
  for (int64_t now = from_ms; now <= to_ms; now++) {
    if (fc_wheel_expired(&wheel, now) == node) return now;
  }
  return -1;
}

static void test_empty(void) {
  begin(START_MS);
  fc_deadline node = {0};
  CHECK(!fc_deadline_is_set(&node));
  CHECK(fc_wheel_wait_ms(&wheel, START_MS) == -1);
  CHECK(fc_wheel_expired(&wheel, START_MS) == NULL);
  CHECK(fc_wheel_expired(&wheel, START_MS + 100 * HORIZON) == NULL);
  fc_wheel_clear(&wheel, &node);
  CHECK(wheel.count == 0 && !fc_deadline_is_set(&node));
}

static void test_never_early_and_at_most_a_tick_late(void) {
  for (int64_t start = START_MS; start < START_MS + TICK; start += 7) {
    for (int64_t in = 0; in <= 3 * TICK; in++) {
      begin(start);
      drain(start);
      fc_deadline node = {0};
      fc_wheel_set(&wheel, &node, start + in);
      int64_t at = reported_at(&node, start, start + 5 * TICK);
      CHECK(at >= start + in && at <= start + in + TICK);
      CHECK(!fc_deadline_is_set(&node) && wheel.count == 0);
    }
  }
}

static void test_the_whole_horizon(void) {
  for (int64_t in = 0; in <= 3 * HORIZON; in += 4999) {
    begin(START_MS);
    fc_deadline node = {0};
    fc_wheel_set(&wheel, &node, START_MS + in);
    CHECK(in == 0 || fc_wheel_expired(&wheel, START_MS + in - 1) == NULL);
    CHECK(fc_wheel_expired(&wheel, START_MS + in + TICK) == &node);
  }
}

static void test_beside_the_horizon(void) {
  int64_t first_tick = START_MS / TICK;
  int64_t last_ms = (first_tick + FC_WHEEL_SLOTS - 1) * TICK;
  for (int64_t at = last_ms - 2 * TICK; at <= last_ms + 2 * TICK; at++) {
    begin(START_MS);
    fc_deadline node = {0};
    fc_wheel_set(&wheel, &node, at);
    CHECK(fc_wheel_wait_ms(&wheel, START_MS) <= at + TICK - START_MS);
    CHECK(reported_at(&node, at - TICK - 1, at - 1) == -1);
    int64_t reported = reported_at(&node, at, at + TICK);
    CHECK(reported >= at && reported <= at + TICK);
  }
}

/* Sleeps exactly as long as the wheel says. */
static size_t wakes_until(const fc_deadline *node, int64_t now) {
  size_t wakes = 0;
  for (;;) {
    int64_t wait = fc_wheel_wait_ms(&wheel, now);
    if (!CHECK(wait > 0)) return 0;
    now += wait;
    wakes++;
    fc_deadline *expired = fc_wheel_expired(&wheel, now);
    if (expired == NULL) continue;
    CHECK(expired == node && now >= node->at_ms && now <= node->at_ms + TICK);
    return wakes;
  }
}

static void test_far_deadlines_wake_rarely(void) {
  static const struct {
    int64_t in_ms;
    size_t wakes;
  } rows[] = {{1, 1}, {60000, 1}, {75000, 2}, {10 * HORIZON, 11}, {86400000, 1320}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    begin(START_MS);
    drain(START_MS);
    fc_deadline node = {0};
    fc_wheel_set(&wheel, &node, START_MS + rows[i].in_ms);
    /* What is too far for the wheel is first looked at as late as it can be. */
    int64_t wait = rows[i].in_ms < HORIZON ? rows[i].in_ms : HORIZON - 2 * TICK;
    CHECK(fc_wheel_wait_ms(&wheel, START_MS) >= wait);
    size_t wakes = wakes_until(&node, START_MS);
    CHECK(wakes >= 1 && wakes <= rows[i].wakes);
  }
}

static void test_later_is_a_store(void) {
  begin(START_MS);
  fc_deadline node = {0};
  fc_deadline before;
  fc_wheel_set(&wheel, &node, START_MS + 10000);
  memcpy(&before, &node, sizeof node);
  fc_wheel tables = wheel;
  for (int64_t in = 10000; in < 200000; in += 333) {
    fc_wheel_set(&wheel, &node, START_MS + in);
    CHECK(node.next == before.next && node.prev == before.prev);
    CHECK(node.at_ms == START_MS + in);
  }
  /* Nearer than it was, but not before its slot comes up. */
  fc_wheel_set(&wheel, &node, START_MS + 10000);
  CHECK(node.at_ms == START_MS + 10000);
  CHECK(memcmp(&tables, &wheel, sizeof wheel) == 0);
  /* Earlier than the slot comes up: a real move. */
  fc_wheel_set(&wheel, &node, START_MS + 100);
  CHECK(node.next != before.next && wheel.count == 1);
  CHECK(fc_wheel_wait_ms(&wheel, START_MS) <= 100 + TICK);
  CHECK(fc_wheel_expired(&wheel, START_MS + 99) == NULL);
  CHECK(fc_wheel_expired(&wheel, START_MS + 100 + TICK) == &node);
}

/* The keep-alive of a busy connection: moved at every request, never due. */
static void test_lazily_moved_is_not_reported(void) {
  begin(START_MS);
  fc_deadline node = {0};
  int64_t now = START_MS;
  for (int i = 0; i < 5000; i++, now += 50) {
    fc_wheel_set(&wheel, &node, now + 1000);
    CHECK(fc_wheel_expired(&wheel, now) == NULL);
  }
  int64_t last = node.at_ms;
  CHECK(fc_wheel_expired(&wheel, last - 1) == NULL);
  CHECK(fc_wheel_expired(&wheel, last + TICK) == &node);
}

static void test_earlier_within_the_slot(void) {
  /* Moments just after the tick before share the slot and are stored; the tick
   * before itself does not. */
  begin(0);
  fc_deadline node = {0}, neighbour = {0};
  fc_wheel_set(&wheel, &node, 10 * TICK);
  fc_wheel_set(&wheel, &neighbour, 10 * TICK);
  CHECK(node.next == &neighbour);
  fc_wheel_set(&wheel, &node, 9 * TICK + 1);
  CHECK(node.next == &neighbour && node.at_ms == 9 * TICK + 1);
  fc_wheel_set(&wheel, &node, 9 * TICK);
  CHECK(node.next != &neighbour);
  CHECK(reported_at(&node, 0, 20 * TICK) == 9 * TICK);
}

#define CROWD 10000
static fc_deadline crowd[CROWD];

static void test_a_crowd_in_one_slot(void) {
  begin(START_MS);
  memset(crowd, 0, sizeof crowd);
  for (size_t i = 0; i < CROWD; i++) fc_wheel_set(&wheel, &crowd[i], START_MS + 5000);
  for (size_t i = 0; i < CROWD; i += 2) fc_wheel_set(&wheel, &crowd[i], START_MS + 70000);
  for (size_t i = 1; i < CROWD; i += 4) fc_wheel_clear(&wheel, &crowd[i]);
  CHECK(wheel.count == CROWD * 3 / 4);
  CHECK(drain(START_MS + 4999) == 0);
  CHECK(drain(START_MS + 5000 + TICK) == CROWD / 4);
  CHECK(wheel.count == CROWD / 2);
  CHECK(drain(START_MS + 69999) == 0);
  CHECK(drain(START_MS + 70000 + TICK) == CROWD / 2);
  CHECK(wheel.count == 0 && fc_wheel_wait_ms(&wheel, START_MS + 80000) == -1);
}

static void test_clear_empties_the_slot(void) {
  begin(START_MS);
  fc_deadline one = {0}, two = {0};
  fc_wheel_set(&wheel, &one, START_MS + 1000);
  fc_wheel_set(&wheel, &two, START_MS + 1000);
  fc_wheel_clear(&wheel, &one);
  CHECK(fc_wheel_wait_ms(&wheel, START_MS) <= 1000 + TICK);
  fc_wheel_clear(&wheel, &two);
  fc_wheel_clear(&wheel, &two);
  CHECK(wheel.count == 0 && fc_wheel_wait_ms(&wheel, START_MS) == -1);
  /* A mark left behind would now wake too early. */
  fc_wheel_set(&wheel, &one, START_MS + 30000);
  CHECK(fc_wheel_wait_ms(&wheel, START_MS) >= 30000);
}

static void test_clear_during_expiry(void) {
  begin(START_MS);
  memset(crowd, 0, sizeof crowd);
  for (size_t i = 0; i < 100; i++) fc_wheel_set(&wheel, &crowd[i], START_MS + 10 + (int64_t)i * 7);
  int64_t now = START_MS + 2000;
  size_t seen = 0;
  fc_deadline *node;
  while ((node = fc_wheel_expired(&wheel, now)) != NULL) {
    seen++;
    size_t i = (size_t)(node - crowd);
    if (i + 1 < 100) fc_wheel_clear(&wheel, &crowd[i + 1]); /* most likely the next one */
  }
  CHECK(seen == 50);
  CHECK(wheel.count == 0 && fc_wheel_wait_ms(&wheel, now) == -1);
}

static void test_stopped_in_the_middle(void) {
  begin(START_MS);
  memset(crowd, 0, sizeof crowd);
  for (size_t i = 0; i < 10; i++) fc_wheel_set(&wheel, &crowd[i], START_MS + 10);
  fc_wheel_set(&wheel, &crowd[10], START_MS + 50000);
  int64_t now = START_MS + 1000;
  CHECK(fc_wheel_expired(&wheel, now) != NULL);
  CHECK(fc_wheel_wait_ms(&wheel, now) == 0);
  CHECK(wheel.count == 10);
  CHECK(drain(now) == 9);
  CHECK(fc_wheel_wait_ms(&wheel, now) >= 49000);
}

/* No monotonic clock does that, but nothing may break if one does. */
static void test_time_steps_back(void) {
  begin(START_MS);
  drain(START_MS);
  fc_deadline node = {0};
  fc_wheel_set(&wheel, &node, START_MS + 10 * HORIZON);
  int64_t wait = fc_wheel_wait_ms(&wheel, START_MS);
  CHECK(fc_wheel_expired(&wheel, START_MS - 10 * TICK) == NULL);
  CHECK(fc_wheel_expired(&wheel, 0) == NULL && fc_wheel_expired(&wheel, -1) == NULL);
  CHECK(fc_wheel_wait_ms(&wheel, START_MS) == wait);
  fc_wheel_set(&wheel, &node, START_MS - 5 * TICK);
  CHECK(fc_wheel_expired(&wheel, START_MS - 5 * TICK - 1) == NULL);
  CHECK(fc_wheel_expired(&wheel, START_MS + TICK) == &node);
}

static void test_set_within_the_loop(void) {
  begin(START_MS);
  fc_deadline again = {0}, other = {0};
  fc_wheel_set(&wheel, &again, START_MS + 10);
  int64_t now = START_MS + 1000;
  size_t rounds = 0;
  /* Set to what has passed: reported again, but not in this loop. */
  while (fc_wheel_expired(&wheel, now) == &again && rounds < 10) {
    rounds++;
    fc_wheel_set(&wheel, &again, now - 500);
    fc_wheel_set(&wheel, &other, now);
  }
  CHECK(rounds == 1 && wheel.count == 2);
  int64_t wait = fc_wheel_wait_ms(&wheel, now);
  CHECK(wait > 0 && wait <= TICK);
  CHECK(drain(now + TICK) == 2);
}

static void test_moved_while_due(void) {
  begin(START_MS);
  fc_deadline first = {0}, second = {0}, third = {0};
  fc_wheel_set(&wheel, &first, START_MS + 10);
  fc_wheel_set(&wheel, &second, START_MS + 10);
  fc_wheel_set(&wheel, &third, START_MS + 10);
  int64_t now = START_MS + 1000;
  CHECK(fc_wheel_expired(&wheel, now) == &first);
  fc_wheel_set(&wheel, &second, now + 5000); /* its turn would have been next */
  fc_wheel_set(&wheel, &third, START_MS - 100);
  CHECK(drain(now) == 0);
  CHECK(wheel.count == 2);
  CHECK(fc_wheel_expired(&wheel, now + TICK) == &third);
  CHECK(fc_wheel_expired(&wheel, now + 4999) == NULL);
  CHECK(fc_wheel_expired(&wheel, now + 5000 + TICK) == &second);
}

static void test_jumps(void) {
  static const int64_t jumps[] = {HORIZON - TICK, HORIZON,          HORIZON + TICK,
                                  2 * HORIZON,    INT64_C(3600000), INT64_C(864000000)};
  for (size_t j = 0; j < sizeof jumps / sizeof jumps[0]; j++) {
    begin(START_MS);
    memset(crowd, 0, sizeof crowd);
    for (size_t i = 0; i < CROWD; i++) {
      fc_wheel_set(&wheel, &crowd[i], START_MS + 1 + (int64_t)i * 97);
    }
    int64_t now = START_MS + jumps[j];
    size_t due = 0, out = 0;
    for (size_t i = 0; i < CROWD; i++) due += crowd[i].at_ms + TICK <= now;
    fc_deadline *node;
    while ((node = fc_wheel_expired(&wheel, now)) != NULL) {
      CHECK(node->at_ms <= now);
      out++;
    }
    CHECK(out >= due && out + wheel.count == CROWD);
    CHECK(wheel.count == 0 || fc_wheel_wait_ms(&wheel, now) > 0);
  }
}

static void test_a_wheel_nobody_asked_for_hours(void) {
  begin(START_MS);
  int64_t now = START_MS + 7200000;
  fc_deadline node = {0}, past = {0};
  fc_wheel_set(&wheel, &node, now + 3000);
  fc_wheel_set(&wheel, &past, now - 3000);
  CHECK(fc_wheel_expired(&wheel, now) == &past);
  CHECK(fc_wheel_expired(&wheel, now + 2999) == NULL);
  CHECK(fc_wheel_expired(&wheel, now + 3000 + TICK) == &node);
}

static void test_odd_moments(void) {
  static const int64_t moments[] = {INT64_MIN, -1000, -1, 0, 1, INT64_MAX - 1, INT64_MAX};
  for (size_t i = 0; i < sizeof moments / sizeof moments[0]; i++) {
    begin(0);
    fc_deadline node = {0};
    fc_wheel_set(&wheel, &node, moments[i]);
    CHECK(fc_deadline_is_set(&node) && wheel.count == 1);
    CHECK((fc_wheel_expired(&wheel, TICK) == &node) == (moments[i] <= TICK));
    /* Twice the same, then earlier and later. */
    fc_wheel_set(&wheel, &node, moments[i]);
    fc_wheel_set(&wheel, &node, moments[i]);
    fc_wheel_set(&wheel, &node, 50 * TICK);
    fc_wheel_set(&wheel, &node, 100 * TICK);
    CHECK(wheel.count == 1 && fc_wheel_expired(&wheel, 100 * TICK) == &node);
  }
}

/* ---- against the model */

#define NODES 300

typedef struct model {
  int is_set[NODES];
  int64_t due_by[NODES]; /* when the wheel has to have reported it */
  size_t count;
  int64_t now_ms;
  uint64_t seed;
} model;

static fc_deadline nodes[NODES];

static uint64_t roll(model *m, uint64_t below) { return check_random(&m->seed, below); }

static int64_t some_moment(model *m) {
  switch (roll(m, 6)) {
    case 0:
      return m->now_ms + (int64_t)roll(m, 2 * TICK);
    case 1:
      return m->now_ms - (int64_t)roll(m, 500);
    case 2:
      return m->now_ms + HORIZON - 3 * TICK + (int64_t)roll(m, 6 * TICK);
    case 3:
      return m->now_ms + (int64_t)roll(m, 20 * (uint64_t)HORIZON);
    case 4:
      return m->now_ms + 75000;
    default:
      return m->now_ms + (int64_t)roll(m, 12000);
  }
}

static void set_one(model *m, size_t i) {
  int64_t at = some_moment(m);
  fc_wheel_set(&wheel, &nodes[i], at);
  m->count += !m->is_set[i];
  m->is_set[i] = 1;
  m->due_by[i] = (at > m->now_ms ? at : m->now_ms) + TICK;
}

static void clear_one(model *m, size_t i) {
  fc_wheel_clear(&wheel, &nodes[i]);
  m->count -= m->is_set[i] != 0;
  m->is_set[i] = 0;
}

static void advance(model *m) {
  switch (roll(m, 40)) {
    case 0:
      m->now_ms += (int64_t)roll(m, 8 * 3600000);
      return;
    case 1:
      m->now_ms += HORIZON - TICK + (int64_t)roll(m, 2 * TICK);
      return;
    case 2:
    case 3:
      m->now_ms += (int64_t)roll(m, (uint64_t)HORIZON);
      return;
    default:
      m->now_ms += (int64_t)roll(m, 3 * TICK);
  }
}

static void expire_all(model *m) {
  size_t pulled = 0;
  fc_deadline *node;
  while ((node = fc_wheel_expired(&wheel, m->now_ms)) != NULL) {
    size_t i = (size_t)(node - nodes);
    CHECK(m->is_set[i] && node->at_ms <= m->now_ms && !fc_deadline_is_set(node));
    m->is_set[i] = 0;
    m->count--;
    if (!CHECK(pulled++ < 2 * NODES)) return; /* it would never end */
    if (roll(m, 4) == 0) set_one(m, i);
    if (roll(m, 4) == 0) set_one(m, roll(m, NODES));
    if (roll(m, 4) == 0) clear_one(m, roll(m, NODES));
  }
}

static void compare(const model *m) {
  int64_t first = INT64_MAX;
  size_t wrong = 0;
  for (size_t i = 0; i < NODES; i++) {
    wrong += fc_deadline_is_set(&nodes[i]) != m->is_set[i];
    if (!m->is_set[i]) continue;
    wrong += m->now_ms >= m->due_by[i];
    if (m->due_by[i] < first) first = m->due_by[i];
  }
  CHECK(wrong == 0 && wheel.count == m->count);
  int64_t wait = fc_wheel_wait_ms(&wheel, m->now_ms);
  if (m->count == 0) {
    CHECK(wait == -1);
  } else {
    CHECK(wait > 0 && m->now_ms + wait <= first);
  }
}

static void test_against_the_model(uint64_t seed) {
  static model m;
  memset(&m, 0, sizeof m);
  memset(nodes, 0, sizeof nodes);
  m.seed = seed;
  m.now_ms = START_MS;
  begin(m.now_ms);
  for (int step = 0; step < 40000; step++) {
    switch (roll(&m, 8)) {
      case 0:
      case 1:
        advance(&m);
        expire_all(&m);
        compare(&m);
        break;
      case 2:
        clear_one(&m, roll(&m, NODES));
        break;
      default:
        /* Few nodes at times, so that the wheel runs empty as well. */
        set_one(&m, roll(&m, step % 10000 < 5000 ? NODES : 5));
    }
  }
}

int main(void) {
  test_empty();
  test_never_early_and_at_most_a_tick_late();
  test_the_whole_horizon();
  test_beside_the_horizon();
  test_far_deadlines_wake_rarely();
  test_later_is_a_store();
  test_lazily_moved_is_not_reported();
  test_earlier_within_the_slot();
  test_a_crowd_in_one_slot();
  test_clear_empties_the_slot();
  test_clear_during_expiry();
  test_stopped_in_the_middle();
  test_time_steps_back();
  test_set_within_the_loop();
  test_moved_while_due();
  test_jumps();
  test_a_wheel_nobody_asked_for_hours();
  test_odd_moments();
  for (uint64_t seed = 1; seed <= 5; seed++) test_against_the_model(seed * 7919);
  return check_summary("test_timer");
}
