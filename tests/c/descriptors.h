/* descriptors.h: what the C tests with real sockets share: how many descriptors
 * are open, listeners on 127.0.0.1, and clients of theirs. */
#ifndef DESCRIPTORS_H
#define DESCRIPTORS_H

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "check.h"

static inline int count_descriptors(void) {
  int n = 0;
  DIR *dir = opendir("/proc/self/fd");
  while (readdir(dir) != NULL) n++;
  closedir(dir);
  return n;
}

/* A non-blocking listener on a port that the kernel chooses. */
static inline int make_listener(void) {
  struct sockaddr_in address = {.sin_family = AF_INET};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 128) == 0);
  return fd;
}

/* A blocking client; its connection is waiting in the listener's queue. */
static inline int connect_to(int listener_fd) {
  struct sockaddr_in address;
  socklen_t len = sizeof address;
  CHECK(getsockname(listener_fd, (struct sockaddr *)&address, &len) == 0);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(connect(fd, (struct sockaddr *)&address, len) == 0);
  return fd;
}

/* Both ends of a connection over TCP, blocking. */
static inline void make_tcp_pair(int ends[2]) {
  int listener = make_listener();
  ends[0] = connect_to(listener);
  ends[1] = accept(listener, NULL, NULL);
  CHECK(ends[1] >= 0);
  close(listener);
}

static inline void make_unix_pair(int ends[2]) {
  CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
}

static inline void close_pair(const int ends[2]) {
  close(ends[0]);
  close(ends[1]);
}

#endif
