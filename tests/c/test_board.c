/* test_board.c: the scoreboard, with real processes that share it.  Built with
 * csrc/board.c. */
#define _GNU_SOURCE
#include "board.h"

#include <errno.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static void ready(fc_board *board, uint32_t index, int32_t waiting, int32_t connections) {
  fc_slot *slot = &board->slot[index];
  if (atomic_load(&slot->generation) == 0) fc_board_take(board, index, 0);
  atomic_store(&slot->state, FC_SLOT_READY);
  atomic_store(&slot->waiting, waiting);
  atomic_store(&slot->connections, connections);
}

static void test_create(void) {
  CHECK((errno = 0, fc_board_create(0)) == NULL && errno == EINVAL);
  CHECK((errno = 0, fc_board_create(FC_BOARD_SLOTS_MAX + 1)) == NULL && errno == EINVAL);
  CHECK((errno = 0, fc_board_create(UINT32_MAX)) == NULL && errno == EINVAL);
  static const uint32_t sizes[] = {1, 2, 63, 64, 65, FC_BOARD_SLOTS_MAX};
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    fc_board *board = fc_board_create(sizes[i]);
    if (!CHECK(board != NULL)) continue;
    CHECK(board->slots == sizes[i]);
    fc_slot *last = &board->slot[sizes[i] - 1];
    CHECK((uintptr_t)last % FC_CACHE_LINE == 0 && (uintptr_t)&board->slot[0] % FC_CACHE_LINE == 0);
    CHECK(atomic_load(&last->state) == FC_SLOT_EMPTY && atomic_load(&last->generation) == 0);
    fc_slot_served(last); /* the memory is there to its end */
    CHECK(atomic_load(&last->requests) == 1);
    fc_board_destroy(board);
  }
  fc_board_destroy(NULL);
  CHECK(sizeof(fc_slot) % (2 * FC_CACHE_LINE) == 0);
}

static void test_take(void) {
  fc_board *board = fc_board_create(3);
  if (!CHECK(board != NULL)) return;
  fc_slot *slot = &board->slot[1];
  CHECK(atomic_load(&board->used) == 0);
  atomic_store(&slot->waiting, 1);
  atomic_store(&slot->connections, 7);
  atomic_store(&slot->pid, 1234);
  static const char peer[FC_NOTE_PEER_BYTES] = {4};
  fc_slot_note(slot, "GET /", 5, peer, 8000);
  fc_slot_run(slot, 2);
  fc_slot_served(slot);
  atomic_store(&slot->accepted, 5);
  atomic_store(&slot->handed_over, 6);
  CHECK(fc_board_take(board, 1, 9000) == 1);
  CHECK(atomic_load(&slot->state) == FC_SLOT_BOOTING && atomic_load(&slot->pid) == 0);
  CHECK(atomic_load(&slot->waiting) == 0 && atomic_load(&slot->connections) == 0);
  CHECK(atomic_load(&slot->running) == 0 && atomic_load(&slot->heartbeat_ms) == 9000);
  CHECK(atomic_load(&slot->accepted) == 0 && atomic_load(&slot->handed_over) == 0);
  CHECK(atomic_load(&slot->requests) == 0 && atomic_load(&slot->generation) == 1);
  CHECK(atomic_load(&slot->note.len) == 0 && atomic_load(&board->used) == 2);
  CHECK(fc_board_take(board, 1, 9001) == 2);
  CHECK(atomic_load(&board->slot[0].generation) == 0);
  CHECK(atomic_load(&board->slot[2].generation) == 0);
  CHECK(fc_board_take(board, 2, 0) == 1);
  CHECK(fc_board_take(board, 3, 0) == 0 && fc_board_take(board, UINT32_MAX, 0) == 0);
  atomic_store(&slot->generation, UINT32_MAX);
  CHECK(fc_board_take(board, 1, 0) == 1); /* 0 would mean "nobody was ever here" */
  fc_board_destroy(board);
}

