/* loop.h: the poll set: watch, wait, next ready source, closed list, and the
 * one receive buffer.
 *
 * The only file that calls epoll and timerfd.  It calls nobody back: after
 * fc_loop_wait the caller pulls what is ready with fc_loop_next.  Sources that
 * are urgent (listeners, inboxes, channels) come before connections, so that a
 * worker takes or passes on new connections before it gets busy with old ones.
 * It knows no sockets' meaning and no HTTP. */
#ifndef FC_LOOP_H
#define FC_LOOP_H

#include "fc.h"

enum {
  FC_READ = 1,
  FC_WRITE = 2,
  FC_HANGUP = 4, /* reported only: the peer is gone, or an error waits */
};

/* Embedded in what is watched; its owner must outlive it until it was pulled
 * from the closed list. */
typedef struct fc_source {
  int fd;           /* -1 once closed: events still queued for it are skipped */
  uint8_t kind;     /* the caller's own mark */
  uint8_t urgent;   /* comes before the others */
  uint8_t watching; /* FC_READ | FC_WRITE as the kernel has it */
  uint8_t added;    /* the kernel knows the descriptor */
  void *owner;
  struct fc_source *next_closed;
} fc_source;

#define FC_LOOP_EVENTS 256
#define FC_LOOP_BUFFER (128 * 1024)

struct epoll_event;
typedef struct fc_loop {
  int poll_fd;
  int timer_fd;
  int64_t now_ns;      /* monotonic, as of the last wait or refresh */
  int64_t now_ms;      /* the same in milliseconds */
  int64_t unix_second; /* wall clock, likewise */
  int64_t wall_ms;     /* when that was read */
  int64_t timer_at_ms; /* when timer_fd fires; 0: disarmed */
  int ready;           /* events of the last wait */
  int next;            /* the next one to hand out */
  int left;            /* those of sources not handed out yet, the urgent ones among them */
  int urgent_left;     /* urgent ones not handed out yet */
  int urgent_next;
  struct epoll_event *events;
  char *buffer; /* FC_LOOP_BUFFER bytes: what the connection being read reads into */
  fc_source *closed;
} fc_loop;

/* FC_OK or FC_ERR. */
int fc_loop_init(fc_loop *loop);
void fc_loop_destroy(fc_loop *loop);

/* Watches a source for FC_READ and/or FC_WRITE (0: only for hang-ups), or
 * changes what it is watched for; no system call when nothing changes. */
int fc_loop_watch(fc_loop *loop, fc_source *source, int what);
/* The same for a shared listener: only some of the processes that wait on it
 * are woken (EPOLLEXCLUSIVE).  Pause it with fc_loop_unwatch. */
int fc_loop_watch_shared(fc_loop *loop, fc_source *source);
void fc_loop_unwatch(fc_loop *loop, fc_source *source);

/* Waits until a source is ready, the armed timer fires or timeout_ms (-1: for
 * ever) is over.  Returns how many sources are ready, or FC_ERR (EINTR among
 * others).  Refreshes the clocks. */
int fc_loop_wait(fc_loop *loop, int timeout_ms);

/* The monotonic clock, exact to tens of nanoseconds, which is also what it costs. */
int64_t fc_loop_clock(void);
/* Reads the clocks again, for callers that worked long or do not wait. */
void fc_loop_refresh(fc_loop *loop);

/* The next ready source, or NULL; *what gets FC_READ | FC_WRITE | FC_HANGUP. */
fc_source *fc_loop_next(fc_loop *loop, int *what);
/* How many ready sources have not been pulled yet; those that were closed or
 * unwatched since the wait are counted until fc_loop_next passes them over. */
static inline int fc_loop_left(const fc_loop *loop) { return loop->left; }

/* Takes the source out of the set and puts it on the closed list; the caller
 * closes the descriptor itself, afterwards.  Harmless when done twice. */
void fc_loop_close(fc_loop *loop, fc_source *source);
/* The next closed source, or NULL.  Pulled after each turn: only then may the
 * owner's memory go. */
fc_source *fc_loop_next_closed(fc_loop *loop);

/* For a guest in another loop: makes poll_fd readable wait_ms (-1: not at all)
 * after now_ms, since nobody then gives fc_loop_wait a timeout.  It may become
 * readable earlier, for a moment asked for before. */
int fc_loop_arm(fc_loop *loop, int64_t wait_ms);

#endif
