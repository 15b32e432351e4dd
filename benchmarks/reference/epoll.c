/* epoll.c: the floor that servers are measured against.
 *
 * One thread, one epoll descriptor, one receive buffer.  It finds the blank
 * line that ends a head and answers with a constant; a batch of pipelined
 * requests costs one recv and one send.  Its law: it does what the kernel asks
 * of every server and nothing that HTTP asks.  It does not know methods,
 * targets, fields or lengths: how many bytes of body follow each head, and
 * whether the connection ends with the answer, is told on the command line,
 * since the load is known.
 *
 *     epoll [PORT [ANSWER [REQUEST_BODY_BYTES [keep-alive|close]]]]
 *
 * The answer's body is the text ANSWER, or so many x if it is a number.  Port 0
 * takes any free port; the one taken is printed.  SIGTERM ends it. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { N_EVENTS = 256, BACKLOG = 2048, RECEIVE_BYTES = 65536, WIRE_BYTES = 65536 };

struct conn {
  int fd;
  unsigned matched;  /* how much of CR LF CR LF the last bytes were */
  size_t body_bytes; /* of the current request, still to be skipped */
  size_t owed_bytes; /* of answers, not yet taken by the socket */
  size_t phase;      /* where in the answer the next owed byte stands */
};

/* The answer, repeated as often as fits, so that a batch of answers is one
 * run of memory. */
struct wire {
  char *bytes;
  size_t n_bytes;
  size_t answer_bytes;
  int closes; /* each connection ends with its first answers */
};

static _Noreturn void fail(const char *what) {
  fprintf(stderr, "epoll: %s: %s\n", what, strerror(errno));
  exit(1);
}

static size_t size_from(const char *text) {
  char *end = NULL;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' || value > SIZE_MAX / 4) {
    fprintf(stderr, "epoll: %s is not a size; say it in bytes, as digits\n", text);
    exit(2);
  }
  return (size_t)value;
}

static int is_number(const char *text) { return text[strspn(text, "0123456789")] == '\0'; }

static struct wire wire_make(const char *answer, int closes) {
  size_t body_bytes = is_number(answer) ? size_from(answer) : strlen(answer);
  char head[128];
  int length = snprintf(head, sizeof head,
                        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
                        "Content-Length: %zu\r\n%s\r\n",
                        body_bytes, closes ? "Connection: close\r\n" : "");
  if (length < 0 || (size_t)length >= sizeof head) fail("cannot write the head");
  size_t head_bytes = (size_t)length;
  struct wire wire = {.answer_bytes = head_bytes + body_bytes, .closes = closes};
  size_t n_answers = wire.answer_bytes < WIRE_BYTES ? WIRE_BYTES / wire.answer_bytes : 1;
  wire.n_bytes = n_answers * wire.answer_bytes;
  wire.bytes = malloc(wire.n_bytes);
  if (wire.bytes == NULL) fail("cannot take memory for the answer");
  for (char *at = wire.bytes; at < wire.bytes + wire.n_bytes; at += wire.answer_bytes) {
    memcpy(at, head, head_bytes);
    if (is_number(answer))
      memset(at + head_bytes, 'x', body_bytes);
    else
      memcpy(at + head_bytes, answer, body_bytes);
  }
  return wire;
}

/* Counts the requests that end in these bytes.  memchr leaps from line to
 * line; the state carries a match, or a body, across two receives. */
static size_t requests_in(struct conn *conn, const char *at, const char *end,
                          size_t request_body_bytes) {
  static const char blank_line[] = "\r\n\r\n";
  size_t n_requests = 0;
  while (at < end) {
    if (conn->body_bytes > 0) {
      size_t here = (size_t)(end - at);
      size_t skipped = here < conn->body_bytes ? here : conn->body_bytes;
      at += skipped;
      conn->body_bytes -= skipped;
      n_requests += conn->body_bytes == 0;
      continue;
    }
    if (conn->matched == 0 && (at = memchr(at, '\r', (size_t)(end - at))) == NULL) break;
    if (*at != blank_line[conn->matched])
      conn->matched = *at == '\r';
    else
      conn->matched++;
    at++;
    if (conn->matched < 4) continue;
    conn->matched = 0;
    conn->body_bytes = request_body_bytes;
    n_requests += request_body_bytes == 0;
  }
  return n_requests;
}