static void test_note(void) {
  fc_board *board = fc_board_create(1);
  if (!CHECK(board != NULL)) return;
  fc_slot *slot = &board->slot[0];
  char line[FC_NOTE_TEXT_BYTES + 50];
  memset(line, 'x', sizeof line);
  static const char peer[FC_NOTE_PEER_BYTES] = {4, 127, 0, 0, 1};
  static const size_t lengths[] = {0, 1, FC_NOTE_TEXT_BYTES - 1, FC_NOTE_TEXT_BYTES, sizeof line};
  for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
    size_t kept = lengths[i] < FC_NOTE_TEXT_BYTES ? lengths[i] : FC_NOTE_TEXT_BYTES;
    memset(slot->note.text, '-', FC_NOTE_TEXT_BYTES);
    fc_slot_note(slot, line, lengths[i], peer, 70 + (int64_t)i);
    CHECK(atomic_load(&slot->note.len) == kept);
    CHECK(memcmp(slot->note.text, line, kept) == 0);
    CHECK(kept == FC_NOTE_TEXT_BYTES || slot->note.text[kept] == '-');
    CHECK(memcmp(slot->note.peer, peer, sizeof peer) == 0);
    CHECK(atomic_load(&slot->note.since_ms) == 70 + (int64_t)i);
  }
  fc_board_destroy(board);
}

static void test_the_tally_outlives_the_worker(void) {
  fc_board *board = fc_board_create(1);
  if (!CHECK(board != NULL)) return;
  fc_slot *slot = &board->slot[0];
  fc_board_take(board, 0, 0);
  for (int i = 0; i < 3; i++) fc_slot_served(slot);
  atomic_store(&slot->accepted, 5);
  atomic_store(&slot->handed_over, 2);
  fc_count(&slot->tally.bytes_in, 70);
  fc_slot_worked(slot, 100, 150, 400);
  CHECK(atomic_load(&slot->stall_ns) == 300 && atomic_load(&slot->tally.busy_ns) == 250);
  fc_slot_worked(slot, 500, 500, 600);
  CHECK(atomic_load(&slot->stall_ns) == 300 && atomic_load(&slot->tally.busy_ns) == 350);
  fc_board_take(board, 0, 0);
  CHECK(atomic_load(&slot->requests) == 0 && atomic_load(&slot->tally.requests) == 3);
  CHECK(atomic_load(&slot->tally.accepted) == 5 && atomic_load(&slot->tally.handed_over) == 2);
  CHECK(atomic_load(&slot->tally.bytes_in) == 70 && atomic_load(&slot->stall_ns) == 0);
  fc_slot_served(slot);
  fc_board_take(board, 0, 0);
  CHECK(atomic_load(&slot->tally.requests) == 4);
  fc_board_destroy(board);
}

static void test_answers_are_counted(void) {
  fc_board *board = fc_board_create(1);
  if (!CHECK(board != NULL)) return;
  fc_tally *tally = &board->slot[0].tally;
  static const int statuses[] = {101, 200, 204, 302, 404, 500, 503, 599, 999, 0};
  static const uint64_t wants[] = {1, 2, 1, 1, 5};
  for (size_t i = 0; i < 10; i++) fc_slot_answered(&board->slot[0], statuses[i], 1000, 400, 2000);
  for (size_t i = 0; i < 5; i++) CHECK(atomic_load(&tally->statuses[i]) == wants[i]);
  CHECK(atomic_load(&tally->latency_ns) == 10000);
  CHECK(atomic_load(&tally->latency[fc_latency_bucket(1000)]) == 10);
  CHECK(atomic_load(&tally->queue_ns) == 4000);
  fc_slot_answered(&board->slot[0], 200, 2000, 0, 1000); /* a clock that was read later */
  CHECK(atomic_load(&tally->latency[0]) == 1 && atomic_load(&tally->latency_ns) == 10000);
  CHECK(fc_span_ns(5, 7) == 2 && fc_span_ns(7, 5) == 0);
  fc_board_destroy(board);
}

/* Every latency is in a bucket that has it, and from 1 us on the bucket's middle
 * is within 5 % of it. */
static void test_latency_buckets(void) {
  CHECK(fc_latency_bucket(0) == 0 && fc_latency_bucket(63) == 0 && fc_latency_bucket(64) == 1);
  CHECK(fc_latency_bucket(UINT64_MAX) == FC_LATENCY_BUCKETS - 1);
  CHECK(fc_latency_floor(FC_LATENCY_BUCKETS) > 1000ull * 1000000000);
  for (uint32_t i = 0; i < FC_LATENCY_BUCKETS; i++) {
    uint64_t from = fc_latency_floor(i), to = fc_latency_floor(i + 1);
    CHECK(from < to && fc_latency_bucket(from) == i && fc_latency_bucket(to - 1) == i);
    if (from >= 1000) CHECK((double)(to - from) / 2 <= 0.05 * (double)from);
  }
  uint64_t seed = 7;
  for (int round = 0; round < 100000; round++) {
    uint64_t ns = check_random(&seed, UINT64_MAX) >> (24 + check_random(&seed, 40));
    uint32_t bucket = fc_latency_bucket(ns);
    CHECK(fc_latency_floor(bucket) <= ns && ns < fc_latency_floor(bucket + 1));
  }
}

