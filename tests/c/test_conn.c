/* test_conn.c: csrc/conn.c with real sockets on 127.0.0.1; errors that the
 * kernel does not give on demand are scripted in front of it. */
#define _GNU_SOURCE
#include "conn.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "descriptors.h"

/* ---- errors before the kernel's own answer; these stand before libc's */

static int scripted[8];
static int n_scripted;

static int scripted_error(void) {
  if (n_scripted == 0) return 0;
  errno = scripted[--n_scripted];
  return 1;
}

int accept4(int fd, struct sockaddr *restrict address, socklen_t *restrict len, int flags) {
  if (scripted_error()) return -1;
  return (int)syscall(SYS_accept4, fd, address, len, flags);
}

ssize_t recv(int fd, void *ptr, size_t size, int flags) {
  if (scripted_error()) return -1;
  return syscall(SYS_recvfrom, fd, ptr, size, flags, NULL, NULL);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  if (scripted_error()) return -1;
  return syscall(SYS_sendmsg, fd, message, flags);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
  if (scripted_error()) return -1;
  return syscall(SYS_recvmsg, fd, message, flags);
}

static void script_error(int error) { scripted[n_scripted++] = error; }

/* ---- what is asked of the kernel */

static int is_nonblocking(int fd) { return (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0; }
static int closes_on_exec(int fd) { return (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0; }

static int is_same_socket(int a, int b) {
  struct stat one, other;
  return fstat(a, &one) == 0 && fstat(b, &other) == 0 && one.st_ino == other.st_ino;
}

static uint16_t own_port(int fd) {
  struct sockaddr_in address;
  socklen_t len = sizeof address;
  CHECK(getsockname(fd, (struct sockaddr *)&address, &len) == 0);
  return ntohs(address.sin_port);
}

/* No further descriptor can be opened until this is called with the result. */
static rlim_t set_descriptor_limit(rlim_t limit) {
  struct rlimit limits;
  getrlimit(RLIMIT_NOFILE, &limits);
  rlim_t before = limits.rlim_cur;
  limits.rlim_cur = limit;
  CHECK(setrlimit(RLIMIT_NOFILE, &limits) == 0);
  return before;
}

static int is_peer(const fc_peer *peer, int family, const char *wanted, uint16_t port) {
  char text[64];
  size_t len = fc_peer_text(peer, text, sizeof text);
  return peer->family == family && len == strlen(wanted) && strcmp(text, wanted) == 0 &&
         peer->port == port;
}

/* ---- accept */

static void test_accept(void) {
  fc_peer peer;
  int listener = make_listener();
  CHECK(fc_conn_accept(listener, &peer) == FC_AGAIN);
  int client = connect_to(listener);
  int fd = fc_conn_accept(listener, &peer);
  CHECK(fd >= 0 && is_nonblocking(fd) && closes_on_exec(fd));
  CHECK(is_peer(&peer, 4, "127.0.0.1", own_port(client)));
  CHECK(fc_conn_accept(listener, &peer) == FC_AGAIN);
  fc_peer again;
  fc_conn_peer(fd, &again);
  CHECK(memcmp(&again, &peer, sizeof peer) == 0);
  close(client);
  close(fd);
  errno = 0;
  CHECK(fc_conn_accept(STDIN_FILENO, &peer) == FC_ERR && errno != 0);
  close(listener);
}

static void test_accept_passes_over(void) {
  const int errors[] = {ECONNABORTED, EINTR, EPROTO, ENETDOWN, EHOSTUNREACH};
  fc_peer peer;
  int listener = make_listener();
  for (int i = 0; i < 5; i++) script_error(errors[i]);
  CHECK(fc_conn_accept(listener, &peer) == FC_AGAIN && n_scripted == 0);
  int client = connect_to(listener);
  for (int i = 0; i < 5; i++) script_error(errors[i]);
  int fd = fc_conn_accept(listener, &peer);
  CHECK(fd >= 0 && n_scripted == 0);
  close(fd);
  close(client);
  close(listener);
}

static void test_accept_without_descriptors(void) {
  fc_peer peer;
  int listener = make_listener();
  int client = connect_to(listener);
  rlim_t before = set_descriptor_limit((rlim_t)client + 1);
  errno = 0;
  CHECK(fc_conn_accept(listener, &peer) == FC_ERR && errno == EMFILE);
  set_descriptor_limit(before);
  int fd = fc_conn_accept(listener, &peer); /* it has waited */
  CHECK(fd >= 0);
  close(fd);
  close(client);
  close(listener);
}

static void test_mapped_peer(void) {
  struct sockaddr_in6 address = {.sin6_family = AF_INET6};
  socklen_t len = sizeof address;
  fc_peer peer;
  int listener = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (listener < 0) {
    printf("conn: no IPv6 here, mapped peers not tested\n");
    return;
  }
  inet_pton(AF_INET6, "::ffff:127.0.0.1", &address.sin6_addr);
  CHECK(bind(listener, (struct sockaddr *)&address, len) == 0 && listen(listener, 8) == 0);
  CHECK(getsockname(listener, (struct sockaddr *)&address, &len) == 0);
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = address.sin6_port};
  v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(connect(client, (struct sockaddr *)&v4, sizeof v4) == 0);
  int fd = fc_conn_accept(listener, &peer);
  CHECK(fd >= 0 && is_peer(&peer, 4, "127.0.0.1", own_port(client)));
  close(fd);
  close(client);
  close(listener);
}

static void test_unix_peer(void) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  socklen_t len = sizeof address;
  fc_peer peer;
  memset(&peer, 0xff, sizeof peer);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  /* Bound without a name, the kernel chooses an abstract one. */
  CHECK(bind(listener, (struct sockaddr *)&address, sizeof(sa_family_t)) == 0);
  CHECK(listen(listener, 8) == 0);
  CHECK(getsockname(listener, (struct sockaddr *)&address, &len) == 0);
  int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(connect(client, (struct sockaddr *)&address, len) == 0);
  int fd = fc_conn_accept(listener, &peer);
  CHECK(fd >= 0 && is_nonblocking(fd) && is_peer(&peer, 0, "", 0));
  fc_conn_peer(fd, &peer);
  CHECK(is_peer(&peer, 0, "", 0));
  memset(&peer, 0xff, sizeof peer);
  fc_conn_peer(listener, &peer); /* not connected */
  CHECK(is_peer(&peer, 0, "", 0));
  close(fd);
  close(client);
  close(listener);
}

