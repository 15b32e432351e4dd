/* test_loop.c: csrc/loop.c with real descriptors; epoll_ctl is counted on its
 * way to the kernel, and may be told to fail. */
#define _GNU_SOURCE
#include "loop.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

#include "check.h"
#include "descriptors.h"

static int control_calls;
static int control_error;
static uint32_t control_events;

int epoll_ctl(int poll_fd, int op, int fd, struct epoll_event *event) {
  control_calls++;
  if (event != NULL) control_events = event->events;
  if (control_error != 0) {
    errno = control_error;
    return -1;
  }
  return (int)syscall(SYS_epoll_ctl, poll_fd, op, fd, event);
}

static int64_t exact_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* A source that is readable from the start, or (count 0) not yet. */
static fc_source make_source(unsigned count, int is_urgent) {
  fc_source source = {.fd = eventfd(count, EFD_NONBLOCK | EFD_CLOEXEC)};
  source.urgent = (uint8_t)is_urgent;
  return source;
}

static fc_source source_of(int fd) { return (fc_source){.fd = fd}; }

/* Takes it out and off the closed list, and closes it. */
static void drop(fc_loop *loop, fc_source *source) {
  int fd = source->fd;
  fc_loop_close(loop, source);
  CHECK(fc_loop_next_closed(loop) == source && fc_loop_next_closed(loop) == NULL);
  close(fd);
}

/* What is reported for the only ready source; 0 if none is. */
static int wait_for(fc_loop *loop, const fc_source *source, int timeout_ms) {
  int what = 0, again = 0;
  int n = fc_loop_wait(loop, timeout_ms);
  CHECK(n >= 0 && n <= 1 && fc_loop_left(loop) == n);
  fc_source *next = fc_loop_next(loop, &what);
  CHECK(next == (n == 1 ? source : NULL) && fc_loop_left(loop) == 0);
  CHECK(fc_loop_next(loop, &again) == NULL);
  return what;
}

static int is_readable(int fd, int timeout_ms) {
  struct pollfd wait = {.fd = fd, .events = POLLIN};
  return poll(&wait, 1, timeout_ms) == 1;
}

/* ---- life and clocks */

static void test_life(void) {
  fc_loop loop;
  int before = count_descriptors(), what;
  CHECK(fc_loop_init(&loop) == FC_OK);
  CHECK(fcntl(loop.poll_fd, F_GETFD) & FD_CLOEXEC);
  CHECK(fc_loop_next(&loop, &what) == NULL && fc_loop_next_closed(&loop) == NULL);
  CHECK(fc_loop_left(&loop) == 0 && fc_loop_wait(&loop, 0) == 0);
  CHECK(fc_loop_arm(&loop, 1) == FC_OK);
  fc_loop_destroy(&loop);
  fc_loop_destroy(&loop);
  CHECK(count_descriptors() == before);
}

static rlim_t set_descriptor_limit(rlim_t limit) {
  struct rlimit limits;
  getrlimit(RLIMIT_NOFILE, &limits);
  rlim_t before = limits.rlim_cur;
  limits.rlim_cur = limit;
  CHECK(setrlimit(RLIMIT_NOFILE, &limits) == 0);
  return before;
}

static void test_without_descriptors(void) {
  fc_loop loop;
  int before = count_descriptors();
  rlim_t limit = set_descriptor_limit(0);
  errno = 0;
  CHECK(fc_loop_init(&loop) == FC_ERR && errno == EMFILE);
  set_descriptor_limit(limit);
  CHECK(fc_loop_init(&loop) == FC_OK);
  limit = set_descriptor_limit(0);
  errno = 0;
  CHECK(fc_loop_arm(&loop, 1) == FC_ERR && errno == EMFILE);
  set_descriptor_limit(limit);
  control_error = ENOSPC; /* the user's limit on watches */
  errno = 0;
  CHECK(fc_loop_arm(&loop, 1) == FC_ERR && errno == ENOSPC);
  fc_source source = make_source(1, 0);
  CHECK(fc_loop_watch(&loop, &source, FC_READ) == FC_ERR && !source.added && !source.watching);
  CHECK(fc_loop_watch_shared(&loop, &source) == FC_ERR && !source.added && !source.watching);
  control_error = 0;
  close(source.fd);
  CHECK(fc_loop_arm(&loop, 1) == FC_OK && is_readable(loop.poll_fd, 5000));
  fc_loop_destroy(&loop);
  CHECK(count_descriptors() == before);
}

