/* loop.c: epoll and timerfd behind loop.h. */
#define _GNU_SOURCE
#include "loop.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

/* Sources are aligned, so the lowest bit of their address is free to say
 * "urgent" without touching the source's memory during the first scan. */
#define URGENT_BIT ((uintptr_t)1)

enum { WALL_LAG_MS = 4 };

static fc_source *event_source(const struct epoll_event *event) {
  return (fc_source *)((uintptr_t)event->data.u64 & ~URGENT_BIT);
}

static int event_is_urgent(const struct epoll_event *event) {
  return (int)((uintptr_t)event->data.u64 & URGENT_BIT);
}

int fc_loop_init(fc_loop *loop) {
  memset(loop, 0, sizeof *loop);
  loop->poll_fd = loop->timer_fd = -1;
  loop->events = calloc(FC_LOOP_EVENTS, sizeof *loop->events);
  loop->buffer = malloc(FC_LOOP_BUFFER);
  if (loop->events == NULL || loop->buffer == NULL) goto failed;
  loop->poll_fd = epoll_create1(EPOLL_CLOEXEC);
  if (loop->poll_fd < 0) goto failed;
  fc_loop_refresh(loop);
  return FC_OK;
failed:
  fc_loop_destroy(loop);
  return FC_ERR;
}

void fc_loop_destroy(fc_loop *loop) {
  int saved = errno;
  if (loop->timer_fd >= 0) close(loop->timer_fd);
  if (loop->poll_fd >= 0) close(loop->poll_fd);
  free(loop->events);
  free(loop->buffer);
  memset(loop, 0, sizeof *loop);
  loop->poll_fd = loop->timer_fd = -1;
  errno = saved;
}

static int control(fc_loop *loop, fc_source *source, uint32_t events) {
  struct epoll_event event;
  memset(&event, 0, sizeof event);
  event.events = events;
  event.data.u64 = (uint64_t)((uintptr_t)source | (source->urgent ? URGENT_BIT : 0));
  int op = source->added ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  if (epoll_ctl(loop->poll_fd, op, source->fd, &event) < 0) return FC_ERR;
  source->added = 1;
  return FC_OK;
}

int fc_loop_watch(fc_loop *loop, fc_source *source, int what) {
  if (source->added && source->watching == (uint8_t)what) return FC_OK;
  uint32_t events = EPOLLRDHUP * (uint32_t)((what & FC_READ) != 0);
  if (what & FC_READ) events |= EPOLLIN;
  if (what & FC_WRITE) events |= EPOLLOUT;
  if (control(loop, source, events) < 0) return FC_ERR;
  source->watching = (uint8_t)what;
  return FC_OK;
}

int fc_loop_watch_shared(fc_loop *loop, fc_source *source) {
  if (source->added) return FC_OK;
  if (control(loop, source, EPOLLIN | EPOLLEXCLUSIVE) < 0) return FC_ERR;
  source->watching = FC_READ;
  return FC_OK;
}

void fc_loop_unwatch(fc_loop *loop, fc_source *source) {
  if (!source->added) return;
  /* Deleted by hand and not by close(): a child that the application forked
   * may hold the same description open, and the kernel would go on reporting
   * it with a pointer to freed memory. */
  epoll_ctl(loop->poll_fd, EPOLL_CTL_DEL, source->fd, NULL);
  source->added = 0;
  source->watching = 0;
}

