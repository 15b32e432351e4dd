/* test_head.c: the response head: what it writes, byte by byte, and what it
 * refuses.  Built with csrc/head.c and csrc/buf.c. */
#define _GNU_SOURCE
#include "head.h"

#include <errno.h>

#include "check.h"

static fc_head head;

static fc_span nothing(void) {
  fc_span span = {NULL, 0};
  return span;
}

/* A text as a span that ends at an unreadable page. */
static fc_span span_of(const char *text) {
  fc_span span = {guarded(text, strlen(text)), strlen(text)};
  return span;
}

static int holds(const char *text) {
  size_t len = strlen(text);
  if (head.buf.len == len && memcmp(head.buf.ptr, text, len) == 0) return 1;
  fprintf(stderr, "want: %s\ngot:  %.*s\n", text, (int)head.buf.len, head.buf.ptr);
  return 0;
}

static int field(const char *name, const char *value) {
  return fc_head_field(&head, span_of(name), span_of(value));
}

/* The field is refused with EINVAL and leaves no trace. */
static int is_refused(fc_span name, fc_span value) {
  static char before[8192];
  size_t len = head.buf.len;
  int64_t content_length = head.content_length;
  uint32_t said = head.said;
  if (len > sizeof before) return 0;
  memcpy(before, head.buf.ptr, len);
  errno = 0;
  return fc_head_field(&head, name, value) == FC_ERR && errno == EINVAL && head.buf.len == len &&
         memcmp(head.buf.ptr, before, len) == 0 && head.content_length == content_length &&
         head.said == said;
}

static int is_refused_text(const char *name, const char *value) {
  return is_refused(span_of(name), span_of(value));
}

/* Copies the next part of a list with bars between its parts; 0 at its end. */
static int next_part(const char **list, char *part) {
  if (*list == NULL) return 0;
  size_t len = strcspn(*list, "|");
  memcpy(part, *list, len);
  part[len] = '\0';
  *list = (*list)[len] == '|' ? *list + len + 1 : NULL;
  return 1;
}

static void begin(void) { CHECK(fc_head_start(&head, 200, nothing()) == FC_OK); }

static int finish(int frame, int64_t length, int connection) {
  return fc_head_finish(&head, frame, length, connection, nothing(), nothing());
}

/* ---- the status line */

static void test_status_lines(void) {
  char want[128];
  for (int status = 100; status <= 999; status++) {
    fc_span phrase = fc_head_reason(status);
    snprintf(want, sizeof want, "HTTP/1.1 %d %.*s\r\n", status, (int)phrase.len, phrase.ptr);
    CHECK(fc_head_start(&head, status, nothing()) == FC_OK && holds(want));
    CHECK(head.said == 0);
    CHECK(fc_head_start(&head, status, span_of("Fine By Me")) == FC_OK);
    snprintf(want, sizeof want, "HTTP/1.1 %d Fine By Me\r\n", status);
    CHECK(holds(want));
  }
}

static void test_known_phrases(void) {
  const char *known =
      "100 Continue|101 Switching Protocols|200 OK|201 Created|204 No Content|206 Partial Content|"
      "301 Moved Permanently|304 Not Modified|308 Permanent Redirect|400 Bad Request|404 Not Found|"
      "408 Request Timeout|413 Content Too Large|414 URI Too Long|417 Expectation Failed|"
      "431 Request Header Fields Too Large|500 Internal Server Error|501 Not Implemented|"
      "503 Service Unavailable|505 HTTP Version Not Supported|511 Network Authentication Required";
  char line[64];
  while (next_part(&known, line)) {
    fc_span phrase = fc_head_reason(atoi(line));
    CHECK(phrase.len == strlen(line + 4) && memcmp(phrase.ptr, line + 4, phrase.len) == 0);
  }
  static const int unknown[] = {299, 512, 999, 99, 0, -1, INT32_MAX, INT32_MIN};
  for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
    CHECK(fc_head_reason(unknown[i]).len == 0);
  }
  int count = 0;
  for (int status = 0; status < 1100; status++) count += fc_head_reason(status).len > 0;
  CHECK(count == 62);
}

static void test_status_limits(void) {
  static const int bad[] = {INT32_MIN, -200, -1, 0, 1, 99, 1000, 2000, INT32_MAX};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    begin();
    errno = 0;
    CHECK(fc_head_start(&head, bad[i], nothing()) == FC_ERR && errno == EINVAL);
    CHECK(head.buf.len == 0); /* nothing of an older head is left to be sent */
  }
  CHECK(fc_head_start(&head, 100, nothing()) == FC_OK && holds("HTTP/1.1 100 Continue\r\n"));
  CHECK(fc_head_start(&head, 999, nothing()) == FC_OK && holds("HTTP/1.1 999 \r\n"));
}

