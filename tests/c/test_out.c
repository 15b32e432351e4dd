/* test_out.c: csrc/out.c against a scripted kernel, which takes exactly as many
 * bytes as a case says: every boundary, every failure, every call.
 * test_out_kernel.c is the same against the real one. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "out_queue.h"

/* ASan then answers huge requests with NULL, which is how ENOMEM is tested. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
  return "allocator_may_return_null=1:max_allocation_size_mb=64";
}

/* ---- the scripted kernel: these stand before libc's */

static struct kernel {
  size_t room;   /* bytes that it takes until it says EAGAIN */
  int error;     /* what it says instead */
  int interrupt; /* every other call is interrupted by a signal */
  int calls, send_calls, sendmsg_calls, sendfile_calls;
  int wrong; /* bytes, flags or counts that should not be */
} kernel;

static void script(size_t room) {
  memset(&kernel, 0, sizeof kernel);
  kernel.room = room;
}

static void take(const char *ptr, size_t len) {
  if (kernel.room != UNLIMITED) kernel.room -= len;
  while (len > 0) {
    size_t part = len < LONGEST ? len : LONGEST;
    kernel.wrong |= memcmp(ptr, pattern_at(queue.taken), part) != 0;
    queue.taken += part;
    ptr += part;
    len -= part;
  }
}

/* How much of a call it takes; -1 and errno for none. */
static ssize_t accept_bytes(size_t len) {
  if (kernel.interrupt && kernel.calls++ % 2 == 0) {
    errno = EINTR;
    return -1;
  }
  if (kernel.room > 0 || len == 0) return (ssize_t)(len < kernel.room ? len : kernel.room);
  errno = kernel.error != 0 ? kernel.error : EAGAIN;
  return -1;
}

static void check_flags(int flags, size_t len) {
  int more = queue.appended - queue.taken > len ? MSG_MORE : 0;
  kernel.wrong |= flags != (MSG_NOSIGNAL | more);
}

ssize_t send(int fd, const void *ptr, size_t len, int flags) {
  (void)fd;
  kernel.send_calls++;
  check_flags(flags, len);
  ssize_t n = accept_bytes(len);
  if (n > 0) take(ptr, (size_t)n);
  return n;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  (void)fd;
  kernel.sendmsg_calls++;
  size_t len = 0;
  for (size_t i = 0; i < message->msg_iovlen; i++) len += message->msg_iov[i].iov_len;
  kernel.wrong |= message->msg_iovlen == 0 || message->msg_iovlen > 64;
  check_flags(flags, len);
  ssize_t n = accept_bytes(len);
  size_t left = n > 0 ? (size_t)n : 0;
  for (size_t i = 0; left > 0; i++) {
    const struct iovec *run = &message->msg_iov[i];
    size_t part = run->iov_len < left ? run->iov_len : left;
    take(run->iov_base, part);
    left -= part;
  }
  return n;
}

ssize_t sendfile(int fd, int file_fd, off_t *offset, size_t len) {
  (void)fd;
  static char bytes[LONGEST];
  kernel.sendfile_calls++;
  kernel.wrong |= len == 0;
  ssize_t n = accept_bytes(len < LONGEST ? len : LONGEST);
  if (n < 0) return n;
  n = pread(file_fd, bytes, (size_t)n, *offset);
  take(bytes, (size_t)n);
  *offset += n;
  return n;
}

static int flush_room(size_t room) {
  kernel.room = room;
  int result = fc_out_flush(queue.out, -1);
  check_owners();
  return result;
}

/* ---- every boundary of every short mix */

/* The kernel takes `first` bytes; then more is appended; then it takes `step`
 * at a time. */
static void check_boundary(const char *mix, size_t first, size_t step, int interrupt) {
  append_mix(mix);
  script(0);
  kernel.interrupt = interrupt;
  int result = flush_room(first);
  CHECK(result == (first < queue.appended ? FC_AGAIN : FC_OK));
  append_copy(1);
  append_refer(2);
  append_copy(3);
  while ((result = flush_room(step)) == FC_AGAIN) continue;
  CHECK(result == FC_OK && queue.taken == queue.appended && !kernel.wrong);
  CHECK(fc_out_is_empty(queue.out) && queue.out->area_used == 0);
  queue_stop();
}

static void test_boundaries(void) {
  for (int n = 1; n <= 4; n++) {
    int mixes = 1;
    for (int i = 0; i < n; i++) mixes *= 6;
    for (int m = 0; m < mixes; m++) {
      char mix[5] = "";
      for (int i = 0, rest = m; i < n; i++, rest /= 6) mix[i] = letters[rest % 6];
      append_mix(mix);
      size_t bytes = queue.appended;
      queue_stop();
      for (size_t first = 0; first <= bytes; first++) {
        check_boundary(mix, first, UNLIMITED, 0);
        if (n < 4) check_boundary(mix, first, 1 + first % 3, first % 2 == 0);
      }
    }
  }
}

