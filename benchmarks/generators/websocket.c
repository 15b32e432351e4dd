/* websocket.c: WebSocket messages as load, which wrk cannot send.
 *
 * One thread, one epoll descriptor, so many connections.  Each sends one
 * masked binary message, waits until the same bytes have come back whole, and
 * sends the next.  Its law: everything that comes back is compared, and what
 * differs, closes or errs is counted and never taken for an answer.  The frame
 * is made once, at the start.  Pings are answered; it offers no extension.
 *
 *     websocket PORT CONNECTIONS SECONDS MESSAGE_BYTES
 *
 * At the end it prints one line of figures in wrk/report.lua's form. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
  N_EVENTS = 256,
  RECEIVE_BYTES = 65536,
  HEAD_BYTES = 4096, /* longest answer to a handshake */
  MESSAGE_MAX = 65535,
  FRAME_MAX = 8 + MESSAGE_MAX,
  CONTROL_MAX = 125,
  N_BUCKETS = 1 << 21, /* microseconds; what takes longer is counted in the last */
  HANDSHAKE_S = 10,
};

static const unsigned char mask[4] = {0x5a, 0x01, 0xfe, 0x33};

struct conn {
  int fd;
  int is_open;
  uint64_t began_ns;                   /* when the current message was handed to the kernel */
  size_t sent;                         /* of the frame that goes out */
  unsigned char head[2 + CONTROL_MAX]; /* what has come of a head, or of a whole ping */
  size_t n_head;
  size_t matched; /* of the echo's payload */
  int is_echo;    /* the head has been read and was the right one */
};

struct load {
  int poll;
  unsigned char frame[FRAME_MAX]; /* as a client sends it */
  size_t frame_bytes;
  unsigned char echo[4]; /* the head that a server's echo has */
  size_t echo_bytes;
  size_t message_bytes;
  uint64_t n_answers;
  uint64_t n_received;
  uint64_t n_connect_errors, n_read_errors, n_write_errors, n_wrong;
  uint32_t *buckets;
};

static _Noreturn void fail(const char *what) {
  fprintf(stderr, "websocket: %s: %s\n", what, strerror(errno));
  exit(1);
}

static size_t size_from(const char *text, size_t low, size_t high) {
  char *end = NULL;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' || value < low || value > high) {
    fprintf(stderr, "websocket: %s is not a number from %zu to %zu\n", text, low, high);
    exit(2);
  }
  return (size_t)value;
}

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Makes the frame that is sent, and the head of the one that comes back. */
static void make_frames(struct load *load, size_t message_bytes) {
  int is_long = message_bytes > CONTROL_MAX;
  unsigned char length = is_long ? 126 : (unsigned char)message_bytes;
  load->message_bytes = message_bytes;
  load->echo[0] = load->frame[0] = 0x82; /* FIN, binary: RFC 6455 section 5.2 */
  load->echo[1] = length;
  load->frame[1] = 0x80 | length;
  load->echo_bytes = is_long ? 4 : 2;
  if (is_long) {
    load->frame[2] = load->echo[2] = (unsigned char)(message_bytes >> 8);
    load->frame[3] = load->echo[3] = (unsigned char)(message_bytes & 0xff);
  }
  unsigned char *at = load->frame + load->echo_bytes;
  memcpy(at, mask, sizeof mask);
  at += sizeof mask;
  for (size_t i = 0; i < message_bytes; i++) at[i] = 'x' ^ mask[i % 4];
  load->frame_bytes = load->echo_bytes + sizeof mask + message_bytes;
}

/* Opens one connection and speaks the handshake.  Returns its descriptor, or -1. */
static int open_websocket(uint16_t port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) fail("socket");
  struct timeval patience = {.tv_sec = HANDSHAKE_S};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  char request[256];
  int length = snprintf(request, sizeof request,
                        "GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                        port);
  char answer[HEAD_BYTES];
  size_t n = 0;
  int is_whole = 0;
  if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
      send(fd, request, (size_t)length, MSG_NOSIGNAL) == length) {
    /* A byte at a time is slow and never takes what belongs to a frame. */
    while (!is_whole && n < sizeof answer && recv(fd, answer + n, 1, 0) == 1) {
      n++;
      is_whole = n >= 4 && memcmp(answer + n - 4, "\r\n\r\n", 4) == 0;
    }
  }
  if (!is_whole || memcmp(answer, "HTTP/1.1 101 ", 13) != 0) {
    close(fd);
    return -1;
  }
  if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0) fail("fcntl");
  return fd;
}