static void test_reasons(void) {
  CHECK(fc_head_start(&head, 200, span_of("OK")) == FC_OK && holds("HTTP/1.1 200 OK\r\n"));
  CHECK(fc_head_start(&head, 200, span_of("KO")) == FC_OK && holds("HTTP/1.1 200 KO\r\n"));
  CHECK(fc_head_start(&head, 200, span_of("O")) == FC_OK && holds("HTTP/1.1 200 O\r\n"));
  CHECK(fc_head_start(&head, 404, span_of("OK")) == FC_OK && holds("HTTP/1.1 404 OK\r\n"));
  CHECK(fc_head_start(&head, 599, span_of("Odd")) == FC_OK && holds("HTTP/1.1 599 Odd\r\n"));
  char *reason = guarded(NULL, 40);
  for (size_t len = 1; len <= 40; len++) {
    fc_span span = {reason + 40 - len, len};
    for (int byte = 0; byte < 256; byte++) {
      for (size_t at = 0; at < len; at += 3) {
        memset(reason, 'r', 40);
        reason[40 - len + at] = (char)byte;
        int is_good = (byte >= 32 && byte != 127);
        int result = fc_head_start(&head, 200, span);
        CHECK(result == (is_good ? FC_OK : FC_ERR));
        CHECK(head.buf.len == (is_good ? 15 + len : 0));
      }
    }
  }
}

static void test_a_long_reason(void) {
  enum { LEN = 100000 };
  char *reason = guarded(NULL, LEN);
  memset(reason, 'r', LEN);
  fc_span span = {reason, LEN};
  CHECK(fc_head_start(&head, 200, span) == FC_OK && head.buf.len == LEN + 15);
  CHECK(memcmp(head.buf.ptr + 13 + LEN, "\r\n", 2) == 0);
  reason[LEN - 1] = '\n';
  CHECK(fc_head_start(&head, 200, span) == FC_ERR && head.buf.len == 0);
}

/* ---- names and values */

static int is_token_byte(int byte) {
  return byte > 0 && strchr(
                         "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
                         "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
                         byte) != NULL;
}

static int wrote(fc_span name, fc_span value) {
  const char *at = head.buf.ptr + strlen("HTTP/1.1 200 OK\r\n");
  return head.buf.len == 17 + name.len + value.len + 4 && memcmp(at, name.ptr, name.len) == 0 &&
         memcmp(at + name.len, ": ", 2) == 0 &&
         (value.len == 0 || memcmp(at + name.len + 2, value.ptr, value.len) == 0) &&
         memcmp(at + name.len + 2 + value.len, "\r\n", 2) == 0;
}

static void test_every_byte_in_names(void) {
  char *bytes = guarded(NULL, 40);
  fc_span value = span_of("value");
  for (size_t len = 1; len <= 40; len++) {
    fc_span name = {bytes + 40 - len, len};
    for (int byte = 0; byte < 256; byte++) {
      size_t step = len < 20 ? 1 : 7;
      for (size_t at = 0; at < len; at += step) {
        memset(bytes, 'n', 40);
        bytes[40 - len + at] = (char)byte;
        begin();
        if (is_token_byte(byte)) {
          CHECK(fc_head_field(&head, name, value) == FC_OK && wrote(name, value));
        } else {
          CHECK(is_refused(name, value));
        }
      }
    }
  }
  begin();
  CHECK(is_refused(nothing(), span_of("value")));
  CHECK(is_refused(span_of(""), span_of("value")));
}

static void test_every_byte_in_values(void) {
  char *bytes = guarded(NULL, 40);
  fc_span name = span_of("X-Name");
  for (size_t len = 1; len <= 40; len++) {
    fc_span value = {bytes + 40 - len, len};
    for (int byte = 0; byte < 256; byte++) {
      for (size_t at = 0; at < len; at++) {
        memset(bytes, 'v', 40);
        bytes[40 - len + at] = (char)byte;
        begin();
        if ((byte < 32 && byte != '\t') || byte == 127) {
          CHECK(is_refused(name, value));
          continue;
        }
        int blank = byte == ' ' || byte == '\t';
        fc_span trimmed = value;
        if (blank && at == 0) trimmed.ptr++;
        if (blank && (at == 0 || at == len - 1)) trimmed.len--;
        CHECK(fc_head_field(&head, name, value) == FC_OK && wrote(name, trimmed));
      }
    }
  }
}