static void test_slots_that_were_never_taken_are_not_looked_at(void) {
  fc_board *board = fc_board_create(8);
  if (!CHECK(board != NULL)) return;
  fc_slot *slot = &board->slot[5];
  atomic_store(&slot->state, FC_SLOT_READY);
  atomic_store(&slot->waiting, 1);
  CHECK(fc_board_least(board, 0, 10) == -1);
  CHECK(fc_board_take(board, 5, 0) == 1 && atomic_load(&board->used) == 6);
  ready(board, 5, 1, 0);
  CHECK(fc_board_least(board, 0, 10) == 5);
  CHECK(fc_board_take(board, 2, 0) == 1 && atomic_load(&board->used) == 6);
  fc_board_destroy(board);
}

static void test_least_looks_at_ready_and_waiting(void) {
  fc_board *board = fc_board_create(4);
  if (!CHECK(board != NULL)) return;
  CHECK(fc_board_least(board, 0, INT32_MAX) == -1); /* all EMPTY */
  static const int32_t states[] = {FC_SLOT_EMPTY, FC_SLOT_BOOTING, FC_SLOT_READY, FC_SLOT_DRAINING};
  for (size_t i = 0; i < 4; i++) {
    ready(board, 2, 1, 0);
    atomic_store(&board->slot[2].state, states[i]);
    int want = states[i] == FC_SLOT_READY ? 2 : -1;
    CHECK(fc_board_least(board, 0, 10) == want);
  }
  ready(board, 2, 0, 0); /* busy */
  CHECK(fc_board_least(board, 0, 10) == -1);
  ready(board, 2, 1, 0);
  CHECK(fc_board_least(board, 0, 10) == 2);
  CHECK(fc_board_least(board, 2, 10) == -1); /* never itself */
  fc_board_destroy(board);
}

static void test_least_limits(void) {
  fc_board *board = fc_board_create(3);
  if (!CHECK(board != NULL)) return;
  ready(board, 1, 1, 5);
  CHECK(fc_board_least(board, 0, 4) == -1);
  CHECK(fc_board_least(board, 0, 5) == 1);
  CHECK(fc_board_least(board, 0, 6) == 1);
  CHECK(fc_board_least(board, 0, -1) == -1);
  ready(board, 1, 1, 0);
  CHECK(fc_board_least(board, 0, 0) == 1);
  CHECK(fc_board_least(board, 0, -1) == -1);
  /* A count below zero is a race of two senders, and means "few". */
  ready(board, 2, 1, -1);
  CHECK(fc_board_least(board, 0, 0) == 2);
  fc_board_destroy(board);
}

static void test_least_picks_the_fewest_and_turns_on_ties(void) {
  fc_board *board = fc_board_create(5);
  if (!CHECK(board != NULL)) return;
  for (uint32_t i = 0; i < 5; i++) ready(board, i, 1, 3);
  for (uint32_t self = 0; self < 5; self++) {
    CHECK(fc_board_least(board, self, 3) == (int)((self + 1) % 5));
  }
  ready(board, 1, 1, 2);
  ready(board, 3, 1, 2);
  static const int wants[] = {1, 3, 3, 1, 1};
  for (uint32_t self = 0; self < 5; self++) {
    CHECK(fc_board_least(board, self, 3) == wants[self]);
  }
  ready(board, 3, 1, 1);
  for (uint32_t self = 0; self < 5; self++) {
    CHECK(fc_board_least(board, self, 3) == (self == 3 ? 1 : 3));
  }
  /* Nobody is left out by an index that is not there. */
  ready(board, 0, 1, 0);
  CHECK(fc_board_least(board, 5, 3) == 0 && fc_board_least(board, UINT32_MAX, 3) == 0);
  fc_board_destroy(board);
  board = fc_board_create(1);
  if (!CHECK(board != NULL)) return;
  ready(board, 0, 1, 0);
  CHECK(fc_board_least(board, 0, 3) == -1 && fc_board_least(board, 1, 3) == 0);
  fc_board_destroy(board);
}