static void test_peer_text(void) {
  const char *table[] = {
      "0.0.0.0", "127.0.0.1",   "255.255.255.255", "::",
      "::1",     "2001:db8::1", "fe80::1:0:0:1",   "1111:2222:3333:4444:5555:6666:7777:8888",
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    size_t len = strlen(table[i]);
    fc_peer peer = {.family = strchr(table[i], ':') != NULL ? 6 : 4, .port = 80};
    CHECK(inet_pton(peer.family == 6 ? AF_INET6 : AF_INET, table[i], peer.bytes) == 1);
    CHECK(is_peer(&peer, peer.family, table[i], 80));
    char *exact = guarded(NULL, len + 1);
    CHECK(fc_peer_text(&peer, exact, len + 1) == len && strcmp(exact, table[i]) == 0);
    char *short_by_one = guarded(table[i], len);
    CHECK(fc_peer_text(&peer, short_by_one, len) == 0 && short_by_one[0] == '\0');
    CHECK(fc_peer_text(&peer, guarded(NULL, 0), 0) == 0);
  }
}

/* ---- bytes */

static void test_fill(void) {
  int ends[2];
  make_tcp_pair(ends);
  CHECK(fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
  char *ten = guarded(NULL, 10);
  CHECK(fc_conn_fill(ends[0], ten, 10) == FC_AGAIN);
  CHECK(write(ends[1], "hello, world", 12) == 12);
  CHECK(fc_conn_poll(ends[0], FC_READ, 5000) == 1);
  script_error(EINTR);
  CHECK(fc_conn_fill(ends[0], ten, 10) == 10 && memcmp(ten, "hello, wor", 10) == 0);
  errno = 0;
  CHECK(fc_conn_fill(ends[0], ten, 0) == FC_ERR && errno == EINVAL);
  CHECK(fc_conn_fill(ends[0], ten, 10) == 2 && memcmp(ten, "ld", 2) == 0);
  CHECK(fc_conn_fill(ends[0], ten, 10) == FC_AGAIN);
  fc_conn_shutdown(ends[1]);
  CHECK(fc_conn_poll(ends[0], FC_READ, 5000) == 1);
  CHECK(fc_conn_fill(ends[0], ten, 10) == FC_EOF && fc_conn_fill(ends[0], ten, 10) == FC_EOF);
  /* Only one direction is shut. */
  CHECK(write(ends[0], "x", 1) == 1 && read(ends[1], ten, 10) == 1 && ten[0] == 'x');
  script_error(ECONNRESET);
  errno = 0;
  CHECK(fc_conn_fill(ends[0], ten, 10) == FC_ERR && errno == ECONNRESET);
  close_pair(ends);
}

static void test_close_and_abort(void) {
  char byte;
  int ends[2];
  make_tcp_pair(ends);
  CHECK(write(ends[0], "x", 1) == 1);
  fc_conn_close(ends[0]);
  CHECK(fcntl(ends[0], F_GETFD) < 0 && errno == EBADF);
  CHECK(read(ends[1], &byte, 1) == 1 && read(ends[1], &byte, 1) == 0);
  close(ends[1]);

  make_tcp_pair(ends);
  fc_conn_abort(ends[0]);
  CHECK(fcntl(ends[0], F_GETFD) < 0 && errno == EBADF);
  CHECK(fc_conn_poll(ends[1], FC_READ, 5000) == 1);
  errno = 0;
  CHECK(fc_conn_fill(ends[1], &byte, 1) == FC_ERR && errno == ECONNRESET);
  close(ends[1]);

  make_unix_pair(ends);
  fc_conn_abort(ends[0]); /* nothing to reset, closed all the same */
  CHECK(read(ends[1], &byte, 1) == 0);
  close(ends[1]);
}

static void on_alarm(int number) { (void)number; }

static void test_poll(void) {
  static char bytes[65536];
  int ends[2];
  make_unix_pair(ends);
  CHECK(fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
  CHECK(fc_conn_poll(ends[0], FC_READ, 0) == 0 && fc_conn_poll(ends[0], FC_READ, 5) == 0);
  CHECK(fc_conn_poll(ends[0], FC_WRITE, 0) == 1);
  CHECK(fc_conn_poll(ends[0], FC_READ | FC_WRITE, -1) == 1);
  while (write(ends[0], bytes, sizeof bytes) > 0) continue;
  CHECK(fc_conn_poll(ends[0], FC_WRITE, 0) == 0);
  CHECK(fc_conn_poll(ends[1], FC_READ, 0) == 1);

  struct sigaction action = {.sa_handler = on_alarm}, before;
  struct itimerval often = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
  sigaction(SIGALRM, &action, &before);
  setitimer(ITIMER_REAL, &often, NULL);
  CHECK(fc_conn_poll(ends[0], FC_WRITE, 20000) == FC_AGAIN);
  setitimer(ITIMER_REAL, &never, NULL);
  sigaction(SIGALRM, &before, NULL);

  close(ends[1]);
  CHECK(fc_conn_poll(ends[0], FC_WRITE, 5000) == 1);
  close(ends[0]);
}

/* ---- handing over */

static void make_inbox(int ends[2]) {
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends) == 0);
}