/* Two odd bytes in one word: what the first one does to the arithmetic must
 * not hide the second. */
static void test_pairs_of_bytes_in_values(void) {
  static const unsigned char odd[] = {0,    1,    9,    10,   13,   31,   32,   33,
                                      0x7e, 0x7f, 0x80, 0x81, 0x9f, 0xa0, 0xfe, 0xff};
  char *bytes = guarded(NULL, 10);
  fc_span name = span_of("x");
  fc_span value = {bytes, 10};
  for (size_t a = 0; a < sizeof odd * sizeof odd; a++) {
    unsigned char first = odd[a / sizeof odd], second = odd[a % sizeof odd];
    for (size_t at = 0; at < 90; at++) {
      memset(bytes, 'v', 10);
      bytes[at / 9 % 10] = (char)first;
      bytes[(at / 9 + 1 + at % 9) % 10] = (char)second;
      int is_bad = (first < 32 && first != 9) || first == 127 || (second < 32 && second != 9) ||
                   second == 127;
      begin();
      if (is_bad) {
        CHECK(is_refused(name, value));
      } else {
        CHECK(fc_head_field(&head, name, value) == FC_OK);
      }
    }
  }
}

static void test_splitting(void) {
  static const char *const values[] = {"a\r\nSet-Cookie: x=1",
                                       "a\nb",
                                       "a\rb",
                                       "\r\n",
                                       "\n",
                                       "a\r\n b",
                                       "a\r\n\r\n<html>",
                                       "long value\n",
                                       "\nlong value x",
                                       "a\v b",
                                       "a\f",
                                       "\x7f",
                                       "\x1b[2J",
                                       "a\r",
                                       " \r\n ",
                                       "\x01 more",
                                       "a\b"};
  begin();
  for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
    CHECK(is_refused_text("X-Name", values[i]));
    CHECK(is_refused_text("Connection", values[i]));
    CHECK(is_refused_text("Transfer-Encoding", values[i]));
    CHECK(is_refused_text("Content-Length", values[i]));
    CHECK(is_refused_text("Keep-Alive", values[i]));
  }
  static const char *const names[] = {"",    " ",           "a b",  "a:",    ":a",  "a\r\nb", "a\n",
                                      "\na", "a\tb",        "a ",   " a",    "a/b", "(a)",    "a,b",
                                      "a=b", "\"a\"",       "a@b",  "[a]",   "{a}", "a\\b",   "a?b",
                                      "a;b", "caf\xc3\xa9", "\x80", "a\x7f", "<a>"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    CHECK(is_refused_text(names[i], "value"));
  }
  fc_span nul = {guarded("a\0b", 3), 3};
  CHECK(is_refused(span_of("X-Name"), nul) && is_refused(nul, span_of("value")));
  CHECK(holds("HTTP/1.1 200 OK\r\n"));
}

static void test_blanks_around_values(void) {
  static const struct {
    const char *value, *written;
  } rows[] = {
      {"", ""},
      {" ", ""},
      {"\t", ""},
      {" \t \t", ""},
      {" a", "a"},
      {"a ", "a"},
      {"\ta\t", "a"},
      {"  a \t b  ", "a \t b"},
      {"a\tb", "a\tb"},
      {"\xff\x80", "\xff\x80"},
      {"caf\xc3\xa9", "caf\xc3\xa9"},
  };
  char want[128];
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    begin();
    CHECK(field("X-Name", rows[i].value) == FC_OK);
    snprintf(want, sizeof want, "HTTP/1.1 200 OK\r\nX-Name: %s\r\n", rows[i].written);
    CHECK(holds(want));
  }
  begin();
  CHECK(fc_head_field(&head, span_of("X-Name"), nothing()) == FC_OK);
  CHECK(holds("HTTP/1.1 200 OK\r\nX-Name: \r\n"));
}

static void test_all_sizes_are_copied_whole(void) {
  static char pattern[300];
  for (size_t i = 0; i < sizeof pattern; i++) pattern[i] = (char)('A' + i % 26);
  for (size_t n = 1; n <= 150; n++) {
    for (size_t v = 0; v <= 150; v += n < 40 ? 1 : 13) {
      fc_span name = {guarded(pattern, n), n};
      fc_span value = {guarded(pattern + 7, v), v};
      begin();
      CHECK(fc_head_field(&head, name, value) == FC_OK && wrote(name, value));
    }
  }
}

