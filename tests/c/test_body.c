/* test_body.c: bodies taken apart: whole, cut at every position, byte by byte;
 * with the input flush against an unreadable page. */
#define _GNU_SOURCE
#include "body.h"

#include <string.h>

#include "check.h"

typedef struct result {
  int verdict; /* FC_BODY_END, FC_BODY_BAD, or FC_BODY_MORE when all is used */
  size_t used;
  char data[4096];
  size_t data_len;
} result;

static fc_framing counted(uint64_t length) {
  fc_framing framing;
  memset(&framing, 0, sizeof framing);
  framing.length = length;
  framing.body = length > 0 ? FC_BODY_COUNTED : FC_BODY_NONE;
  return framing;
}

static fc_framing chunked(void) {
  fc_framing framing;
  memset(&framing, 0, sizeof framing);
  framing.body = FC_BODY_CHUNKED;
  return framing;
}

/* Feeds one piece, flush against the guard page. */
static void feed(fc_body *body, const char *bytes, size_t len, result *out) {
  const char *exact = guarded(bytes, len);
  size_t at = 0;
  int verdict = FC_BODY_DATA;
  while (verdict == FC_BODY_DATA) {
    fc_span span = {NULL, 0};
    size_t used;
    verdict = fc_body_next(body, exact + at, len - at, &used, &span);
    CHECK(used <= len - at);
    at += used;
    if (verdict == FC_BODY_DATA && out->data_len + span.len <= sizeof out->data) {
      memcpy(out->data + out->data_len, span.ptr, span.len);
      out->data_len += span.len;
    }
    if (verdict == FC_BODY_DATA && at == len && body->left != 0) verdict = FC_BODY_MORE;
  }
  out->used += at;
  out->verdict = verdict;
}

static result run(const fc_framing *framing, const char *bytes, size_t len, size_t cut,
                  int by_byte) {
  result out;
  memset(&out, 0, sizeof out);
  fc_body body;
  fc_body_start(&body, framing);
  if (by_byte) {
    for (size_t i = 0; i < len && out.verdict == FC_BODY_MORE; i++) feed(&body, bytes + i, 1, &out);
    return out;
  }
  feed(&body, bytes, cut, &out);
  if (out.verdict == FC_BODY_MORE) feed(&body, bytes + cut, len - cut, &out);
  return out;
}

static int same(const result *a, const result *b) {
  return a->verdict == b->verdict && a->used == b->used && a->data_len == b->data_len &&
         memcmp(a->data, b->data, a->data_len) == 0;
}

/* The verdict, the bytes used and the data are those of the whole, wherever
 * the input is cut. */
static result in_every_way(const fc_framing *framing, const char *bytes, size_t len) {
  result whole = run(framing, bytes, len, len, 0);
  for (size_t cut = 0; cut < len; cut++) {
    result parts = run(framing, bytes, len, cut, 0);
    CHECK(same(&whole, &parts));
  }
  result bytewise = run(framing, bytes, len, 0, 1);
  CHECK(len == 0 || same(&whole, &bytewise));
  return whole;
}

static void expect_chunked(const char *text, int verdict, const char *data, size_t rest) {
  fc_framing framing = chunked();
  size_t len = strlen(text);
  result got = in_every_way(&framing, text, len);
  CHECK(got.verdict == verdict);
  if (got.verdict != verdict) fprintf(stderr, "  in: %s\n", text);
  if (verdict == FC_BODY_BAD) return;
  CHECK(got.data_len == strlen(data) && memcmp(got.data, data, got.data_len) == 0);
  if (verdict == FC_BODY_END) CHECK(len - got.used == rest);
}

static void test_counted(void) {
  fc_framing framing = counted(5);
  result got = in_every_way(&framing, "abcdeGET", 8);
  CHECK(got.verdict == FC_BODY_END && got.used == 5 && memcmp(got.data, "abcde", 5) == 0);
  got = in_every_way(&framing, "abcd", 4);
  CHECK(got.verdict == FC_BODY_MORE && got.data_len == 4);
  framing = counted(0);
  got = run(&framing, "GET", 3, 3, 0);
  CHECK(got.verdict == FC_BODY_END && got.used == 0);
}