static void test_abandon_at_every_boundary(void) {
  for (size_t first = 0; first <= 27; first++) {
    append_mix("crfzrcfen");
    script(0);
    flush_room(first);
    size_t waiting = 0, pulled;
    for (size_t i = 0; i < queue.n_owners; i++) waiting += !queue.owners[i].finished;
    fc_out_abandon(queue.out);
    fc_out_abandon(queue.out);
    pulled = pull_finished();
    CHECK(pulled == waiting && fc_out_finished(queue.out) == NULL);
    /* The queue is as good as new. */
    queue.taken = queue.appended;
    append_copy(10);
    CHECK(flush_room(UNLIMITED) == FC_OK && !kernel.wrong);
    queue_stop();
  }
}

/* ---- how many calls, and which */

static void test_calls(void) {
  queue_start();
  script(UNLIMITED);
  CHECK(fc_out_flush(queue.out, -1) == FC_OK && kernel.send_calls == 0);
  for (int i = 0; i < 16; i++) append_copy(130);
  CHECK(flush_room(UNLIMITED) == FC_OK);
  CHECK(kernel.send_calls == 1 && kernel.sendmsg_calls == 0);

  script(UNLIMITED);
  for (int i = 0; i < 200; i++) append_refer(100);
  CHECK(flush_room(UNLIMITED) == FC_OK);
  CHECK(kernel.send_calls == 0 && kernel.sendmsg_calls == 4);

  script(UNLIMITED);
  append_copy(150);
  append_file(5000, 1);
  append_copy(2);
  CHECK(flush_room(UNLIMITED) == FC_OK);
  CHECK(kernel.send_calls == 2 && kernel.sendfile_calls == 1 && kernel.sendmsg_calls == 0);

  /* A count that falls short is answer enough. */
  script(UNLIMITED);
  append_copy(100);
  CHECK(flush_room(60) == FC_AGAIN && kernel.send_calls == 1);
  CHECK(flush_room(0) == FC_AGAIN && kernel.send_calls == 2);
  CHECK(flush_room(40) == FC_OK && kernel.send_calls == 3 && !kernel.wrong);
  queue_stop();
}

static void test_one_flush_is_bounded(void) {
  size_t len = (size_t)FC_OUT_FLUSH_MAX * 2 + 1;
  char *huge = malloc(len);
  for (size_t i = 0; i < len; i++) huge[i] = pattern[i % PERIOD];
  queue_start();
  script(UNLIMITED);
  CHECK(fc_out_refer(queue.out, huge, len, NULL) == FC_OK);
  queue.appended = len;
  append_copy(10);
  CHECK(flush_room(UNLIMITED) == FC_AGAIN && queue.taken == FC_OUT_FLUSH_MAX);
  CHECK(flush_room(UNLIMITED) == FC_AGAIN && queue.taken == (size_t)FC_OUT_FLUSH_MAX * 2);
  CHECK(flush_room(UNLIMITED) == FC_OK && queue.taken == queue.appended && !kernel.wrong);
  for (int i = 0; i < 5; i++) append_file(LONGEST, 1);
  CHECK(flush_room(UNLIMITED) == FC_AGAIN && flush_room(UNLIMITED) == FC_OK && !kernel.wrong);
  queue_stop();
  free(huge);
}

/* ---- the area and the blocks behind it */

static void test_area(void) {
  queue_start();
  script(0);
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < FC_OUT_AREA / 1024; i++) append_copy(1024);
    CHECK(queue.out->last == 1 && queue.out->block == NULL);
    append_copy(0);
    append_unowned(0);
    append_file(0, 0);
    CHECK(queue.out->last == 1);
    append_copy(1);
    CHECK(queue.out->last == 2 && queue.out->block != NULL);
    CHECK(flush_room(FC_OUT_AREA + 1) == FC_OK && queue.out->block == NULL && !kernel.wrong);
  }
  queue_stop();
}

/* Once a block grows, small copies go there as well and not into what was left
 * of the area: one run more and not two. */
static void test_rest_of_area(void) {
  queue_start();
  script(UNLIMITED);
  append_copy(FC_OUT_AREA - 10);
  append_copy(100);
  append_copy(5);
  CHECK(queue.out->last == 2);
  CHECK(flush_room(UNLIMITED) == FC_OK && !kernel.wrong);
  queue_stop();
}