static void conn_close(struct load *load, struct conn *conn, uint64_t *reason) {
  if (conn->is_open) epoll_ctl(load->poll, EPOLL_CTL_DEL, conn->fd, NULL);
  close(conn->fd);
  conn->is_open = 0;
  (*reason)++;
}

static void wait_for(struct load *load, struct conn *conn, uint32_t events) {
  struct epoll_event event = {.events = events, .data.ptr = conn};
  if (epoll_ctl(load->poll, EPOLL_CTL_MOD, conn->fd, &event) < 0) fail("epoll_ctl");
}

/* Sends what is left of the message.  A message is in one packet nearly always,
 * so waiting for room is the rare case. */
static void send_message(struct load *load, struct conn *conn) {
  int was_waiting = conn->sent > 0;
  if (!was_waiting) conn->began_ns = now_ns();
  ssize_t n =
      send(conn->fd, load->frame + conn->sent, load->frame_bytes - conn->sent, MSG_NOSIGNAL);
  if (n < 0 && errno != EAGAIN) {
    conn_close(load, conn, &load->n_write_errors);
    return;
  }
  if (n > 0) conn->sent += (size_t)n;
  if (conn->sent < load->frame_bytes) {
    wait_for(load, conn, EPOLLIN | EPOLLOUT);
    return;
  }
  conn->sent = 0;
  if (was_waiting) wait_for(load, conn, EPOLLIN);
}

static void answered(struct load *load, struct conn *conn) {
  uint64_t us = (now_ns() - conn->began_ns) / 1000;
  load->buckets[us < N_BUCKETS ? us : N_BUCKETS - 1]++;
  load->n_answers++;
  conn->matched = conn->n_head = 0;
  conn->is_echo = 0;
  send_message(load, conn);
}

/* A frame that is no echo: a ping is answered, a pong is passed over.  Returns
 * 0 while it is not whole, 1 when it was dealt with, -1 for anything else. */
static int control(struct conn *conn) {
  size_t length = conn->head[1];
  if (length > CONTROL_MAX || (conn->head[0] != 0x89 && conn->head[0] != 0x8a)) return -1;
  if (conn->n_head < 2 + length) return 0;
  if (conn->head[0] == 0x89) {
    unsigned char pong[6 + CONTROL_MAX] = {0x8a, 0x80 | (unsigned char)length};
    memcpy(pong + 2, mask, sizeof mask);
    for (size_t i = 0; i < length; i++) pong[6 + i] = conn->head[2 + i] ^ mask[i % 4];
    if (send(conn->fd, pong, 6 + length, MSG_NOSIGNAL) != (ssize_t)(6 + length)) return -1;
  }
  conn->n_head = 0;
  return 1;
}

/* Takes a frame's head, byte by byte since it is two to four bytes long.
 * Returns how many bytes it took, or -1 for a frame that is wrong. */
static ssize_t take_head(struct load *load, struct conn *conn, const unsigned char *at, size_t n) {
  size_t used = 0;
  while (used < n && !conn->is_echo) {
    conn->head[conn->n_head++] = at[used++];
    if (conn->n_head < 2) continue;
    if (conn->head[0] != load->echo[0]) {
      if (control(conn) < 0) return -1;
      continue;
    }
    if (conn->n_head < load->echo_bytes) continue;
    if (memcmp(conn->head, load->echo, load->echo_bytes) != 0) return -1;
    conn->is_echo = 1;
  }
  return (ssize_t)used;
}

/* Compares what has come.  Returns 0, or -1 if it is not the echo. */
static int take(struct load *load, struct conn *conn, const unsigned char *at, size_t n) {
  while (n > 0 && conn->is_open) {
    ssize_t used = take_head(load, conn, at, n);
    if (used < 0) return -1;
    at += used;
    n -= (size_t)used;
    if (!conn->is_echo) return 0;
    size_t missing = load->message_bytes - conn->matched;
    size_t here = n < missing ? n : missing;
    for (size_t i = 0; i < here; i++)
      if (at[i] != 'x') return -1;
    conn->matched += here;
    at += here;
    n -= here;
    if (conn->matched == load->message_bytes) answered(load, conn);
  }
  return 0;
}