static void test_hand_over(void) {
  int inbox[2], ends[3][2];
  fc_parcel parcel;
  make_inbox(inbox);
  CHECK(fc_conn_receive(inbox[1], &parcel) == FC_AGAIN);
  for (uint32_t i = 0; i < 3; i++) {
    make_unix_pair(ends[i]); /* blocking and, once duplicated, kept across exec */
    fc_parcel sent = {.listener = i, .generation = 1000 + i};
    int fd = dup(ends[i][0]);
    if (i == 1) script_error(EINTR);
    CHECK(fc_conn_hand_over(inbox[0], fd, sent) == FC_OK);
    CHECK(fcntl(fd, F_GETFD) >= 0); /* the sender's copy is the sender's to close */
    close(fd);
  }
  for (uint32_t i = 0; i < 3; i++) {
    if (i == 1) script_error(EINTR);
    int fd = fc_conn_receive(inbox[1], &parcel);
    CHECK(fd >= 0 && is_nonblocking(fd) && closes_on_exec(fd));
    CHECK(parcel.listener == i && parcel.generation == 1000 + i);
    CHECK(is_same_socket(fd, ends[i][0]));
    close(fd);
    close_pair(ends[i]);
  }
  CHECK(fc_conn_receive(inbox[1], &parcel) == FC_AGAIN);
  errno = 0;
  CHECK(fc_conn_hand_over(inbox[0], -1, parcel) == FC_ERR && errno == EBADF);
  close(inbox[1]);
  errno = 0;
  CHECK(fc_conn_hand_over(inbox[0], inbox[0], parcel) == FC_ERR && errno != 0);
  close(inbox[0]);
}

static void test_full_inbox(void) {
  const int errors[] = {EAGAIN, ENOBUFS, ETOOMANYREFS};
  fc_parcel parcel = {.listener = 7, .generation = 1};
  int inbox[2], result = FC_OK, sent = 0, received = 0;
  make_inbox(inbox);
  int before = count_descriptors();
  for (; sent < 100000 && result == FC_OK; sent++)
    result = fc_conn_hand_over(inbox[0], inbox[0], parcel);
  CHECK(result == FC_AGAIN && sent > 1);
  for (int fd; (fd = fc_conn_receive(inbox[1], &parcel)) >= 0; received++) {
    CHECK(parcel.listener == 7);
    close(fd);
  }
  CHECK(received == sent - 1 && count_descriptors() == before);
  CHECK(fc_conn_hand_over(inbox[0], inbox[0], parcel) == FC_OK);
  close(fc_conn_receive(inbox[1], &parcel));
  for (int i = 0; i < 3; i++) {
    script_error(errors[i]);
    CHECK(fc_conn_hand_over(inbox[0], inbox[0], parcel) == FC_AGAIN);
  }
  close_pair(inbox);
}

