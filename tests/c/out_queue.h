/* out_queue.h: what the two tests of csrc/out.c share: a queue under test, and
 * what must be true of it.
 *
 * The stream is the same everywhere: the byte at position p is pattern[p %
 * PERIOD], in memory and in the file that ranges are sent from, so a byte that
 * is lost, doubled or out of order shows at once.  Referred bytes are freed when
 * their owner is pulled, so the sanitizer sees a use after that. */
#ifndef OUT_QUEUE_H
#define OUT_QUEUE_H

#include "check.h"
#include "out.h"

#define PERIOD 65521u
#define LONGEST (512u * 1024)
#define UNLIMITED SIZE_MAX

static char pattern[PERIOD + LONGEST];
static int pattern_file;

static uint32_t random_below(uint32_t limit) {
  static uint64_t seed = 20261125;
  return (uint32_t)check_random(&seed, limit);
}

static const char *pattern_at(size_t position) { return pattern + position % PERIOD; }

static void make_pattern(void) {
  for (size_t i = 0; i < sizeof pattern; i++)
    pattern[i] = i < PERIOD ? (char)random_below(256) : pattern[i - PERIOD];
  pattern_file = memfd_create("pattern", MFD_CLOEXEC);
  CHECK(write(pattern_file, pattern, sizeof pattern) == (ssize_t)sizeof pattern);
}

/* ---- the queue under test, and what is known of it */

#define OWNERS_MAX 8192

typedef struct owned {
  size_t end; /* the position after its last byte */
  char *bytes;
  int finished;
} owned;

static struct queue {
  fc_out *out;
  size_t appended, taken;
  size_t n_owners;
  owned owners[OWNERS_MAX];
} queue;

static void queue_start(void) {
  memset(&queue, 0, sizeof queue);
  queue.out = fc_out_new();
}

static owned *new_owner(size_t len) {
  owned *owner = &queue.owners[queue.n_owners++];
  memset(owner, 0, sizeof *owner);
  owner->end = queue.appended + len;
  return owner;
}

static void append_copy(size_t len) {
  CHECK(fc_out_copy(queue.out, pattern_at(queue.appended), len) == FC_OK);
  queue.appended += len;
}

static void append_refer(size_t len) {
  owned *owner = new_owner(len);
  owner->bytes = malloc(len + 1);
  memcpy(owner->bytes, pattern_at(queue.appended), len);
  CHECK(fc_out_refer(queue.out, owner->bytes, len, owner) == FC_OK);
  queue.appended += len;
}

static void append_unowned(size_t len) {
  CHECK(fc_out_refer(queue.out, pattern_at(queue.appended), len, NULL) == FC_OK);
  queue.appended += len;
}

static void append_file(size_t len, int is_owned) {
  owned *owner = is_owned ? new_owner(len) : NULL;
  int64_t offset = (int64_t)(queue.appended % PERIOD);
  CHECK(fc_out_file(queue.out, pattern_file, offset, len, owner) == FC_OK);
  queue.appended += len;
}

static size_t pull_finished(void) {
  size_t n = 0;
  for (owned *owner; (owner = fc_out_finished(queue.out)) != NULL; n++) {
    CHECK(++owner->finished == 1);
    free(owner->bytes);
    owner->bytes = NULL;
  }
  return n;
}

/* An owner is finished exactly when its last byte was taken. */
static void check_owners(void) {
  pull_finished();
  int wrong = queue.appended - queue.taken != queue.out->bytes;
  for (size_t i = 0; i < queue.n_owners; i++)
    wrong |= queue.owners[i].finished != (queue.owners[i].end <= queue.taken);
  CHECK(!wrong);
}

static void queue_stop(void) {
  fc_out_abandon(queue.out);
  pull_finished();
  int wrong = queue.out->bytes != 0 || !fc_out_is_empty(queue.out);
  for (size_t i = 0; i < queue.n_owners; i++) wrong |= queue.owners[i].finished != 1;
  CHECK(!wrong);
  fc_out_delete(queue.out);
  queue.out = NULL;
}

static const char letters[] = "crnfze";

static void append_letter(char letter) {
  switch (letter) {
    case 'c':
      append_copy(3);
      break;
    case 'r':
      append_refer(4);
      break;
    case 'n':
      append_unowned(2);
      break;
    case 'f':
      append_file(5, 1);
      break;
    case 'z':
      append_refer(0);
      break;
    default:
      append_file(0, 1);
      break;
  }
}

static void append_mix(const char *mix) {
  queue_start();
  for (; *mix != '\0'; mix++) append_letter(*mix);
}

#endif