static void test_many_and_large_fields(void) {
  enum { LARGE = 70000 };
  begin();
  for (int i = 0; i < 1000; i++) CHECK(field("X-Many", "some value") == FC_OK);
  CHECK(head.buf.len == 17 + 1000 * 20);
  char *large = guarded(NULL, LARGE);
  memset(large, 'v', LARGE);
  fc_span name = span_of("X-Large");
  fc_span value = {large, LARGE};
  CHECK(fc_head_field(&head, name, value) == FC_OK);
  CHECK(head.buf.len == 17 + 1000 * 20 + 7 + 4 + LARGE);
  CHECK(finish(FC_FRAME_NONE, 0, FC_CONN_NONE) == FC_OK);
  CHECK(memcmp(head.buf.ptr + head.buf.len - 5, "v\r\n\r\n", 5) == 0);
  for (size_t at = 0; at < LARGE; at += 4999) {
    large[at] = '\n';
    begin();
    CHECK(is_refused(name, value));
    large[at] = 'v';
  }
}

/* ---- the server's own fields */

/* "nAmE" with the letters that `bits` names in upper case. */
static void spell(char *spelled, const char *name, unsigned bits) {
  for (size_t i = 0; i <= strlen(name); i++) {
    int is_letter = name[i] >= 'a' && name[i] <= 'z';
    spelled[i] = is_letter && (bits >> i % 16 & 1) ? (char)(name[i] - 32) : name[i];
  }
}

static void test_what_is_said_and_written(void) {
  static const struct {
    const char *name, *value;
    uint32_t said;
    int is_written;
  } rows[] = {{"date", "Sun, 06 Nov 1994 08:49:37 GMT", FC_SAID_DATE, 1},
              {"server", "mine", FC_SAID_SERVER, 1},
              {"content-type", "text/plain", FC_SAID_TYPE, 1},
              {"upgrade", "websocket", FC_SAID_UPGRADE, 1},
              {"content-length", "12", FC_SAID_LENGTH, 0},
              {"transfer-encoding", "chunked", FC_SAID_CHUNKED, 0},
              {"transfer-encoding", "gzip, chunked", FC_SAID_CHUNKED, 0},
              {"transfer-encoding", "", FC_SAID_CHUNKED, 0},
              {"connection", "close", FC_SAID_CLOSE, 0},
              {"connection", "keep-alive", 0, 0},
              {"connection", "upgrade", 0, 0},
              {"keep-alive", "timeout=5", 0, 0},
              {"proxy-connection", "close", 0, 0},
              /* Neighbours of those names are nobody's business. */
              {"dato", "x", 0, 1},
              {"servers", "x", 0, 1},
              {"serve", "x", 0, 1},
              {"upgrader", "x", 0, 1},
              {"content-length-", "12", 0, 1},
              {"content_length", "abc", 0, 1},
              {"content-typo", "x", 0, 1},
              {"xonnection", "close", 0, 1},
              {"connectiom", "close", 0, 1},
              {"keep_alive", "x", 0, 1},
              {"transfer-encodinh", "chunked", 0, 1},
              {"proxy-connections", "x", 0, 1},
              {"trailer", "x", 0, 1},
              {"set-cookie", "a=b", 0, 1}};
  char name[32];
  char want[128];
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    for (unsigned bits = 0; bits < 0x10000; bits += bits < 16 ? 1 : 257) {
      spell(name, rows[i].name, bits);
      begin();
      CHECK(field(name, rows[i].value) == FC_OK && head.said == rows[i].said);
      snprintf(want, sizeof want, "HTTP/1.1 200 OK\r\n%s: %s\r\n", name, rows[i].value);
      CHECK(rows[i].is_written ? holds(want) : holds("HTTP/1.1 200 OK\r\n"));
    }
  }
}

/* A name that differs in one byte is another name, unless it is a letter's other case. */
static void test_one_byte_makes_another_name(void) {
  static const char *const NAMES[] = {"date",           "server",           "upgrade",
                                      "connection",     "keep-alive",       "content-type",
                                      "content-length", "proxy-connection", "transfer-encoding"};
  for (size_t i = 0; i < sizeof NAMES / sizeof NAMES[0]; i++) {
    char name[32] = "";
    for (size_t at = 0; at < strlen(NAMES[i]); at++) {
      for (int byte = 1; byte < 256; byte++) {
        strcpy(name, NAMES[i]);
        char right = name[at];
        int is_same = byte == right || (right != '-' && byte == right - 32);
        name[at] = (char)byte;
        begin();
        size_t len = head.buf.len;
        /* A value that all of them may have; close is what Connection reports. */
        int taken = field(name, "close") == FC_OK;
        int is_known = head.said != 0 || (taken && head.buf.len == len);
        /* Of Content-Length it is refused, as are names that are no tokens. */
        if (is_same && i == 6) CHECK(!taken);
        if (is_same && i != 6) CHECK(taken && is_known);
        if (!is_same) CHECK(!is_known);
      }
    }
  }
}