/* Sends what is owed.  Returns 0 when the socket took all of it, 1 when it
 * took a part, -1 when the connection is broken. */
static int flush(struct conn *conn, const struct wire *wire) {
  while (conn->owed_bytes > 0) {
    size_t run = wire->n_bytes - conn->phase;
    if (run > conn->owed_bytes) run = conn->owed_bytes;
    ssize_t sent = send(conn->fd, wire->bytes + conn->phase, run, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR ? 1 : -1;
    conn->owed_bytes -= (size_t)sent;
    conn->phase = (conn->phase + (size_t)sent) % wire->answer_bytes;
  }
  return 0;
}

static void watch(int poll, int operation, int fd, uint32_t events, void *source) {
  struct epoll_event event = {.events = events, .data.ptr = source};
  if (epoll_ctl(poll, operation, fd, &event) < 0) fail("epoll_ctl");
}

static void conn_close(struct conn *conn) {
  close(conn->fd);
  free(conn);
}

/* A connection waits for input or for room, never for both: what reads no
 * answers gets none, and its requests stay in the kernel. */
static void conn_serve(int poll, struct conn *conn, uint32_t events, const struct wire *wire,
                       size_t request_body_bytes) {
  static char received[RECEIVE_BYTES];
  int was_blocked = conn->owed_bytes > 0;
  if (!was_blocked && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
    ssize_t n = recv(conn->fd, received, sizeof received, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
      conn_close(conn);
      return;
    }
    conn->owed_bytes =
        wire->answer_bytes * requests_in(conn, received, received + n, request_body_bytes);
  }
  int had_answer = conn->owed_bytes > 0;
  int is_blocked = flush(conn, wire);
  if (is_blocked < 0 || (wire->closes && had_answer && !is_blocked)) {
    conn_close(conn);
    return;
  }
  if (is_blocked != was_blocked)
    watch(poll, EPOLL_CTL_MOD, conn->fd, is_blocked ? EPOLLOUT : EPOLLIN, conn);
}

static void accept_all(int poll, int listener) {
  int fd;
  while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
    struct conn *conn = calloc(1, sizeof *conn);
    if (conn == NULL) fail("cannot take memory for a connection");
    conn->fd = fd;
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    watch(poll, EPOLL_CTL_ADD, fd, EPOLLIN, conn);
  }
  if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) fail("accept4");
}

static int listen_on(uint16_t port) {
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (listener < 0) fail("socket");
  int on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (bind(listener, (struct sockaddr *)&address, size) < 0) fail("bind");
  if (listen(listener, BACKLOG) < 0) fail("listen");
  if (getsockname(listener, (struct sockaddr *)&address, &size) < 0) fail("getsockname");
  printf("listening on http://127.0.0.1:%d\n", ntohs(address.sin_port));
  fflush(stdout);
  return listener;
}

int main(int argc, char **argv) {
  size_t port = argc > 1 ? size_from(argv[1]) : 0;
  const char *ending = argc > 4 ? argv[4] : "keep-alive";
  int closes = strcmp(ending, "close") == 0;
  if (argc > 5 || port > UINT16_MAX || (!closes && strcmp(ending, "keep-alive") != 0)) {
    fputs("usage: epoll [PORT [ANSWER [REQUEST_BODY_BYTES [keep-alive|close]]]]\n", stderr);
    return 2;
  }
  struct wire wire = wire_make(argc > 2 ? argv[2] : "hello world\n", closes);
  size_t request_body_bytes = argc > 3 ? size_from(argv[3]) : 0;
  int listener = listen_on((uint16_t)port);
  int poll = epoll_create1(EPOLL_CLOEXEC);
  if (poll < 0) fail("epoll_create1");
  watch(poll, EPOLL_CTL_ADD, listener, EPOLLIN, NULL);
  struct epoll_event events[N_EVENTS];
  for (;;) {
    int n = epoll_wait(poll, events, N_EVENTS, -1);
    if (n < 0 && errno != EINTR) fail("epoll_wait");
    for (int i = 0; i < n; i++) {
      struct conn *conn = events[i].data.ptr;
      if (conn == NULL)
        accept_all(poll, listener);
      else
        conn_serve(poll, conn, events[i].events, &wire, request_body_bytes);
    }
  }
}