/* Every placement that three states of five slots allow, by a plain search. */
static int plain_least(const fc_board *board, uint32_t self, int32_t most) {
  int found = -1;
  for (uint32_t step = 1; step <= board->slots; step++) {
    uint32_t i = (self + step) % board->slots;
    const fc_slot *slot = &board->slot[i];
    if (i == self || slot->state != FC_SLOT_READY || !slot->waiting) continue;
    if (slot->connections > most) continue;
    if (found < 0 || slot->connections < board->slot[found].connections) found = (int)i;
  }
  return found;
}

static void test_least_against_a_plain_search(void) {
  fc_board *board = fc_board_create(6);
  if (!CHECK(board != NULL)) return;
  uint64_t seed = 3;
  for (int round = 0; round < 20000; round++) {
    for (uint32_t i = 0; i < 6; i++) {
      ready(board, i, check_random(&seed, 4) != 0, (int32_t)check_random(&seed, 4));
      if (check_random(&seed, 4) == 0) atomic_store(&board->slot[i].state, FC_SLOT_DRAINING);
    }
    uint32_t self = (uint32_t)check_random(&seed, 6);
    int32_t most = (int32_t)check_random(&seed, 5) - 1;
    CHECK(fc_board_least(board, self, most) == plain_least(board, self, most));
  }
  fc_board_destroy(board);
}

static void test_limits(void) {
  fc_board *board = fc_board_create(2);
  if (!CHECK(board != NULL)) return;
  fc_slot *slot = &board->slot[1];
  CHECK(!fc_slot_reserve(slot)); /* nobody has taken it */
  ready(board, 1, 1, 0);
  CHECK(atomic_load(&slot->limit) == FC_SLOT_NO_LIMIT);
  atomic_store(&slot->limit, 2);
  CHECK(fc_slot_reserve(slot) && fc_slot_reserve(slot) && !fc_slot_reserve(slot));
  CHECK(atomic_load(&slot->connections) == 2);
  CHECK(fc_board_least(board, 0, INT32_MAX - 1) == -1);
  fc_slot_hold(slot, -1);
  CHECK(fc_board_least(board, 0, INT32_MAX - 1) == 1 && fc_slot_reserve(slot));
  atomic_store(&slot->limit, 0);
  CHECK(!fc_slot_reserve(slot));
  atomic_store(&slot->drops, 1);
  atomic_store(&slot->taken, 9);
  CHECK(fc_board_take(board, 1, 0) == 2);
  CHECK(atomic_load(&slot->limit) == FC_SLOT_NO_LIMIT && atomic_load(&slot->drops) == 0);
  CHECK(atomic_load(&slot->taken) == 0);
  fc_board_destroy(board);
}

static void test_wanted(void) {
  fc_board *board = fc_board_create(1);
  if (!CHECK(board != NULL)) return;
  CHECK(!fc_board_is_wanted(board));
  fc_board_want(board);
  fc_board_want(board);
  CHECK(fc_board_is_wanted(board) && !fc_board_is_wanted(board));
  fc_board_destroy(board);
}

/* Two that open the same file see the same board. */
static void test_open(void) {
  FILE *file = tmpfile();
  if (!CHECK(file != NULL)) return;
  int fd = fileno(file);
  CHECK(ftruncate(fd, (off_t)fc_board_bytes(3)) == 0);
  fc_board *one = fc_board_open(3, fd);
  fc_board *other = fc_board_open(3, fd);
  if (CHECK(one != NULL && other != NULL && one != other)) {
    ready(one, 2, 1, 4);
    CHECK(other->slots == 3 && fc_board_least(other, 0, 4) == 2);
    CHECK(fc_slot_reserve(&other->slot[2]) && atomic_load(&one->slot[2].connections) == 5);
  }
  fc_board_destroy(one);
  fc_board_destroy(other);
  CHECK((errno = 0, fc_board_open(1, -1)) == NULL && errno == EBADF);
  CHECK((errno = 0, fc_board_open(0, fd)) == NULL && errno == EINVAL);
  fclose(file);
}