int64_t fc_loop_clock(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The monotonic clock is the exact one, since latencies are counted from it.  The wall
 * clock, of which we want the second, may lag by the 4 ms that the coarse clocks do. */
void fc_loop_refresh(fc_loop *loop) {
  loop->now_ns = fc_loop_clock();
  loop->now_ms = loop->now_ns / 1000000;
  if (loop->now_ms - loop->wall_ms < WALL_LAG_MS) return;
  struct timespec now;
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  loop->unix_second = (int64_t)now.tv_sec;
  loop->wall_ms = loop->now_ms;
}

static void drain_timer(fc_loop *loop) {
  uint64_t fired;
  if (read(loop->timer_fd, &fired, sizeof fired) < 0) return;
  loop->timer_at_ms = 0;
}

/* Our own timer is dealt with here and not in its turn, so that whoever arms it
 * again while the others are served finds it disarmed. */
static void count_events(fc_loop *loop) {
  for (int i = 0; i < loop->ready; i++) {
    const struct epoll_event *event = &loop->events[i];
    if (event_source(event) == NULL) {
      drain_timer(loop);
      continue;
    }
    loop->left++;
    loop->urgent_left += event_is_urgent(event);
  }
}

int fc_loop_wait(fc_loop *loop, int timeout_ms) {
  loop->ready = loop->next = loop->left = 0;
  loop->urgent_left = loop->urgent_next = 0;
  int n = epoll_wait(loop->poll_fd, loop->events, FC_LOOP_EVENTS, timeout_ms);
  fc_loop_refresh(loop);
  if (n < 0) return FC_ERR;
  loop->ready = n;
  count_events(loop);
  return loop->left;
}

static int reported(uint32_t events) {
  int what = 0;
  if (events & EPOLLIN) what |= FC_READ;
  if (events & EPOLLOUT) what |= FC_WRITE;
  if (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) what |= FC_HANGUP;
  return what;
}

/* The next urgent event; they are few, and handed out before all others. */
static struct epoll_event *next_urgent(fc_loop *loop) {
  while (loop->urgent_left > 0) {
    struct epoll_event *event = &loop->events[loop->urgent_next++];
    if (!event_is_urgent(event)) continue;
    loop->urgent_left--;
    return event;
  }
  return NULL;
}

static struct epoll_event *next_plain(fc_loop *loop) {
  while (loop->next < loop->ready) {
    struct epoll_event *event = &loop->events[loop->next++];
    if (!event_is_urgent(event) && event_source(event) != NULL) return event;
  }
  return NULL;
}

fc_source *fc_loop_next(fc_loop *loop, int *what) {
  for (;;) {
    struct epoll_event *event = next_urgent(loop);
    if (event == NULL) event = next_plain(loop);
    if (event == NULL) return NULL;
    loop->left--;
    fc_source *source = event_source(event);
    if (!source->added) continue; /* closed or unwatched earlier in this turn */
    *what = reported(event->events);
    return source;
  }
}

void fc_loop_close(fc_loop *loop, fc_source *source) {
  if (source->fd < 0) return;
  fc_loop_unwatch(loop, source);
  source->fd = -1;
  source->next_closed = loop->closed;
  loop->closed = source;
}

fc_source *fc_loop_next_closed(fc_loop *loop) {
  fc_source *source = loop->closed;
  if (source == NULL) return NULL;
  loop->closed = source->next_closed;
  source->next_closed = NULL;
  return source;
}

static int make_timer(fc_loop *loop) {
  int timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  if (timer_fd < 0) return FC_ERR;
  struct epoll_event event;
  memset(&event, 0, sizeof event);
  event.events = EPOLLIN; /* data 0: no source, the loop's own */
  if (epoll_ctl(loop->poll_fd, EPOLL_CTL_ADD, timer_fd, &event) < 0) {
    int saved = errno;
    close(timer_fd);
    errno = saved;
    return FC_ERR;
  }
  loop->timer_fd = timer_fd;
  return FC_OK;
}

/* From now until a moment of the loop's clock, which is behind by the length of
 * the turn.  At least 1 ms, which the clock in milliseconds may lag. */
static struct timespec span_until(int64_t at_ms) {
  int64_t wait_ms = at_ms - fc_loop_clock() / 1000000;
  if (wait_ms < 1) wait_ms = 1;
  struct timespec span;
  span.tv_sec = (time_t)(wait_ms / 1000);
  span.tv_nsec = (long)(wait_ms % 1000) * 1000000L;
  return span;
}

int fc_loop_arm(fc_loop *loop, int64_t wait_ms) {
  if (wait_ms < 0) return FC_OK;
  int64_t at_ms = loop->now_ms + wait_ms;
  /* An armed timer that fires earlier is left alone: waking once too often is
   * cheaper than a system call a turn. */
  if (loop->timer_at_ms != 0 && loop->timer_at_ms <= at_ms) return FC_OK;
  if (loop->timer_fd < 0 && make_timer(loop) < 0) return FC_ERR;
  struct itimerspec when;
  memset(&when, 0, sizeof when);
  when.it_value = span_until(at_ms);
  if (timerfd_settime(loop->timer_fd, 0, &when, NULL) < 0) return FC_ERR;
  loop->timer_at_ms = at_ms;
  return FC_OK;
}