static void expect_connection(const char *values, uint32_t said) {
  char value[64];
  while (next_part(&values, value)) {
    begin();
    CHECK(field("Connection", value) == FC_OK && head.said == said);
    CHECK(holds("HTTP/1.1 200 OK\r\n"));
  }
}

static void test_connection_options(void) {
  expect_connection(
      "close|CLOSE|Close|cloSe| close |\tclose|a, close|close, a|a,close,b|a ,\tclose\t, b|,close|"
      "close,|,,,close,,|upgrade, close",
      FC_SAID_CLOSE);
  expect_connection(
      "|,|closed|clos|xclose|close x|close;q=1|\"close\"|keep-alive|upgrade|c lose|closf|a,clos",
      0);
}

static void test_content_length(void) {
  static const struct {
    const char *value;
    int64_t length;
  } good[] = {{"0", 0},
              {"1", 1},
              {"9", 9},
              {"10", 10},
              {"007", 7},
              {" 12\t", 12},
              {"9223372036854775806", INT64_MAX - 1},
              {"9223372036854775807", INT64_MAX},
              {"0000000000000000000000000000009223372036854775807", INT64_MAX}};
  for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
    begin();
    CHECK(field("Content-Length", good[i].value) == FC_OK);
    CHECK(head.said == FC_SAID_LENGTH && head.content_length == good[i].length);
  }
  const char *bad =
      "9223372036854775808|9223372036854775809|9223372036854775810|18446744073709551615|"
      "18446744073709551616|18446744073709551617|99999999999999999999999999|| |-1|+1|1.0|1e3|0x10|"
      "1_000|1 2|5, 5|5,5|a|1a|/|:|\xb2";
  char value[64];
  begin();
  while (next_part(&bad, value)) CHECK(is_refused_text("Content-Length", value));
}

static void test_content_length_twice(void) {
  begin();
  CHECK(field("Content-Length", "5") == FC_OK);
  CHECK(field("content-length", "5") == FC_OK && field("CONTENT-LENGTH", "05") == FC_OK);
  CHECK(is_refused_text("Content-Length", "6") && is_refused_text("Content-Length", "4"));
  CHECK(is_refused_text("Content-Length", "x") && is_refused_text("Content-Length", "0"));
  CHECK(head.content_length == 5);
  begin();
  CHECK(!(head.said & FC_SAID_LENGTH));
  CHECK(field("Content-Length", "0") == FC_OK && is_refused_text("Content-Length", "1"));
  CHECK(head.content_length == 0);
  begin(); /* forgets the last response's */
  CHECK(field("Content-Length", "6") == FC_OK && head.content_length == 6);
}

/* ---- finish */

static const char *const FRAMES[] = {"", "Content-Length: 42\r\n",
                                     "Transfer-Encoding: chunked\r\n"};
static const char *const CONNECTIONS[] = {"", "Connection: close\r\n", "Connection: keep-alive\r\n",
                                          "Connection: Upgrade\r\n"};
#define DATE_TEXT "Sun, 06 Nov 1994 08:49:37 GMT"

static void finish_one(int frame, int connection, int asked, int said) {
  char want[512];
  begin();
  CHECK(field("X-First", "1") == FC_OK);
  if (said & FC_SAID_DATE) CHECK(field("date", "never") == FC_OK);
  if (said & FC_SAID_SERVER) CHECK(field("SERVER", "app") == FC_OK);
  fc_span date = (asked & FC_SAID_DATE) ? span_of(DATE_TEXT) : nothing();
  fc_span server = (asked & FC_SAID_SERVER) ? span_of("fastcluster") : nothing();
  CHECK(fc_head_finish(&head, frame, 42, connection, date, server) == FC_OK);
  int adds = asked & ~said;
  snprintf(want, sizeof want, "HTTP/1.1 200 OK\r\nX-First: 1\r\n%s%s%s%s%s%s\r\n",
           (said & FC_SAID_DATE) ? "date: never\r\n" : "",
           (said & FC_SAID_SERVER) ? "SERVER: app\r\n" : "", FRAMES[frame], CONNECTIONS[connection],
           (adds & FC_SAID_DATE) ? "Date: " DATE_TEXT "\r\n" : "",
           (adds & FC_SAID_SERVER) ? "Server: fastcluster\r\n" : "");
  CHECK(holds(want));
}

