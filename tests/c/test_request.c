/* test_request.c: the framing decision, the scan of a validated head, and the
 * verdict on refused request lines; every head stands flush against an
 * unreadable page. */
#define _GNU_SOURCE
#include "request.h"

#include <string.h>

#include "check.h"

enum { MAX_FIELDS = 16 };

typedef struct head {
  fc_request request;
  fc_field fields[MAX_FIELDS];
  char *bytes;
  int scanned;
} head;

static head scan(const char *text) {
  head h;
  memset(&h, 0, sizeof h);
  size_t len = strlen(text);
  h.bytes = guarded(text, len);
  h.request.fields = h.fields;
  h.request.max_fields = MAX_FIELDS;
  h.scanned = fc_request_scan(&h.request, h.bytes, len);
  return h;
}

static int frame(const char *text, fc_framing *framing) {
  head h = scan(text);
  CHECK(h.scanned == 1);
  h.request.fields = h.fields;
  const char *why;
  int status = fc_request_frame(&h.request, framing, &why);
  CHECK(status == 0 || why[0] != 0);
  return status;
}

static int span_is(const char *text, uint32_t at, uint32_t len, const char *want) {
  return strlen(want) == len && memcmp(text + at, want, len) == 0;
}

static void test_scan(void) {
  const char *text = "POST /a?b HTTP/1.0\r\nHost: x\r\nEmpty:\r\nBlanks: \t a b \t\r\n\r\n";
  head h = scan(text);
  h.request.fields = h.fields;
  CHECK(h.scanned == 1);
  CHECK(h.request.head_len == strlen(text));
  CHECK(span_is(text, h.request.method, h.request.method_len, "POST"));
  CHECK(span_is(text, h.request.target, h.request.target_len, "/a?b"));
  CHECK(h.request.major == 1 && h.request.minor == 0);
  CHECK(h.request.n_fields == 3);
  CHECK(span_is(text, h.fields[1].name, h.fields[1].name_len, "Empty"));
  CHECK(h.fields[1].value_len == 0);
  CHECK(span_is(text, h.fields[2].value, h.fields[2].value_len, "a b"));
  CHECK(fc_request_find(&h.request, "blanks", 6) == &h.fields[2]);
  CHECK(fc_request_find(&h.request, "blank", 5) == NULL);
}

static void test_scan_refuses_what_is_no_http_line(void) {
  static const char *const bad[] = {
      "GET / RTSP/1.0\r\n\r\n",  "GET  / HTTP/1.1\r\n\r\n", "GET /  HTTP/1.1\r\n\r\n",
      "GET / HTTP/1.1 \r\n\r\n", "GET /\r\n\r\n",           "GET HTTP/1.1\r\n\r\n",
  };
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    head h = scan(bad[i]);
    CHECK(h.scanned == 0);
  }
}

static void test_scan_bounds_the_fields(void) {
  char text[512] = "GET / HTTP/1.1\r\n";
  for (int i = 0; i < MAX_FIELDS; i++) strcat(text, "a: b\r\n");
  char more[600];
  snprintf(more, sizeof more, "%sa: b\r\n\r\n", text);
  strcat(text, "\r\n");
  head h = scan(text);
  CHECK(h.scanned == 1);
  h = scan(more);
  CHECK(h.scanned == -1);
}

typedef struct framing_case {
  int status;
  int body;
  uint64_t length;
  const char *text;
} framing_case;

#define GET "GET / HTTP/1.1\r\nHost: x\r\n"
#define POST "POST / HTTP/1.1\r\nHost: x\r\n"
#define OLD "POST / HTTP/1.0\r\n"

