/* test_buf.c: the growable run of bytes.  Built with csrc/buf.c. */
#define _GNU_SOURCE
#include "buf.h"

#include <errno.h>

#include "check.h"

/* Lets malloc fail as it does without the sanitizer. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "allocator_may_return_null=1"; }

static void test_empty(void) {
  fc_buf buf = {0};
  CHECK(fc_buf_reserve(&buf, 0) == FC_OK);
  CHECK(buf.ptr == NULL && buf.len == 0 && buf.cap == 0);
  CHECK(fc_buf_append(&buf, NULL, 0) == FC_OK && buf.ptr == NULL);
  fc_buf_consume(&buf, 0);
  CHECK(buf.len == 0);
  fc_buf_free(&buf);
  fc_buf_free(&buf);
  CHECK(buf.ptr == NULL && buf.len == 0 && buf.cap == 0);
}

static void test_reserve_beside_the_boundary(void) {
  fc_buf buf = {0};
  CHECK(fc_buf_reserve(&buf, 1) == FC_OK && buf.cap >= 1 && buf.len == 0);
  size_t cap = buf.cap;
  const char *ptr = buf.ptr;
  CHECK(fc_buf_reserve(&buf, cap) == FC_OK && buf.ptr == ptr && buf.cap == cap);
  buf.len = cap - 1;
  memset(buf.ptr, 'x', buf.len);
  CHECK(fc_buf_reserve(&buf, 1) == FC_OK && buf.cap == cap);
  CHECK(fc_buf_reserve(&buf, 2) == FC_OK && buf.cap >= 2 * cap);
  CHECK(buf.len == cap - 1 && buf.ptr[0] == 'x' && buf.ptr[cap - 2] == 'x');
  /* Far more than double: just what is needed. */
  CHECK(fc_buf_reserve(&buf, 1000000) == FC_OK && buf.cap >= buf.len + 1000000);
  memset(buf.ptr + buf.len, 'y', 1000000);
  fc_buf_free(&buf);
  CHECK(buf.ptr == NULL && buf.len == 0 && buf.cap == 0);
}

static void test_growth_is_amortised(void) {
  fc_buf buf = {0};
  size_t moves = 0;
  for (size_t i = 0; i < 1000000; i++) {
    size_t cap = buf.cap;
    char c = (char)(i * 31 >> 3);
    if (fc_buf_append(&buf, &c, 1) != FC_OK) break;
    if (buf.cap == cap) continue;
    moves++;
    CHECK(buf.cap >= 2 * cap);
  }
  CHECK(buf.len == 1000000 && moves <= 14);
  size_t wrong = 0;
  for (size_t i = 0; i < buf.len; i++) wrong += buf.ptr[i] != (char)(i * 31 >> 3);
  CHECK(wrong == 0);
  fc_buf_free(&buf);
}

static void test_against_a_model(void) {
  static char model[1 << 16];
  size_t len = 0;
  uint64_t seed = 42;
  fc_buf buf = {0};
  for (int step = 0; step < 20000; step++) {
    size_t n = check_random(&seed, 700);
    if (check_random(&seed, 2) == 0 && len + n <= sizeof model) {
      char *bytes = guarded(NULL, n);
      for (size_t i = 0; i < n; i++) bytes[i] = (char)check_random(&seed, 256);
      CHECK(fc_buf_append(&buf, bytes, n) == FC_OK);
      if (n > 0) memcpy(model + len, bytes, n);
      len += n;
    } else {
      if (n > len) n = len;
      const char *ptr = buf.ptr;
      size_t cap = buf.cap;
      fc_buf_consume(&buf, n);
      CHECK(buf.ptr == ptr && buf.cap == cap);
      memmove(model, model + n, len - n);
      len -= n;
    }
    CHECK(buf.len == len && (len == 0 || memcmp(buf.ptr, model, len) == 0));
  }
  fc_buf_consume(&buf, buf.len);
  CHECK(buf.len == 0 && buf.cap > 0);
  fc_buf_free(&buf);
}

static void test_too_much(void) {
  static const size_t sizes[] = {SIZE_MAX,     SIZE_MAX - 1,     SIZE_MAX - 3,
                                 SIZE_MAX / 2, SIZE_MAX / 2 + 1, SIZE_MAX / 2 - 3};
  fc_buf buf = {0};
  CHECK(fc_buf_append(&buf, "abc", 3) == FC_OK);
  fc_buf before = buf;
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    errno = 0;
    CHECK(fc_buf_reserve(&buf, sizes[i]) == FC_ERR && errno == ENOMEM);
    errno = 0;
    CHECK(fc_buf_append(&buf, "abc", sizes[i]) == FC_ERR && errno == ENOMEM);
    CHECK(memcmp(&buf, &before, sizeof buf) == 0 && memcmp(buf.ptr, "abc", 3) == 0);
  }
  fc_buf_free(&buf);
}

int main(void) {
  test_empty();
  test_reserve_beside_the_boundary();
  test_growth_is_amortised();
  test_against_a_model();
  test_too_much();
  return check_summary("test_buf");
}