static void test_finish(void) {
  for (int frame = FC_FRAME_NONE; frame <= FC_FRAME_CHUNKED; frame++) {
    for (int connection = FC_CONN_NONE; connection <= FC_CONN_UPGRADE; connection++) {
      for (int asked = 0; asked < 4; asked++) {
        for (int said = 0; said < 4; said++) finish_one(frame, connection, asked, said);
      }
    }
  }
}

static int writes_length(int64_t length) {
  char want[128];
  begin();
  if (finish(FC_FRAME_LENGTH, length, FC_CONN_NONE) != FC_OK) return 0;
  snprintf(want, sizeof want, "HTTP/1.1 200 OK\r\nContent-Length: %" PRId64 "\r\n\r\n", length);
  return holds(want);
}

static void test_finish_lengths(void) {
  for (int64_t length = 0; length <= 11000; length++) CHECK(writes_length(length));
  int64_t power = 10;
  for (int digits = 2; digits <= 19; digits++) {
    CHECK(writes_length(power - 1) && writes_length(power) && writes_length(power + 1));
    if (digits < 19) power *= 10;
  }
  CHECK(writes_length(INT64_MAX) && writes_length(INT64_MAX - 1));
  uint64_t seed = 4;
  for (int i = 0; i < 20000; i++) {
    int64_t length = (int64_t)(check_random(&seed, UINT64_C(1) << 53) >> check_random(&seed, 53));
    CHECK(writes_length(length));
  }
  begin();
  errno = 0;
  CHECK(finish(FC_FRAME_LENGTH, -1, FC_CONN_NONE) == FC_ERR && errno == EINVAL);
  CHECK(finish(FC_FRAME_LENGTH, INT64_MIN, FC_CONN_NONE) == FC_ERR);
  CHECK(holds("HTTP/1.1 200 OK\r\n"));
  CHECK(finish(FC_FRAME_CHUNKED, -1, FC_CONN_NONE) == FC_OK); /* not looked at */
}

/* The memory grows at any moment, and always in time. */
static void test_growth_at_every_size(void) {
  for (size_t used = 0; used < 700; used++) {
    fc_head_free(&head);
    begin();
    char *bytes = guarded(NULL, used);
    memset(bytes, 'v', used);
    fc_span value = {bytes, used};
    CHECK(fc_head_field(&head, span_of("a"), value) == FC_OK);
    CHECK(fc_head_finish(&head, FC_FRAME_LENGTH, INT64_MAX, FC_CONN_KEEP, span_of(DATE_TEXT),
                         span_of("fastcluster")) == FC_OK);
    CHECK(head.buf.len <= head.buf.cap && head.buf.len == 17 + 5 + used + 37 + 24 + 37 + 21 + 2);
    begin();
    CHECK(fc_head_finish(&head, FC_FRAME_NONE, 0, FC_CONN_NONE, value, value) == FC_OK);
    CHECK(head.buf.len == 17 + (used > 0 ? 2 * used + 8 + 10 : 0) + 2);
  }
}

static void test_free(void) {
  fc_head_free(&head);
  CHECK(head.buf.ptr == NULL && head.buf.len == 0 && head.said == 0);
  fc_head_free(&head);
  begin();
  CHECK(field("Date", "never") == FC_OK && field("Content-Length", "5") == FC_OK);
  fc_head_free(&head);
  CHECK(head.buf.ptr == NULL && head.buf.cap == 0 && head.said == 0);
}

int main(void) {
  test_status_lines();
  test_known_phrases();
  test_status_limits();
  test_reasons();
  test_a_long_reason();
  test_every_byte_in_names();
  test_every_byte_in_values();
  test_pairs_of_bytes_in_values();
  test_splitting();
  test_blanks_around_values();
  test_all_sizes_are_copied_whole();
  test_many_and_large_fields();
  test_what_is_said_and_written();
  test_one_byte_makes_another_name();
  test_connection_options();
  test_content_length();
  test_content_length_twice();
  test_finish();
  test_finish_lengths();
  test_growth_at_every_size();
  test_free();
  return check_summary("test_head");
}