static void test_chunked(void) {
  expect_chunked("0\r\n\r\n", FC_BODY_END, "", 0);
  expect_chunked("3\r\nabc\r\n0\r\n\r\nGET", FC_BODY_END, "abc", 3);
  expect_chunked("3\r\nabc\r\nA\r\n0123456789\r\n000\r\n\r\n", FC_BODY_END, "abc0123456789", 0);
  expect_chunked("a;x=y;z=\"q q\"\r\n0123456789\r\n0;last\r\n\r\n", FC_BODY_END, "0123456789", 0);
  expect_chunked("1 ;x\r\na\r\n0\r\n\r\n", FC_BODY_END, "a", 0);
  expect_chunked("1\r\na\r\n0\r\nA: b\r\nC:\r\n\r\nX", FC_BODY_END, "a", 1);
  expect_chunked("3\r\nab", FC_BODY_MORE, "ab", 0);
  expect_chunked("0\r\nA: b\r\n", FC_BODY_MORE, "", 0);
}

static void test_bad_chunks(void) {
  static const char *const bad[] = {
      "\r\n",
      "g\r\n",
      "-1\r\n",
      "+1\r\na\r\n",
      "0x1\r\na\r\n",
      "1_0\r\n",
      " 1\r\na\r\n",
      "1 \r\na\r\n",
      "1\na\r\n",
      "1\r\r\n",
      "1\rXa",
      "1\r\nab\r\n",
      "1\r\na\n",
      "1\r\naXX0\r\n\r\n",
      "1;x\ny\r\na\r\n",
      "1;\x01\r\na\r\n",
      "0\r\n: x\r\n\r\n",
      "0\r\nA b: x\r\n\r\n",
      "0\r\n A: x\r\n\r\n",
      "0\r\nA: x\n\r\n",
      "0\r\nA: x\x01\r\n\r\n",
      "0\r\nA\r\n\r\n",
      "0\r\n\rX",
      "10000000000000000\r\n",
      "8000000000000000\r\n",
      "00000000000000001\r\na",
  };
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    expect_chunked(bad[i], FC_BODY_BAD, "", 0);
}

static void test_the_largest_size_is_taken(void) {
  expect_chunked("7fffffffffffffff\r\nab", FC_BODY_MORE, "ab", 0);
  expect_chunked("0000000000000001\r\na\r\n0\r\n\r\n", FC_BODY_END, "a", 0);
}

/* A chunk line of n bytes with its CR. */
static result line_of(size_t n) {
  char text[FC_CHUNK_LINE_MAX + 16];
  text[0] = '1';
  text[1] = ';';
  memset(text + 2, 'x', n - 3);
  memcpy(text + n - 1, "\r\na\r\n", 5);
  fc_framing framing = chunked();
  return run(&framing, text, n + 4, n + 4, 0);
}

static void test_a_chunk_line_is_bounded(void) {
  CHECK(line_of(FC_CHUNK_LINE_MAX).verdict == FC_BODY_MORE);
  CHECK(line_of(FC_CHUNK_LINE_MAX + 1).verdict == FC_BODY_BAD);
}

static void test_extensions_are_bounded_over_all_chunks(void) {
  fc_framing framing = chunked();
  fc_body body;
  fc_body_start(&body, &framing);
  char chunk[8 + 200];
  memcpy(chunk, "1;", 2);
  memset(chunk + 2, 'x', 200);
  memcpy(chunk + 202, "\r\na\r\n", 5);
  size_t chunks = 0;
  result out;
  memset(&out, 0, sizeof out);
  while (out.verdict == FC_BODY_MORE && chunks < 1000) {
    feed(&body, chunk, 207, &out);
    chunks++;
  }
  CHECK(out.verdict == FC_BODY_BAD);
  CHECK(chunks == FC_CHUNK_EXTENSIONS_MAX / 200 + 1);
}

static void test_trailers_are_bounded(void) {
  fc_framing framing = chunked();
  fc_body body;
  fc_body_start(&body, &framing);
  result out;
  memset(&out, 0, sizeof out);
  feed(&body, "0\r\n", 3, &out);
  size_t sent = 0;
  while (out.verdict == FC_BODY_MORE && sent < 100000) {
    feed(&body, "A: b\r\n", 6, &out);
    sent += 6;
  }
  CHECK(out.verdict == FC_BODY_BAD);
  CHECK(sent > FC_TRAILERS_MAX - 6 && sent < FC_TRAILERS_MAX + 12);
}

int main(void) {
  test_counted();
  test_chunked();
  test_bad_chunks();
  test_the_largest_size_is_taken();
  test_a_chunk_line_is_bounded();
  test_extensions_are_bounded_over_all_chunks();
  test_trailers_are_bounded();
  return check_summary("test_body");
}