static void test_clocks(void) {
  fc_loop loop;
  CHECK(fc_loop_init(&loop) == FC_OK);
  int64_t started = exact_ms(), at_init = loop.now_ms;
  CHECK(started - at_init < 60000 && loop.unix_second >= (int64_t)time(NULL) - 1);
  CHECK(fc_loop_wait(&loop, 40) == 0);
  CHECK(exact_ms() - started >= 39);
  CHECK(loop.now_ms - at_init >= 20); /* read again, from a clock with coarse steps */
  loop.now_ms = 0;
  fc_loop_refresh(&loop);
  CHECK(loop.now_ms >= at_init);
  fc_loop_destroy(&loop);
}

static void on_alarm(int number) { (void)number; }

static void test_interrupted(void) {
  struct sigaction action = {.sa_handler = on_alarm}, before;
  struct itimerval often = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
  fc_loop loop;
  int what;
  CHECK(fc_loop_init(&loop) == FC_OK);
  fc_source source = make_source(1, 0);
  CHECK(fc_loop_watch(&loop, &source, FC_READ) == FC_OK);
  CHECK(fc_loop_wait(&loop, 0) == 1);
  CHECK(fc_loop_watch(&loop, &source, 0) == FC_OK);
  sigaction(SIGALRM, &action, &before);
  setitimer(ITIMER_REAL, &often, NULL);
  loop.now_ms = 0;
  errno = 0;
  CHECK(fc_loop_wait(&loop, 20000) == FC_ERR && errno == EINTR && loop.now_ms != 0);
  setitimer(ITIMER_REAL, &never, NULL);
  sigaction(SIGALRM, &before, NULL);
  /* What the wait before it had found is not handed out any more. */
  CHECK(fc_loop_left(&loop) == 0 && fc_loop_next(&loop, &what) == NULL);
  drop(&loop, &source);
  fc_loop_destroy(&loop);
}

/* ---- what is reported */

static void test_interest(void) {
  fc_loop loop;
  char byte;
  int ends[2];
  CHECK(fc_loop_init(&loop) == FC_OK);
  make_unix_pair(ends);
  fc_source source = source_of(ends[0]);
  CHECK(fc_loop_watch(&loop, &source, FC_READ) == FC_OK);
  CHECK(wait_for(&loop, &source, 0) == 0);
  CHECK(write(ends[1], "x", 1) == 1);
  CHECK(wait_for(&loop, &source, 5000) == FC_READ);
  CHECK(wait_for(&loop, &source, 0) == FC_READ); /* as long as it is not read */
  CHECK(fc_loop_watch(&loop, &source, FC_READ | FC_WRITE) == FC_OK);
  CHECK(wait_for(&loop, &source, 0) == (FC_READ | FC_WRITE));
  CHECK(fc_loop_watch(&loop, &source, FC_WRITE) == FC_OK);
  CHECK(wait_for(&loop, &source, 0) == FC_WRITE);
  CHECK(fc_loop_watch(&loop, &source, 0) == FC_OK && source.watching == 0 && source.added);
  CHECK(wait_for(&loop, &source, 0) == 0);

  control_calls = 0;
  CHECK(fc_loop_watch(&loop, &source, 0) == FC_OK && control_calls == 0);
  CHECK(fc_loop_watch(&loop, &source, FC_READ) == FC_OK && control_calls == 1);
  CHECK(fc_loop_watch(&loop, &source, FC_READ) == FC_OK && control_calls == 1);
  fc_loop_unwatch(&loop, &source);
  fc_loop_unwatch(&loop, &source);
  CHECK(control_calls == 2 && wait_for(&loop, &source, 0) == 0);
  CHECK(fc_loop_watch(&loop, &source, 0) == FC_OK && control_calls == 3);

  CHECK(read(ends[0], &byte, 1) == 1);
  close(ends[1]);
  CHECK(wait_for(&loop, &source, 5000) == FC_HANGUP);
  CHECK(fc_loop_watch(&loop, &source, FC_READ) == FC_OK);
  CHECK(wait_for(&loop, &source, 0) == (FC_READ | FC_HANGUP));
  drop(&loop, &source);
  fc_source nothing = source_of(-1);
  CHECK(fc_loop_watch(&loop, &nothing, FC_READ) == FC_ERR && !nothing.added);
  fc_loop_destroy(&loop);
}

