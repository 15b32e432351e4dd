/* conn.c: the connection's calls behind conn.h: accept, recv, close, and the
 * parcels that carry a descriptor to another worker.
 *
 * Its law: a descriptor that comes in is returned or closed, whatever else goes
 * wrong.  It knows no HTTP and no workers. */
#define _GNU_SOURCE
#include "conn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The addresses that a peer is made from; a unix path may be cut off. */
typedef union address {
  struct sockaddr any;
  struct sockaddr_in v4;
  struct sockaddr_in6 v6;
} address;

static void convert(const address *from, fc_peer *peer) {
  memset(peer, 0, sizeof *peer);
  if (from->any.sa_family == AF_INET) {
    peer->family = 4;
    peer->port = ntohs(from->v4.sin_port);
    memcpy(peer->bytes, &from->v4.sin_addr, 4);
    return;
  }
  if (from->any.sa_family != AF_INET6) return;
  peer->port = ntohs(from->v6.sin6_port);
  /* A listener for both families sees IPv4 clients so (RFC 4291 2.5.5.2). */
  if (IN6_IS_ADDR_V4MAPPED(&from->v6.sin6_addr)) {
    peer->family = 4;
    memcpy(peer->bytes, from->v6.sin6_addr.s6_addr + 12, 4);
    return;
  }
  peer->family = 6;
  memcpy(peer->bytes, &from->v6.sin6_addr, 16);
}

static int make_nonblocking(int fd) {
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return FC_ERR;
  if (flags & O_NONBLOCK) return FC_OK;
  return fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? FC_ERR : FC_OK;
}

static void close_quietly(int fd) {
  int saved = errno;
  close(fd);
  errno = saved;
}

/* The descriptor, or -1 and errno. */
static int accept_one(int listener_fd, address *from) {
  socklen_t len = sizeof *from;
  from->any.sa_family = AF_UNSPEC;
#ifdef SOCK_NONBLOCK
  return accept4(listener_fd, &from->any, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
#else
  int fd = accept(listener_fd, &from->any, &len);
  if (fd < 0) return -1;
  if (make_nonblocking(fd) == FC_OK && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0) return fd;
  close_quietly(fd);
  return -1;
#endif
}

/* Errors of the connection that was waiting, which accept(2) reports as its
 * own; the next connection may be sound. */
static int is_passed_over(int error) {
  switch (error) {
    case EINTR:
    case ECONNABORTED:
    case EPROTO:
    case ENETDOWN:
    case ENETUNREACH:
    case EHOSTDOWN:
    case EHOSTUNREACH:
      return 1;
    default:
      return 0;
  }
}

int fc_conn_accept(int listener_fd, fc_peer *peer) {
  address from;
  for (;;) {
    int fd = accept_one(listener_fd, &from);
    if (fd >= 0) {
      convert(&from, peer);
      return fd;
    }
    if (errno == EAGAIN) return FC_AGAIN;
    if (!is_passed_over(errno)) return FC_ERR;
  }
}

void fc_conn_peer(int fd, fc_peer *peer) {
  address from;
  socklen_t len = sizeof from;
  from.any.sa_family = AF_UNSPEC;
  if (getpeername(fd, &from.any, &len) < 0) from.any.sa_family = AF_UNSPEC;
  convert(&from, peer);
}

size_t fc_peer_text(const fc_peer *peer, char *text, size_t size) {
  if (size == 0) return 0;
  text[0] = '\0';
  if (peer->family == 0) return 0;
  int family = peer->family == 4 ? AF_INET : AF_INET6;
  if (inet_ntop(family, peer->bytes, text, (socklen_t)size) != NULL) return strlen(text);
  text[0] = '\0';
  return 0;
}

int64_t fc_conn_fill(int fd, char *ptr, size_t size) {
  if (FC_UNLIKELY(size == 0)) {
    errno = EINVAL;
    return FC_ERR;
  }
  for (;;) {
    ssize_t n = recv(fd, ptr, size, 0);
    if (FC_LIKELY(n > 0)) return n;
    if (n == 0) return FC_EOF;
    if (errno == EAGAIN) return FC_AGAIN;
    if (errno != EINTR) return FC_ERR;
  }
}

int fc_conn_poll(int fd, int what, int timeout_ms) {
  struct pollfd wait = {.fd = fd, .events = 0};
  if (what & FC_READ) wait.events |= POLLIN;
  if (what & FC_WRITE) wait.events |= POLLOUT;
  int n = poll(&wait, 1, timeout_ms);
  if (n >= 0) return n;
  return errno == EINTR ? FC_AGAIN : FC_ERR;
}

void fc_conn_shutdown(int fd) { shutdown(fd, SHUT_WR); }

void fc_conn_close(int fd) { close(fd); }

void fc_conn_abort(int fd) {
  /* A lingering time of zero makes close() send RST and forget unsent bytes. */
  struct linger at_once = {.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close(fd);
}

/* Room for more descriptors than a parcel has, so that a message with too many
 * is seen and they are closed; the kernel drops what is beyond. */
#define RIGHTS_MAX 8

typedef union rights {
  struct cmsghdr align;
  char bytes[CMSG_SPACE(RIGHTS_MAX * sizeof(int))];
} rights;

int fc_conn_hand_over(int inbox_fd, int fd, fc_parcel parcel) {
  rights control;
  memset(&control, 0, sizeof control);
  struct iovec run = {.iov_base = &parcel, .iov_len = sizeof parcel};
  struct msghdr message = {.msg_iov = &run, .msg_iovlen = 1, .msg_control = control.bytes};
  message.msg_controllen = CMSG_SPACE(sizeof fd);
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(header), &fd, sizeof fd);
  for (;;) {
    if (sendmsg(inbox_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return FC_OK;
    if (errno == EAGAIN || errno == ENOBUFS || errno == ETOOMANYREFS) return FC_AGAIN;
    if (errno != EINTR) return FC_ERR;
  }
}

/* Copies out the descriptors of a message; returns how many there are. */
static size_t unpack(struct msghdr *message, int fds[RIGHTS_MAX]) {
  size_t n = 0;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t more = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    if (more > RIGHTS_MAX - n) more = RIGHTS_MAX - n;
    memcpy(fds + n, CMSG_DATA(c), more * sizeof(int));
    n += more;
  }
  return n;
}

/* The length of the message, or -1 and errno. */
static ssize_t receive_message(int inbox_fd, struct msghdr *message) {
  for (;;) {
    ssize_t len = recvmsg(inbox_fd, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (len >= 0 || errno != EINTR) return len;
  }
}

int fc_conn_receive(int inbox_fd, fc_parcel *parcel) {
  rights control;
  int fds[RIGHTS_MAX];
  struct iovec run = {.iov_base = parcel, .iov_len = sizeof *parcel};
  struct msghdr message = {.msg_iov = &run, .msg_iovlen = 1, .msg_control = control.bytes};
  message.msg_controllen = sizeof control.bytes;
  ssize_t len = receive_message(inbox_fd, &message);
  if (len < 0) return errno == EAGAIN ? FC_AGAIN : FC_ERR;
  size_t n = unpack(&message, fds);
  int is_ours = len == sizeof *parcel && n == 1 && !(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC));
  if (is_ours && make_nonblocking(fds[0]) == FC_OK) return fds[0];
  /* A kernel that finds no free descriptor cuts the message off instead of
   * saying EMFILE. */
  if (!is_ours) errno = n == 0 && (message.msg_flags & MSG_CTRUNC) ? EMFILE : EBADMSG;
  for (size_t i = 0; i < n; i++) close_quietly(fds[i]);
  return FC_ERR;
}