static int child_is_fine(pid_t child) {
  int status = -1;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void work(fc_board *board, uint32_t index) {
  fc_slot *slot = &board->slot[index];
  atomic_store(&slot->pid, (int32_t)getpid());
  atomic_store(&slot->state, FC_SLOT_READY);
  for (int i = 0; i < 1000; i++) {
    fc_slot_run(slot, 1);
    fc_slot_served(slot);
  }
  fc_slot_run(slot, -400);
  fc_slot_hold(slot, 3);
  fc_slot_beat(slot, 1, 777);
}

static void test_a_child_writes_and_the_parent_reads(void) {
  fc_board *board = fc_board_create(2);
  if (!CHECK(board != NULL)) return;
  CHECK(fc_board_take(board, 1, 100) == 1);
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    work(board, 1);
    _exit(0);
  }
  CHECK(child > 0 && child_is_fine(child));
  fc_slot *slot = &board->slot[1];
  CHECK(atomic_load(&slot->pid) == (int32_t)child);
  CHECK(atomic_load(&slot->state) == FC_SLOT_READY && atomic_load(&slot->waiting) == 1);
  CHECK(atomic_load(&slot->requests) == 1000 && atomic_load(&slot->running) == 600);
  CHECK(atomic_load(&slot->connections) == 3 && atomic_load(&slot->heartbeat_ms) == 777);
  CHECK(fc_board_least(board, 0, 3) == 1 && fc_board_least(board, 0, 2) == -1);
  CHECK(atomic_load(&board->slot[0].requests) == 0);
  fc_board_destroy(board);
}

/* Four who reserve at the same time get no more than there is. */
static void test_many_processes_reserve(void) {
  enum { CHILDREN = 4, TIMES = 50000, LIMIT = 70000 };
  fc_board *board = fc_board_create(2);
  if (!CHECK(board != NULL)) return;
  fc_board_take(board, 0, 0);
  atomic_store(&board->slot[0].limit, LIMIT);
  pid_t children[CHILDREN];
  fflush(stdout);
  for (int i = 0; i < CHILDREN; i++) {
    children[i] = fork();
    if (children[i] != 0) continue;
    while (!atomic_load(&board->slot[1].waiting)) continue;
    for (int n = 0; n < TIMES; n++) fc_slot_reserve(&board->slot[0]);
    _exit(0);
  }
  atomic_store(&board->slot[1].waiting, 1); /* all at once */
  for (int i = 0; i < CHILDREN; i++) CHECK(children[i] > 0 && child_is_fine(children[i]));
  CHECK(atomic_load(&board->slot[0].connections) == LIMIT);
  fc_board_destroy(board);
}

/* Adds and takes as often as a multiple of three allows: `times` / 3 are left. */
static void hold_and_let_go(fc_board *board, int times) {
  fc_slot *gate = &board->slot[1];
  while (!atomic_load(&gate->waiting)) continue;
  for (int i = 0; i < times; i++) fc_slot_hold(&board->slot[0], i % 3 == 0 ? -1 : 1);
}

/* Connections are counted by many at the same time, and none is lost. */
static void test_many_processes_hold(void) {
  enum { CHILDREN = 4, TIMES = 300000 };
  fc_board *board = fc_board_create(2);
  if (!CHECK(board != NULL)) return;
  pid_t children[CHILDREN];
  fflush(stdout);
  for (int i = 0; i < CHILDREN; i++) {
    children[i] = fork();
    if (children[i] != 0) continue;
    hold_and_let_go(board, TIMES);
    _exit(0);
  }
  atomic_store(&board->slot[1].waiting, 1); /* all at once */
  for (int i = 0; i < CHILDREN; i++) CHECK(children[i] > 0 && child_is_fine(children[i]));
  CHECK(atomic_load(&board->slot[0].connections) == CHILDREN * TIMES / 3);
  fc_board_destroy(board);
}

int main(void) {
  test_create();
  test_take();
  test_note();
  test_the_tally_outlives_the_worker();
  test_answers_are_counted();
  test_latency_buckets();
  test_slots_that_were_never_taken_are_not_looked_at();
  test_least_looks_at_ready_and_waiting();
  test_least_limits();
  test_least_picks_the_fewest_and_turns_on_ties();
  test_least_against_a_plain_search();
  test_limits();
  test_wanted();
  test_open();
  test_a_child_writes_and_the_parent_reads();
  test_many_processes_reserve();
  test_many_processes_hold();
  return check_summary("test_board");
}