/* A client that shuts its sending side only may still want its answer: while it
 * is not read, nothing is reported; a reset is. */
static void test_half_close(void) {
  fc_loop loop;
  int ends[2];
  struct linger at_once = {.l_onoff = 1, .l_linger = 0};
  CHECK(fc_loop_init(&loop) == FC_OK);
  make_tcp_pair(ends);
  fc_source source = source_of(ends[0]);
  CHECK(fc_loop_watch(&loop, &source, FC_READ) == FC_OK);
  shutdown(ends[1], SHUT_WR);
  CHECK(wait_for(&loop, &source, 5000) == (FC_READ | FC_HANGUP));
  CHECK(fc_loop_watch(&loop, &source, 0) == FC_OK);
  CHECK(wait_for(&loop, &source, 0) == 0);
  setsockopt(ends[1], SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close(ends[1]);
  CHECK(wait_for(&loop, &source, 5000) == FC_HANGUP);
  drop(&loop, &source);
  fc_loop_destroy(&loop);
}

static void test_urgent_first(void) {
  enum { N = 9 };
  fc_loop loop;
  fc_source sources[N];
  int seen[N] = {0}, what;
  CHECK(fc_loop_init(&loop) == FC_OK);
  for (int i = 0; i < N; i++) {
    sources[i] = make_source(1, i % 3 == 1);
    CHECK(fc_loop_watch(&loop, &sources[i], FC_READ) == FC_OK);
  }
  CHECK(fc_loop_arm(&loop, 0) == FC_OK && is_readable(loop.timer_fd, 5000));
  CHECK(fc_loop_wait(&loop, 0) == N); /* the loop's own timer is no source */
  for (int i = 0; i < N; i++) {
    CHECK(fc_loop_left(&loop) == N - i);
    fc_source *source = fc_loop_next(&loop, &what);
    CHECK(source != NULL && source->urgent == (i < N / 3) && what == FC_READ);
    if (source != NULL) seen[source - sources]++;
  }
  CHECK(fc_loop_next(&loop, &what) == NULL && fc_loop_left(&loop) == 0);
  for (int i = 0; i < N; i++) CHECK(seen[i] == 1);
  for (int i = 0; i < N; i++) drop(&loop, &sources[i]);
  fc_loop_destroy(&loop);
}

/* More sources than one wait returns: each has its turn. */
static void test_many(void) {
  enum { N = FC_LOOP_EVENTS + 100 };
  static fc_source sources[N];
  static int seen[N];
  fc_loop loop;
  uint64_t count;
  int what, n, total = 0;
  CHECK(fc_loop_init(&loop) == FC_OK);
  for (int i = 0; i < N; i++) {
    sources[i] = make_source(1, i == N - 1);
    CHECK(fc_loop_watch(&loop, &sources[i], FC_READ) == FC_OK);
  }
  CHECK((n = fc_loop_wait(&loop, 0)) == FC_LOOP_EVENTS);
  for (; n > 0; n = fc_loop_wait(&loop, 0)) {
    for (fc_source *source; (source = fc_loop_next(&loop, &what)) != NULL; total++) {
      seen[source - sources]++;
      CHECK(read(source->fd, &count, sizeof count) == sizeof count);
    }
  }
  CHECK(total == N);
  for (int i = 0; i < N; i++) CHECK(seen[i] == 1);
  for (int i = 0; i < N; i++) drop(&loop, &sources[i]);
  fc_loop_destroy(&loop);
}

/* ---- closing */

/* Each of three ready sources is closed in the turn, one of them by another's
 * event; its memory goes when it is pulled from the closed list. */
static void test_closed_in_the_turn(int is_urgent) {
  fc_loop loop;
  fc_source *sources[3], *source;
  int what, handed_out = 0, pulled = 0, fds[3];
  CHECK(fc_loop_init(&loop) == FC_OK);
  for (int i = 0; i < 3; i++) {
    sources[i] = malloc(sizeof *sources[i]);
    *sources[i] = make_source(1, i == 0 ? 1 : is_urgent);
    fds[i] = sources[i]->fd;
    CHECK(fc_loop_watch(&loop, sources[i], FC_READ) == FC_OK);
  }
  CHECK(fc_loop_wait(&loop, 0) == 3);
  while ((source = fc_loop_next(&loop, &what)) != NULL) {
    handed_out++;
    CHECK(source == sources[0]);
    for (int i = 0; i < 3; i++) {
      fc_loop_close(&loop, sources[i]);
      fc_loop_close(&loop, sources[i]);
      close(fds[i]);
    }
  }
  CHECK(handed_out == 1 && fc_loop_left(&loop) == 0);
  for (; (source = fc_loop_next_closed(&loop)) != NULL; pulled++) {
    CHECK(source->fd == -1 && !source->added);
    free(source);
  }
  CHECK(pulled == 3 && fc_loop_wait(&loop, 0) == 0);
  fc_loop_destroy(&loop);
}

static void test_unwatched_in_the_turn(void) {
  fc_loop loop;
  int what;
  CHECK(fc_loop_init(&loop) == FC_OK);
  fc_source first = make_source(1, 1), paused = make_source(1, 0);
  CHECK(fc_loop_watch(&loop, &first, FC_READ) == FC_OK);
  CHECK(fc_loop_watch_shared(&loop, &paused) == FC_OK);
  CHECK(fc_loop_wait(&loop, 0) == 2 && fc_loop_next(&loop, &what) == &first);
  fc_loop_unwatch(&loop, &paused);
  CHECK(fc_loop_next(&loop, &what) == NULL);
  fc_loop_unwatch(&loop, &first);
  CHECK(wait_for(&loop, NULL, 0) == 0);
  CHECK(fc_loop_watch_shared(&loop, &paused) == FC_OK);
  CHECK(wait_for(&loop, &paused, 0) == FC_READ);
  CHECK(fc_loop_next_closed(&loop) == NULL); /* unwatched is not closed */
  drop(&loop, &paused);
  drop(&loop, &first);
  fc_loop_destroy(&loop);
}

/* A child may have inherited the descriptor: closing ours is then not enough to
 * make the kernel forget it. */
static void test_closed_but_inherited(void) {
  fc_loop loop;
  CHECK(fc_loop_init(&loop) == FC_OK);
  fc_source *source = malloc(sizeof *source);
  *source = make_source(1, 0);
  int inherited = dup(source->fd);
  CHECK(fc_loop_watch(&loop, source, FC_READ) == FC_OK);
  drop(&loop, source);
  free(source);
  CHECK(wait_for(&loop, NULL, 0) == 0);
  close(inherited);
  fc_source never = source_of(eventfd(1, EFD_CLOEXEC)); /* never watched */
  drop(&loop, &never);
  fc_loop_destroy(&loop);
}

/* ---- the guest's timer */

static void test_arm(void) {
  fc_loop loop;
  CHECK(fc_loop_init(&loop) == FC_OK);
  CHECK(fc_loop_arm(&loop, -1) == FC_OK && loop.timer_fd < 0);
  int64_t started = exact_ms();
  fc_loop_refresh(&loop);
  CHECK(fc_loop_arm(&loop, 10000) == FC_OK);
  CHECK(fc_loop_arm(&loop, 60) == FC_OK); /* earlier counts */
  CHECK(fc_loop_arm(&loop, 20000) == FC_OK && fc_loop_arm(&loop, -1) == FC_OK);
  CHECK(is_readable(loop.poll_fd, 5000));
  int64_t took_ms = exact_ms() - started;
  CHECK(took_ms >= 40 && took_ms < 5000);
  CHECK(wait_for(&loop, NULL, 0) == 0);
  CHECK(!is_readable(loop.poll_fd, 0)); /* it has fired and is over */
  CHECK(fc_loop_arm(&loop, 0) == FC_OK && is_readable(loop.poll_fd, 5000));
  CHECK(wait_for(&loop, NULL, -1) == 0);
  fc_loop_destroy(&loop);
}

/* A turn of ten seconds has passed since the clock was read: what is due 10.02
 * seconds after that reading is due now, and does not hide what comes next. */
static void test_arm_after_a_long_turn(void) {
  fc_loop loop;
  CHECK(fc_loop_init(&loop) == FC_OK);
  loop.now_ms -= 10000;
  CHECK(fc_loop_arm(&loop, 10020) == FC_OK && is_readable(loop.poll_fd, 5000));
  CHECK(wait_for(&loop, NULL, 0) == 0);
  loop.now_ms -= 10000;
  CHECK(fc_loop_arm(&loop, 5) == FC_OK && is_readable(loop.poll_fd, 5000)); /* overdue */
  fc_loop_destroy(&loop);
}

/* Armed again by whoever is served in the turn in which it fired. */
static void test_arm_within_the_turn(void) {
  fc_loop loop;
  int what;
  CHECK(fc_loop_init(&loop) == FC_OK);
  fc_source source = make_source(1, 1);
  CHECK(fc_loop_watch(&loop, &source, FC_READ) == FC_OK);
  CHECK(fc_loop_arm(&loop, 0) == FC_OK && is_readable(loop.timer_fd, 5000));
  CHECK(fc_loop_wait(&loop, 0) == 1 && fc_loop_next(&loop, &what) == &source);
  CHECK(fc_loop_arm(&loop, 5) == FC_OK);
  drop(&loop, &source);
  CHECK(fc_loop_next(&loop, &what) == NULL);
  CHECK(is_readable(loop.poll_fd, 5000));
  fc_loop_destroy(&loop);
}

/* ---- one listener, two processes */

/* Answers each connection with its own number.  On its channel, 'b' makes it
 * busy (it waits for 'g' outside of its loop), and EOF ends it. */
static int serve(int listener_fd, int channel_fd, char number) {
  fc_loop loop;
  fc_source listener = {.fd = listener_fd, .urgent = 1};
  fc_source channel = {.fd = channel_fd, .urgent = 1};
  char order = number;
  int what, accepted = 0;
  if (fc_loop_init(&loop) < 0 || fc_loop_watch_shared(&loop, &listener) < 0 ||
      fc_loop_watch(&loop, &channel, FC_READ) < 0 || write(channel_fd, &order, 1) != 1)
    return 255;
  for (;;) {
    if (fc_loop_wait(&loop, -1) < 0) return 255;
    for (fc_source *source; (source = fc_loop_next(&loop, &what)) != NULL;) {
      if (source == &listener) {
        for (int fd; (fd = accept(listener_fd, NULL, NULL)) >= 0; accepted++) {
          if (write(fd, &number, 1) != 1) return 255;
          close(fd);
        }
      } else if (read(channel_fd, &order, 1) != 1) {
        fc_loop_destroy(&loop);
        return accepted;
      } else if (write(channel_fd, &order, 1) != 1 || read(channel_fd, &order, 1) != 1) {
        return 255;
      }
    }
  }
}

/* Connects n times, one after the other; returns how many were answered by
 * `number`, each exactly once. */
static int connect_often(int listener, int n, char number) {
  int answered = 0;
  for (int i = 0; i < n; i++) {
    char bytes[4];
    int fd = connect_to(listener);
    CHECK(is_readable(fd, 10000));
    CHECK(read(fd, bytes, 1) == 1);
    answered += bytes[0] == number;
    CHECK(read(fd, bytes + 1, 1) == 0);
    close(fd);
  }
  return answered;
}

static void test_shared_listener(void) {
  int listener = make_listener(), channels[2][2], status[2];
  pid_t workers[2];
  char byte;
  for (int i = 0; i < 2; i++) {
    make_unix_pair(channels[i]);
    fflush(stdout);
    workers[i] = fork();
    if (workers[i] == 0) {
      for (int j = 0; j <= i; j++) close(channels[j][0]);
      _exit(serve(listener, channels[i][1], (char)('0' + i)));
    }
    close(channels[i][1]);
  }
  for (int i = 0; i < 2; i++) CHECK(read(channels[i][0], &byte, 1) == 1 && byte == '0' + i);
  int by_first = connect_often(listener, 60, '0');
  /* A worker that is busy takes nothing, and holds nothing up. */
  CHECK(write(channels[0][0], "b", 1) == 1 && read(channels[0][0], &byte, 1) == 1);
  CHECK(connect_often(listener, 20, '1') == 20);
  CHECK(write(channels[0][0], "g", 1) == 1);
  CHECK(write(channels[1][0], "b", 1) == 1 && read(channels[1][0], &byte, 1) == 1);
  CHECK(connect_often(listener, 20, '0') == 20);
  CHECK(write(channels[1][0], "g", 1) == 1);
  for (int i = 0; i < 2; i++) {
    close(channels[i][0]);
    CHECK(waitpid(workers[i], &status[i], 0) == workers[i] && WIFEXITED(status[i]));
  }
  CHECK(WEXITSTATUS(status[0]) == by_first + 20);
  CHECK(WEXITSTATUS(status[1]) == 60 - by_first + 20);
  close(listener);
}

static void test_shared_watch(void) {
  fc_loop loop;
  CHECK(fc_loop_init(&loop) == FC_OK);
  fc_source listener = source_of(make_listener());
  CHECK(fc_loop_watch_shared(&loop, &listener) == FC_OK);
  CHECK(control_events & EPOLLEXCLUSIVE);
  control_calls = 0;
  CHECK(fc_loop_watch_shared(&loop, &listener) == FC_OK && control_calls == 0);
  CHECK(wait_for(&loop, &listener, 0) == 0);
  int client = connect_to(listener.fd);
  CHECK(wait_for(&loop, &listener, 5000) == FC_READ);
  close(client);
  drop(&loop, &listener);
  fc_loop_destroy(&loop);
}

int main(void) {
  int before = count_descriptors();
  test_life();
  test_without_descriptors();
  test_clocks();
  test_interrupted();
  test_interest();
  test_half_close();
  test_urgent_first();
  test_many();
  test_closed_in_the_turn(0);
  test_closed_in_the_turn(1);
  test_unwatched_in_the_turn();
  test_closed_but_inherited();
  test_arm();
  test_arm_after_a_long_turn();
  test_arm_within_the_turn();
  test_shared_watch();
  test_shared_listener();
  CHECK(count_descriptors() == before);
  return check_summary("loop");
}