static void serve(struct load *load, struct conn *conn, uint32_t events) {
  static unsigned char received[RECEIVE_BYTES];
  if ((events & EPOLLOUT) != 0 && conn->sent > 0) send_message(load, conn);
  if (!conn->is_open || (events & ~(uint32_t)EPOLLOUT) == 0) return;
  ssize_t n = recv(conn->fd, received, sizeof received, 0);
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0) {
    conn_close(load, conn, &load->n_read_errors);
    return;
  }
  load->n_received += (uint64_t)n;
  if (take(load, conn, received, (size_t)n) < 0) conn_close(load, conn, &load->n_wrong);
}

static uint64_t percentile(const struct load *load, double share) {
  uint64_t wanted = (uint64_t)((double)load->n_answers * share);
  uint64_t seen = 0;
  for (size_t us = 0; us < N_BUCKETS; us++) {
    seen += load->buckets[us];
    if (seen > wanted) return us;
  }
  return N_BUCKETS;
}

static void run(struct load *load, uint64_t until_ns) {
  struct epoll_event events[N_EVENTS];
  for (uint64_t now = now_ns(); now < until_ns; now = now_ns()) {
    int n = epoll_wait(load->poll, events, N_EVENTS, (int)((until_ns - now) / 1000000) + 1);
    if (n < 0 && errno != EINTR) fail("epoll_wait");
    for (int i = 0; i < n; i++) {
      struct conn *conn = events[i].data.ptr;
      if (conn->is_open) serve(load, conn, events[i].events);
    }
  }
}

int main(int argc, char **argv) {
  if (argc != 5) {
    fputs("usage: websocket PORT CONNECTIONS SECONDS MESSAGE_BYTES\n", stderr);
    return 2;
  }
  uint16_t port = (uint16_t)size_from(argv[1], 1, UINT16_MAX);
  size_t n_conns = size_from(argv[2], 1, 1000000);
  size_t seconds = size_from(argv[3], 1, 86400);
  static struct load load;
  make_frames(&load, size_from(argv[4], 1, MESSAGE_MAX));
  load.poll = epoll_create1(EPOLL_CLOEXEC);
  load.buckets = calloc(N_BUCKETS, sizeof *load.buckets);
  struct conn *conns = calloc(n_conns, sizeof *conns);
  if (load.poll < 0 || load.buckets == NULL || conns == NULL) fail("cannot begin");
  for (size_t i = 0; i < n_conns; i++) {
    conns[i].fd = open_websocket(port);
    if (conns[i].fd < 0) {
      load.n_connect_errors++;
      continue;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &conns[i]};
    if (epoll_ctl(load.poll, EPOLL_CTL_ADD, conns[i].fd, &event) < 0) fail("epoll_ctl");
    conns[i].is_open = 1;
  }
  uint64_t began_ns = now_ns();
  for (size_t i = 0; i < n_conns; i++)
    if (conns[i].is_open) send_message(&load, &conns[i]);
  run(&load, began_ns + (uint64_t)seconds * 1000000000u);
  uint64_t took_ns = now_ns() - began_ns;
  printf(
      "figures {\"duration_us\": %llu, \"requests\": %llu, \"received_bytes\": %llu, "
      "\"p50_us\": %llu, \"p99_us\": %llu, \"p999_us\": %llu, \"connect_errors\": %llu, "
      "\"read_errors\": %llu, \"write_errors\": %llu, \"wrong_errors\": %llu}\n",
      (unsigned long long)(took_ns / 1000), (unsigned long long)load.n_answers,
      (unsigned long long)load.n_received, (unsigned long long)percentile(&load, 0.5),
      (unsigned long long)percentile(&load, 0.99), (unsigned long long)percentile(&load, 0.999),
      (unsigned long long)load.n_connect_errors, (unsigned long long)load.n_read_errors,
      (unsigned long long)load.n_write_errors, (unsigned long long)load.n_wrong);
  return 0;
}