static const framing_case FRAMINGS[] = {
    {0, FC_BODY_NONE, 0, GET "\r\n"},
    {0, FC_BODY_NONE, 0, OLD "\r\n"},
    {0, FC_BODY_COUNTED, 5, POST "Content-Length: 5\r\n\r\n"},
    {0, FC_BODY_COUNTED, 5, POST "CONTENT-LENGTH:005\r\n\r\n"},
    {0, FC_BODY_NONE, 0, POST "Content-Length: 0\r\n\r\n"},
    {0, FC_BODY_COUNTED, 9223372036854775799u, POST "Content-Length: 9223372036854775799\r\n\r\n"},
    {0, FC_BODY_CHUNKED, 0, POST "Transfer-Encoding: chunked\r\n\r\n"},
    {0, FC_BODY_CHUNKED, 0, POST "transfer-encoding: \t cHuNkEd  \r\n\r\n"},
    {400, 0, 0, POST "Transfer-Encoding: chunked\t\r\n\r\n"},
    {400, 0, 0, POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"},
    {400, 0, 0, POST "Content-Length: 5\r\nContent-Length: 5\r\n\r\n"},
    {400, 0, 0, POST "Content-Length: 5, 5\r\n\r\n"},
    {400, 0, 0, POST "Content-Length: +5\r\n\r\n"},
    {400, 0, 0, POST "Content-Length: -5\r\n\r\n"},
    {400, 0, 0, POST "Content-Length: 0x5\r\n\r\n"},
    {400, 0, 0, POST "Content-Length: 5 5\r\n\r\n"},
    {400, 0, 0, POST "Content-Length:\r\n\r\n"},
    {400, 0, 0, POST "Content-Length: 9223372036854775808\r\n\r\n"},
    {400, 0, 0, POST "Content-Length: 99999999999999999999999\r\n\r\n"},
    {400, 0, 0, POST "Transfer-Encoding: gzip, chunked\r\n\r\n"},
    {400, 0, 0, POST "Transfer-Encoding: gzip\r\n\r\n"},
    {400, 0, 0, POST "Transfer-Encoding: chunked, chunked\r\n\r\n"},
    {400, 0, 0, POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"},
    {400, 0, 0,
     POST "Transfer-Encoding: \x0b"
          "chunked\r\n\r\n"},
    {400, 0, 0, POST "Transfer-Encoding:\r\n\r\n"},
    {400, 0, 0, OLD "Transfer-Encoding: chunked\r\n\r\n"},
    {400, 0, 0, "GET / HTTP/1.1\r\n\r\n"},
    {400, 0, 0, GET "Host: x\r\n\r\n"},
    {400, 0, 0, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"},
    {400, 0, 0, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"},
    {400, 0, 0, "GET / HTTP/1.1\r\nHost: u@h\r\n\r\n"},
    {0, FC_BODY_NONE, 0, "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"},
    {0, FC_BODY_NONE, 0, "GET / HTTP/1.1\r\nHost:\r\n\r\n"},
    {400, 0, 0, "GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n"},
    {400, 0, 0, "GET * HTTP/1.1\r\nHost: x\r\n\r\n"},
    {0, FC_BODY_NONE, 0, "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"},
    {400, 0, 0, "GET ftp://h/ HTTP/1.1\r\nHost: x\r\n\r\n"},
    {400, 0, 0, "GET http:///p HTTP/1.1\r\nHost: x\r\n\r\n"},
    {400, 0, 0, "GET x HTTP/1.1\r\nHost: x\r\n\r\n"},
    {417, 0, 0, POST "Content-Length: 5\r\nExpect: tea\r\n\r\n"},
    {417, 0, 0, POST "Expect: 100-continue\r\nExpect: 100-continue\r\n\r\n"},
    {505, 0, 0, "GET / HTTP/2.0\r\nHost: x\r\n\r\n"},
    {505, 0, 0, "GET / HTTP/1.2\r\nHost: x\r\n\r\n"},
    {505, 0, 0, "GET / HTTP/0.9\r\nHost: x\r\n\r\n"},
};

static void test_framings(void) {
  for (size_t i = 0; i < sizeof FRAMINGS / sizeof FRAMINGS[0]; i++) {
    const framing_case *want = &FRAMINGS[i];
    fc_framing got;
    int status = frame(want->text, &got);
    CHECK(status == want->status);
    if (status != want->status) fprintf(stderr, "  %d for %s", status, want->text);
    if (status != 0) continue;
    CHECK(got.body == want->body);
    CHECK(got.length == want->length);
  }
}

static void test_keep_alive(void) {
  fc_framing f;
  CHECK(frame(GET "\r\n", &f) == 0 && f.keep_alive);
  CHECK(frame(GET "Connection: close\r\n\r\n", &f) == 0 && !f.keep_alive);
  CHECK(frame(GET "Connection: x , CLOSE\r\n\r\n", &f) == 0 && !f.keep_alive);
  CHECK(frame(GET "Connection: x\r\nConnection: close\r\n\r\n", &f) == 0 && !f.keep_alive);
  CHECK(frame(GET "Connection: closed\r\n\r\n", &f) == 0 && f.keep_alive);
  CHECK(frame(OLD "\r\n", &f) == 0 && !f.keep_alive);
  CHECK(frame(OLD "Connection: Keep-Alive\r\n\r\n", &f) == 0 && f.keep_alive);
  CHECK(frame(OLD "Connection: keep-alive, close\r\n\r\n", &f) == 0 && !f.keep_alive);
}

static void test_expectations_and_upgrades(void) {
  fc_framing f;
  CHECK(frame(POST "Content-Length: 1\r\nExpect: 100-Continue\r\n\r\n", &f) == 0);
  CHECK(f.expect_continue);
  CHECK(frame(POST "Expect: 100-continue\r\n\r\n", &f) == 0 && !f.expect_continue);
  CHECK(frame(OLD "Content-Length: 1\r\nExpect: 100-continue\r\n\r\n", &f) == 0);
  CHECK(!f.expect_continue);
  CHECK(frame(GET "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", &f) == 0 && f.upgrade);
  CHECK(frame(GET "Upgrade: websocket\r\n\r\n", &f) == 0 && !f.upgrade);
  CHECK(frame("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", &f) == 0 && f.is_head);
}

static void test_targets(void) {
  fc_framing f;
  const char *text = "GET /p/q?a=b?c HTTP/1.1\r\nHost: h:1\r\n\r\n";
  CHECK(frame(text, &f) == 0 && f.target_form == FC_TARGET_ORIGIN);
  CHECK(span_is(text, f.path, f.path_len, "/p/q"));
  CHECK(span_is(text, f.query, f.query_len, "a=b?c"));
  CHECK(span_is(text, f.host, f.host_len, "h:1"));
  text = "GET http://other:8/p?q HTTP/1.1\r\nHost: h\r\n\r\n";
  CHECK(frame(text, &f) == 0 && f.target_form == FC_TARGET_ABSOLUTE);
  CHECK(span_is(text, f.path, f.path_len, "/p"));
  CHECK(span_is(text, f.query, f.query_len, "q"));
  CHECK(span_is(text, f.host, f.host_len, "other:8"));
  text = "GET HTTPS://other?q HTTP/1.1\r\nHost: h\r\n\r\n";
  CHECK(frame(text, &f) == 0 && f.path_len == 0 && f.query_len == 1);
  text = "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n";
  CHECK(frame(text, &f) == 0 && f.target_form == FC_TARGET_ASTERISK && f.path_len == 1);
  text = "CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n";
  CHECK(frame(text, &f) == 0 && f.is_connect && f.target_form == FC_TARGET_AUTHORITY);
}

static int line_status(const char *text) {
  size_t len = strlen(text);
  return fc_request_line_status(guarded(text, len), len);
}

static void test_refused_lines(void) {
  CHECK(line_status("FOO / HTTP/1.1\r\n") == 200);
  CHECK(line_status("FOO / HTTP/1.1\r\nA: b\r\n") == 200);
  CHECK(line_status("GET / HTTP/3.0\r\n") == 505);
  CHECK(line_status("GET / HTTP/1.2\r\n") == 505);
  CHECK(line_status("GET / HTTP/11.1\r\n") == 400);
  CHECK(line_status("GET / HTTP/1.1\n") == 400);
  CHECK(line_status("GET / HTTP/1.1 \r\n") == 400);
  CHECK(line_status("GET  / HTTP/1.1\r\n") == 400);
  CHECK(line_status("GET /\r\n") == 400);
  CHECK(line_status("GET\r\n") == 400);
  CHECK(line_status("\x16\x03\x01") == 400);
  CHECK(line_status(" GET / HTTP/1.1\r\n") == 400);
  CHECK(line_status("GE(T / HTTP/1.1\r\n") == 400);
}

/* A line that is still coming is never judged otherwise than the whole of it. */
static void test_an_unfinished_line_waits(void) {
  const char *whole[] = {"FOO /x HTTP/1.1\r\n", "GET / HTTP/2.0\r\n"};
  char part[32];
  for (size_t i = 0; i < 2; i++) {
    for (size_t n = 0; n < strlen(whole[i]); n++) {
      memcpy(part, whole[i], n);
      part[n] = 0;
      CHECK(line_status(part) == 0);
    }
  }
}

static int unquotes(const char *text, const char *want, uint32_t want_len) {
  uint32_t len = (uint32_t)strlen(text);
  char out[32];
  uint32_t n = fc_request_unquote(guarded(text, len), len, out);
  return n == want_len && memcmp(out, want, n) == 0;
}

static void test_unquoting(void) {
  CHECK(unquotes("", "", 0));
  CHECK(unquotes("/a%20b", "/a b", 4));
  CHECK(unquotes("%2f%2F%c3%BC", "//\xc3\xbc", 4));
  CHECK(unquotes("%00", "\0", 1));
  CHECK(unquotes("%25%32%30", "%20", 3));
  CHECK(unquotes("%", "%", 1));
  CHECK(unquotes("a%4", "a%4", 3));
  CHECK(unquotes("%4g%g4%%41", "%4g%g4%A", 8));
}

static void test_hex_digits(void) {
  const char *digits = "0123456789abcdef";
  for (int c = -128; c < 128; c++) {
    int lower = (c >= 'A' && c <= 'F') ? c + 32 : c;
    const char *found = c != 0 ? strchr(digits, lower) : NULL;
    CHECK(fc_hex_digit((char)c) == (found != NULL ? (int)(found - digits) : -1));
  }
}

static void test_name_hashes(void) {
  CHECK(fc_name_hash(guarded("", 0), 0) == 0);
  CHECK(fc_name_hash(guarded("Host", 4), 4) < 1 << 16);
  CHECK(fc_name_hash(guarded("Accept-Encoding", 15), 15) !=
        fc_name_hash(guarded("Accept-Language", 15), 15));
  CHECK(fc_name_hash(guarded("Cookie", 6), 6) == fc_name_hash(guarded("Cookie", 6), 6));
}

int main(void) {
  test_unquoting();
  test_hex_digits();
  test_name_hashes();
  test_scan();
  test_scan_refuses_what_is_no_http_line();
  test_scan_bounds_the_fields();
  test_framings();
  test_keep_alive();
  test_expectations_and_upgrades();
  test_targets();
  test_refused_lines();
  test_an_unfinished_line_waits();
  return check_summary("test_request");
}