/* Copies of all sizes, the kernel far behind, so that many blocks come and go. */
static void test_blocks(void) {
  queue_start();
  script(0);
  for (int i = 0; i < 3000; i++) {
    uint32_t kind = random_below(20);
    if (kind == 0)
      append_copy(random_below(100000));
    else if (kind == 1)
      append_refer(random_below(9000));
    else
      append_copy(random_below(3000));
    if (queue.n_owners > OWNERS_MAX - 2) break;
    int result = flush_room(random_below(6000));
    if (result != FC_AGAIN && result != FC_OK) break;
  }
  CHECK(queue.out->block != NULL);
  while (flush_room(70000) == FC_AGAIN) continue;
  CHECK(queue.taken == queue.appended && !kernel.wrong && queue.out->block == NULL);
  append_copy(FC_OUT_AREA + 5);
  append_copy(100);
  append_copy(5000);
  queue_stop(); /* with blocks waiting */
  queue_start();
  append_copy(FC_OUT_AREA + 5);
  append_copy(16 * 1024);
  fc_out_delete(queue.out); /* likewise, without abandoning */
  fc_out_delete(NULL);
}

/* ---- failures */

static void test_errors(void) {
  const int errors[] = {EPIPE, ECONNRESET, ENOTCONN};
  for (size_t i = 0; i < 3; i++) {
    for (const char *mix = "crf\0cr\0f\0c\0"; *mix != '\0'; mix += strlen(mix) + 1) {
      append_mix(mix);
      script(0);
      kernel.error = errors[i];
      errno = 0;
      CHECK(fc_out_flush(queue.out, -1) == FC_ERR && errno == errors[i]);
      check_owners();
      queue_stop();
    }
  }
}

static void test_file_too_short(void) {
  queue_start();
  script(UNLIMITED);
  append_copy(10);
  owned *owner = new_owner(LONGEST);
  int64_t at = (int64_t)sizeof pattern - 100;
  CHECK(fc_out_file(queue.out, pattern_file, at, LONGEST, owner) == FC_OK);
  errno = 0;
  CHECK(fc_out_flush(queue.out, -1) == FC_ERR && errno == ENODATA);
  CHECK(queue.taken == 110 && owner->finished == 0 && pull_finished() == 0);
  CHECK(queue.out->bytes == LONGEST - 100);
  queue_stop();
}

#ifdef __SANITIZE_ADDRESS__
static void test_no_memory(void) {
  size_t len = (size_t)65 << 20;
  char *zeros = mmap(NULL, len, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  queue_start();
  append_copy(10);
  append_copy(FC_OUT_AREA); /* a block */
  uint32_t last = queue.out->last;
  struct fc_block *block = queue.out->block;
  CHECK(fc_out_copy(queue.out, zeros, len) == FC_ERR && errno == ENOMEM);
  CHECK(queue.out->last == last && queue.out->block == block);
  CHECK(queue.out->bytes == queue.appended);
  script(UNLIMITED);
  CHECK(flush_room(UNLIMITED) == FC_OK && !kernel.wrong);
  munmap(zeros, len);
  /* The array of pieces, too: 2^20 are within the limit, twice as many not. */
  int owner = 0, result = FC_OK;
  size_t n = 0, pulled = 0;
  while (result == FC_OK && n < 3u << 20)
    n += (result = fc_out_refer(queue.out, "x", 1, &owner)) == 0;
  CHECK(result == FC_ERR && errno == ENOMEM && n == 1u << 20 && queue.out->bytes == n);
  CHECK(fc_out_copy(queue.out, pattern, 1) == FC_ERR && queue.out->area_used == 0);
  CHECK(fc_out_copy(queue.out, pattern, FC_OUT_AREA + 1) == FC_ERR && queue.out->block == NULL);
  CHECK(fc_out_file(queue.out, pattern_file, 0, 1, &owner) == FC_ERR && queue.out->bytes == n);
  fc_out_abandon(queue.out);
  while (fc_out_finished(queue.out) != NULL) pulled++;
  CHECK(pulled == n);
  queue_stop();
}
#else
static void test_no_memory(void) {}
#endif

/* Owners that nobody pulls for long do not make a flush allocate or lose one. */
static void test_unpulled_owners(void) {
  static int owners[1000];
  size_t pulled = 0;
  queue_start();
  script(UNLIMITED);
  for (int i = 0; i < 1000; i++) {
    CHECK(fc_out_refer(queue.out, pattern_at(queue.appended), 1, &owners[i]) == FC_OK);
    queue.appended++;
    if (i % 7 == 0) CHECK(fc_out_flush(queue.out, -1) == FC_OK);
  }
  fc_out_abandon(queue.out);
  for (int *owner; (owner = fc_out_finished(queue.out)) != NULL; pulled++) (*owner)++;
  for (int i = 0; i < 1000; i++) pulled += owners[i] != 1;
  CHECK(pulled == 1000);
  fc_out_delete(queue.out);
}

int main(void) {
  make_pattern();
  test_boundaries();
  test_abandon_at_every_boundary();
  test_calls();
  test_one_flush_is_bounded();
  test_area();
  test_rest_of_area();
  test_blocks();
  test_errors();
  test_file_too_short();
  test_no_memory();
  test_unpulled_owners();
  close(pattern_file);
  return check_summary("out");
}
