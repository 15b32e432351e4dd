/* test_out_kernel.c: csrc/out.c against the real kernel, with small socket
 * buffers, a thread that checks every byte, broken pipes and short files. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include "descriptors.h"
#include "out_queue.h"

typedef struct reader {
  int fd;
  size_t received;
  int wrong;
} reader;

static void *read_all(void *argument) {
  static char bytes[LONGEST];
  reader *me = argument;
  uint32_t step = 1;
  for (;;) {
    ssize_t n = read(me->fd, bytes, step);
    if (n <= 0) break;
    me->wrong |= memcmp(bytes, pattern_at(me->received), (size_t)n) != 0;
    me->received += (size_t)n;
    step = (step * 31 + 7) % (LONGEST / 8) + 1;
  }
  return NULL;
}

/* A connected pair; the first end does not block. */
static void make_pair(int family, int is_small, int ends[2]) {
  int bytes = 1; /* the kernel makes it its minimum */
  if (family == AF_UNIX)
    make_unix_pair(ends);
  else
    make_tcp_pair(ends);
  if (is_small) setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  CHECK(fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
}

static void append_random(void) {
  uint32_t large = random_below(50) == 0 ? LONGEST : 5000;
  switch (random_below(5)) {
    case 0:
      append_refer(random_below(large));
      break;
    case 1:
      append_file(random_below(large), random_below(2) == 0);
      break;
    case 2:
      append_unowned(random_below(large));
      break;
    default:
      append_copy(random_below(700));
      break;
  }
}

/* Flushes once and waits if need be. */
static int flush_and_wait(int fd) {
  int result = fc_out_flush(queue.out, fd);
  queue.taken = queue.appended - queue.out->bytes;
  if (result == FC_AGAIN) {
    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    CHECK(poll(&wait, 1, 20000) == 1);
  }
  return result;
}

static void test_stream(int family, int is_small, size_t bytes) {
  int ends[2], result = FC_OK, blocked = 0;
  pthread_t thread;
  make_pair(family, is_small, ends);
  reader peer = {.fd = ends[1]};
  pthread_create(&thread, NULL, read_all, &peer);
  queue_start();
  while ((result == FC_OK || result == FC_AGAIN) && queue.appended < bytes &&
         queue.n_owners < OWNERS_MAX - 64) {
    for (uint32_t n = random_below(40); n > 0; n--) append_random();
    result = flush_and_wait(ends[0]);
    blocked += result == FC_AGAIN;
    check_owners();
  }
  while ((result = flush_and_wait(ends[0])) == FC_AGAIN) check_owners();
  check_owners();
  CHECK(result == FC_OK && (blocked > 10 || !is_small));
  shutdown(ends[0], SHUT_WR);
  pthread_join(thread, NULL);
  CHECK(peer.received == queue.appended && !peer.wrong);
  queue_stop();
  close_pair(ends);
}

static void test_huge_piece(int family) {
  int ends[2];
  pthread_t thread;
  size_t len = (size_t)24 << 20;
  make_pair(family, 0, ends);
  reader peer = {.fd = ends[1]};
  pthread_create(&thread, NULL, read_all, &peer);
  queue_start();
  owned *owner = new_owner(len);
  owner->bytes = malloc(len);
  for (size_t i = 0; i < len; i++) owner->bytes[i] = pattern[i % PERIOD];
  CHECK(fc_out_refer(queue.out, owner->bytes, len, owner) == FC_OK);
  queue.appended = len;
  int result;
  while ((result = flush_and_wait(ends[0])) == FC_AGAIN) check_owners();
  check_owners();
  CHECK(result == FC_OK && owner->finished == 1);
  shutdown(ends[0], SHUT_WR);
  pthread_join(thread, NULL);
  CHECK(peer.received == len && !peer.wrong);
  queue_stop();
  close_pair(ends);
}

static void test_file_too_short(void) {
  int ends[2];
  make_pair(AF_UNIX, 0, ends);
  queue_start();
  CHECK(fc_out_file(queue.out, pattern_file, (int64_t)sizeof pattern - 7, 8, NULL) == FC_OK);
  errno = 0;
  CHECK(fc_out_flush(queue.out, ends[0]) == FC_ERR && errno == ENODATA);
  fc_out_abandon(queue.out);
  queue_stop();
  close_pair(ends);
}

/* SIGPIPE has its deadly default: the program would end here. */
static void test_no_sigpipe(int family) {
  signal(SIGPIPE, SIG_DFL);
  for (const char *mix = "c\0rr\0f\0cf\0"; *mix != '\0'; mix += strlen(mix) + 1) {
    int ends[2], result;
    sigset_t before, after, pending;
    make_pair(family, 0, ends);
    char byte = 'x';
    CHECK(send(ends[0], &byte, 1, 0) == 1); /* unread, so that closing resets */
    close(ends[1]);
    append_mix(mix);
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    /* The first may say ECONNRESET; after that it is a broken pipe. */
    result = fc_out_flush(queue.out, ends[0]);
    CHECK(result == FC_ERR && (errno == EPIPE || errno == ECONNRESET));
    for (int i = 0; i < 3; i++) {
      result = fc_out_flush(queue.out, ends[0]);
      CHECK(result == FC_ERR && errno == EPIPE);
    }
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    sigpending(&pending);
    CHECK(!sigismember(&pending, SIGPIPE));
    CHECK(sigismember(&before, SIGPIPE) == sigismember(&after, SIGPIPE));
    queue_stop();
    close(ends[0]);
  }
}

int main(void) {
  make_pattern();
  int fds = count_descriptors();
  test_stream(AF_UNIX, 1, (size_t)4 << 20);
  test_stream(AF_INET, 1, (size_t)2 << 20);
  test_stream(AF_INET, 0, (size_t)48 << 20);
  test_huge_piece(AF_UNIX);
  test_huge_piece(AF_INET);
  test_file_too_short();
  test_no_sigpipe(AF_UNIX);
  test_no_sigpipe(AF_INET);
  CHECK(count_descriptors() == fds);
  close(pattern_file);
  return check_summary("out_kernel");
}