/* A datagram of `len` bytes with n descriptors. */
static void send_strange(int inbox_fd, int fd, size_t n, size_t len) {
  char bytes[64] = "";
  int fds[32];
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof fds)];
  } control;
  for (size_t i = 0; i < n; i++) fds[i] = fd;
  memset(&control, 0, sizeof control);
  struct iovec run = {.iov_base = bytes, .iov_len = len};
  struct msghdr message = {.msg_iov = &run, .msg_iovlen = 1};
  if (n > 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(n * sizeof(int));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(n * sizeof(int));
    memcpy(CMSG_DATA(header), fds, n * sizeof(int));
  }
  CHECK(sendmsg(inbox_fd, &message, 0) == (ssize_t)len);
}

static void test_strange_parcels(void) {
  const struct {
    size_t n, len;
  } table[] = {{0, 8}, {2, 8}, {3, 8}, {8, 8}, {9, 8},  {20, 8}, {0, 0},
               {0, 1}, {1, 0}, {1, 7}, {1, 9}, {1, 64}, {5, 3},  {0, 64}};
  fc_parcel parcel, sound = {.listener = 3, .generation = 4};
  int inbox[2];
  make_inbox(inbox);
  int before = count_descriptors();
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    send_strange(inbox[0], inbox[0], table[i].n, table[i].len);
    CHECK(fc_conn_hand_over(inbox[0], inbox[0], sound) == FC_OK);
    errno = 0;
    CHECK(fc_conn_receive(inbox[1], &parcel) == FC_ERR && errno == EBADMSG);
    CHECK(count_descriptors() == before);
    int fd = fc_conn_receive(inbox[1], &parcel);
    CHECK(fd >= 0 && parcel.listener == 3 && parcel.generation == 4);
    close(fd);
  }
  close_pair(inbox);
}

static void test_receive_without_descriptors(void) {
  fc_parcel parcel = {.listener = 0, .generation = 0};
  int inbox[2];
  make_inbox(inbox);
  CHECK(fc_conn_hand_over(inbox[0], inbox[0], parcel) == FC_OK);
  rlim_t before = set_descriptor_limit((rlim_t)inbox[1] + 1);
  errno = 0;
  CHECK(fc_conn_receive(inbox[1], &parcel) == FC_ERR && errno == EMFILE);
  set_descriptor_limit(before);
  CHECK(fc_conn_receive(inbox[1], &parcel) == FC_AGAIN);

  /* Two came and one of them found a place: still no parcel of ours. */
  int open_before = count_descriptors();
  send_strange(inbox[0], inbox[0], 2, sizeof parcel);
  set_descriptor_limit((rlim_t)inbox[1] + 2);
  CHECK(fc_conn_receive(inbox[1], &parcel) == FC_ERR && errno == EBADMSG);
  set_descriptor_limit(before);
  CHECK(count_descriptors() == open_before);
  close_pair(inbox);
}

/* A parcel that a dead worker had not taken is its successor's. */
static void test_successor(void) {
  fc_parcel parcel = {.listener = 5, .generation = 6};
  char bytes[8] = "";
  int inbox[2], ends[2], status = -1;
  make_inbox(inbox);
  make_tcp_pair(ends);
  CHECK(fc_conn_hand_over(inbox[0], ends[0], parcel) == FC_OK);
  close(ends[0]);
  pid_t dead = fork();
  if (dead == 0) _exit(0);
  CHECK(waitpid(dead, &status, 0) == dead && status == 0);
  pid_t successor = fork();
  if (successor == 0) {
    int fd = fc_conn_receive(inbox[1], &parcel);
    int is_right = fd >= 0 && parcel.listener == 5 && parcel.generation == 6;
    _exit(is_right && write(fd, "served", 6) == 6 ? 0 : 1);
  }
  CHECK(read(ends[1], bytes, sizeof bytes) == 6 && memcmp(bytes, "served", 6) == 0);
  CHECK(waitpid(successor, &status, 0) == successor && status == 0);
  CHECK(read(ends[1], bytes, sizeof bytes) == 0);
  close(ends[1]);
  close_pair(inbox);
}

int main(void) {
  int before = count_descriptors();
  test_accept();
  test_accept_passes_over();
  test_accept_without_descriptors();
  test_mapped_peer();
  test_unix_peer();
  test_peer_text();
  test_fill();
  test_close_and_abort();
  test_poll();
  test_hand_over();
  test_full_inbox();
  test_strange_parcels();
  test_receive_without_descriptors();
  test_successor();
  CHECK(count_descriptors() == before && n_scripted == 0);
  return check_summary("conn");
}
