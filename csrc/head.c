/* head.c: the response head behind head.h: what may stand in names and values,
 * the status lines, one field, and what the server adds. */
#include "head.h"

#include <errno.h>
#include <string.h>

static int refuse(void) {
  errno = EINVAL;
  return FC_ERR;
}

/* ---- copying */

/* Copies and returns where the copy ends.  The parts of a head mostly have 4 to
 * 32 bytes: two moves that may overlap do that without a call or a loop. */
static inline char *put(char *at, const char *bytes, size_t len) {
  if (len > 32) {
    memcpy(at, bytes, len);
  } else if (len >= 16) {
    memcpy(at, bytes, 16);
    memcpy(at + len - 16, bytes + len - 16, 16);
  } else if (len >= 8) {
    memcpy(at, bytes, 8);
    memcpy(at + len - 8, bytes + len - 8, 8);
  } else if (len >= 4) {
    memcpy(at, bytes, 4);
    memcpy(at + len - 4, bytes + len - 4, 4);
  } else {
    for (size_t i = 0; i < len; i++) at[i] = bytes[i];
  }
  return at + len;
}

#define PUT_TEXT(at, text) ((char *)memcpy(at, text, sizeof(text) - 1) + (sizeof(text) - 1))

#define DIGITS_MAX 20

static const char PAIRS[] =
    "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
    "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
    "8081828384858687888990919293949596979899";

static char *put_number(char *at, uint64_t number) {
  size_t digits = 1;
  for (uint64_t limit = 10; number >= limit && digits < DIGITS_MAX - 1; limit *= 10) digits++;
  char *end = at + digits;
  char *to = end;
  while (number >= 10) {
    to -= 2;
    memcpy(to, PAIRS + 2 * (number % 100), 2);
    number /= 100;
  }
  if (to > at) *at = (char)('0' + number);
  return end;
}

/* ---- what may stand in a head */

/* The bytes of a token (RFC 9110 section 5.6.2), each as its lower case; 0 for
 * all others. */
static const unsigned char TOKEN[256] = {
    ['!'] = '!', ['#'] = '#', ['$'] = '$', ['%'] = '%', ['&'] = '&', ['\''] = '\'', ['*'] = '*',
    ['+'] = '+', ['-'] = '-', ['.'] = '.', ['^'] = '^', ['_'] = '_', ['`'] = '`',   ['|'] = '|',
    ['~'] = '~', ['0'] = '0', ['1'] = '1', ['2'] = '2', ['3'] = '3', ['4'] = '4',   ['5'] = '5',
    ['6'] = '6', ['7'] = '7', ['8'] = '8', ['9'] = '9', ['A'] = 'a', ['B'] = 'b',   ['C'] = 'c',
    ['D'] = 'd', ['E'] = 'e', ['F'] = 'f', ['G'] = 'g', ['H'] = 'h', ['I'] = 'i',   ['J'] = 'j',
    ['K'] = 'k', ['L'] = 'l', ['M'] = 'm', ['N'] = 'n', ['O'] = 'o', ['P'] = 'p',   ['Q'] = 'q',
    ['R'] = 'r', ['S'] = 's', ['T'] = 't', ['U'] = 'u', ['V'] = 'v', ['W'] = 'w',   ['X'] = 'x',
    ['Y'] = 'y', ['Z'] = 'z', ['a'] = 'a', ['b'] = 'b', ['c'] = 'c', ['d'] = 'd',   ['e'] = 'e',
    ['f'] = 'f', ['g'] = 'g', ['h'] = 'h', ['i'] = 'i', ['j'] = 'j', ['k'] = 'k',   ['l'] = 'l',
    ['m'] = 'm', ['n'] = 'n', ['o'] = 'o', ['p'] = 'p', ['q'] = 'q', ['r'] = 'r',   ['s'] = 's',
    ['t'] = 't', ['u'] = 'u', ['v'] = 'v', ['w'] = 'w', ['x'] = 'x', ['y'] = 'y',   ['z'] = 'z',
};

/* 1 for what may not stand in a value: control bytes but TAB. */
static const unsigned char CONTROL[256] = {
    [0] = 1,  [1] = 1,  [2] = 1,  [3] = 1,  [4] = 1,  [5] = 1,  [6] = 1,  [7] = 1,
    [8] = 1,  [10] = 1, [11] = 1, [12] = 1, [13] = 1, [14] = 1, [15] = 1, [16] = 1,
    [17] = 1, [18] = 1, [19] = 1, [20] = 1, [21] = 1, [22] = 1, [23] = 1, [24] = 1,
    [25] = 1, [26] = 1, [27] = 1, [28] = 1, [29] = 1, [30] = 1, [31] = 1, [127] = 1,
};

static unsigned char lower(char c) { return TOKEN[(unsigned char)c]; }

static int is_token(fc_span span) {
  if (span.len == 0) return 0;
  for (size_t i = 0; i < span.len; i++) {
    if (FC_UNLIKELY(lower(span.ptr[i]) == 0)) return 0;
  }
  return 1;
}

static int has_control(const char *at, const char *end) {
  unsigned found = 0;
  while (at < end) found |= CONTROL[(unsigned char)*at++];
  return found != 0;
}

#define EACH_BYTE(byte) (UINT64_C(0x0101010101010101) * (byte))

/* Is one of the eight bytes below 0x20 or 0x7f?  Subtracting borrows into a
 * byte's top bit exactly where the lowest such byte stands, and ~ keeps bytes
 * from 0x80 out; what is flagged above that byte may be wrong, which does not
 * matter to a yes or no. */
static int may_have_control(const char *at) {
  uint64_t bytes;
  memcpy(&bytes, at, sizeof bytes);
  uint64_t del = bytes ^ EACH_BYTE(0x7f);
  uint64_t low = (bytes - EACH_BYTE(0x20)) & ~bytes;
  uint64_t zero = (del - EACH_BYTE(0x01)) & ~del;
  return ((low | zero) & EACH_BYTE(0x80)) != 0;
}

static int is_text(fc_span span) {
  const char *at = span.ptr;
  const char *end = at + span.len;
  for (; end - at >= 8; at += 8) {
    if (FC_UNLIKELY(may_have_control(at)) && has_control(at, at + 8)) return 0;
  }
  return !has_control(at, end);
}

static int is_blank(char c) { return c == ' ' || c == '\t'; }

static fc_span without_blanks(fc_span span) {
  while (span.len > 0 && is_blank(span.ptr[0])) {
    span.ptr++;
    span.len--;
  }
  while (span.len > 0 && is_blank(span.ptr[span.len - 1])) span.len--;
  return span;
}

/* How eight, or four, bytes differ from lower-case ones where the bit that tells
 * the cases apart is set. */
static uint64_t differ_8(const char *bytes, const char *word) {
  uint64_t ours, theirs;
  memcpy(&ours, word, sizeof ours);
  memcpy(&theirs, bytes, sizeof theirs);
  return (theirs | EACH_BYTE(0x20)) ^ ours;
}

static uint32_t differ_4(const char *bytes, const char *word) {
  uint32_t ours, theirs;
  memcpy(&ours, word, sizeof ours);
  memcpy(&theirs, bytes, sizeof theirs);
  return (theirs | UINT32_C(0x20202020)) ^ ours;
}

/* word is as long as the span, which callers look at first, has four bytes or
 * more and is made of lower-case letters and "-".  The span has passed is_token
 * or is_text: of all that these let through, only a letter's other case becomes
 * one of those by the bit that is set. */
static int is_word(fc_span span, const char *word) {
  size_t last = span.len - 4;
  if (span.len < 8) return (differ_4(span.ptr, word) | differ_4(span.ptr + last, word + last)) == 0;
  uint64_t differ = 0;
  last = span.len - 8;
  for (size_t at = 0; at < last; at += 8) differ |= differ_8(span.ptr + at, word + at);
  return (differ | differ_8(span.ptr + last, word + last)) == 0;
}

/* ---- the status line */

/* All lines have the same room, so that one is copied, together with what
 * stands behind it, by a fixed number of moves whatever its length. */
typedef struct status_line {
  char text[47];
  uint8_t len; /* 0: not a registered status */
} status_line;

#define TEXT_OF(code, phrase) "HTTP/1.1 " #code " " phrase "\r\n"
#define LINE(code, phrase) [code - 100] = {TEXT_OF(code, phrase), sizeof TEXT_OF(code, phrase) - 1}

/* The registered statuses (RFC 9110 section 15 and IANA's list), from 100. */
static const status_line LINES[] = {
    LINE(100, "Continue"),
    LINE(101, "Switching Protocols"),
    LINE(102, "Processing"),
    LINE(103, "Early Hints"),
    LINE(200, "OK"),
    LINE(201, "Created"),
    LINE(202, "Accepted"),
    LINE(203, "Non-Authoritative Information"),
    LINE(204, "No Content"),
    LINE(205, "Reset Content"),
    LINE(206, "Partial Content"),
    LINE(207, "Multi-Status"),
    LINE(208, "Already Reported"),
    LINE(226, "IM Used"),
    LINE(300, "Multiple Choices"),
    LINE(301, "Moved Permanently"),
    LINE(302, "Found"),
    LINE(303, "See Other"),
    LINE(304, "Not Modified"),
    LINE(305, "Use Proxy"),
    LINE(307, "Temporary Redirect"),
    LINE(308, "Permanent Redirect"),
    LINE(400, "Bad Request"),
    LINE(401, "Unauthorized"),
    LINE(402, "Payment Required"),
    LINE(403, "Forbidden"),
    LINE(404, "Not Found"),
    LINE(405, "Method Not Allowed"),
    LINE(406, "Not Acceptable"),
    LINE(407, "Proxy Authentication Required"),
    LINE(408, "Request Timeout"),
    LINE(409, "Conflict"),
    LINE(410, "Gone"),
    LINE(411, "Length Required"),
    LINE(412, "Precondition Failed"),
    LINE(413, "Content Too Large"),
    LINE(414, "URI Too Long"),
    LINE(415, "Unsupported Media Type"),
    LINE(416, "Range Not Satisfiable"),
    LINE(417, "Expectation Failed"),
    LINE(418, "I'm a Teapot"),
    LINE(421, "Misdirected Request"),
    LINE(422, "Unprocessable Content"),
    LINE(423, "Locked"),
    LINE(424, "Failed Dependency"),
    LINE(425, "Too Early"),
    LINE(426, "Upgrade Required"),
    LINE(428, "Precondition Required"),
    LINE(429, "Too Many Requests"),
    LINE(431, "Request Header Fields Too Large"),
    LINE(451, "Unavailable For Legal Reasons"),
    LINE(500, "Internal Server Error"),
    LINE(501, "Not Implemented"),
    LINE(502, "Bad Gateway"),
    LINE(503, "Service Unavailable"),
    LINE(504, "Gateway Timeout"),
    LINE(505, "HTTP Version Not Supported"),
    LINE(506, "Variant Also Negotiates"),
    LINE(507, "Insufficient Storage"),
    LINE(508, "Loop Detected"),
    LINE(510, "Not Extended"),
    LINE(511, "Network Authentication Required"),
};

static const status_line UNREGISTERED = {"", 0};

enum { BEFORE_PHRASE = 13, AFTER_PHRASE = 2, HEAD_USUAL = 512 };

static const status_line *line_of(int status) {
  size_t index = (size_t)status - 100; /* enormous below 100 */
  return index < sizeof LINES / sizeof LINES[0] ? &LINES[index] : &UNREGISTERED;
}

static fc_span phrase_of(const status_line *line) {
  fc_span phrase = {"", 0};
  if (line->len == 0) return phrase;
  phrase.ptr = line->text + BEFORE_PHRASE;
  phrase.len = (size_t)line->len - BEFORE_PHRASE - AFTER_PHRASE;
  return phrase;
}

fc_span fc_head_reason(int status) { return phrase_of(line_of(status)); }

/* The line of a status or with a reason of the application's own. */
static int start_unusual(fc_head *head, int status, fc_span reason) {
  if (!is_text(reason) || (reason.len > 0 && memchr(reason.ptr, '\t', reason.len) != NULL)) {
    return refuse();
  }
  if (fc_buf_reserve(&head->buf, BEFORE_PHRASE + AFTER_PHRASE + reason.len) < 0) return FC_ERR;
  char *at = PUT_TEXT(head->buf.ptr, "HTTP/1.1 ");
  at = put_number(at, (uint64_t)status);
  *at++ = ' ';
  at = put(at, reason.ptr, reason.len);
  at = PUT_TEXT(at, "\r\n");
  head->buf.len = (size_t)(at - head->buf.ptr);
  return FC_OK;
}

int fc_head_start(fc_head *head, int status, fc_span reason) {
  head->buf.len = 0;
  head->content_length = -1;
  head->said = 0;
  head->serial++;
  if (status < 100 || status > 999) return refuse();
  if (fc_buf_reserve(&head->buf, HEAD_USUAL) < 0) return FC_ERR;
  const status_line *line = line_of(status);
  fc_span phrase = phrase_of(line);
  int is_usual = reason.len == 0 ||
                 (reason.len == phrase.len && memcmp(reason.ptr, phrase.ptr, phrase.len) == 0);
  if (FC_UNLIKELY(line->len == 0 || !is_usual)) return start_unusual(head, status, reason);
  memcpy(head->buf.ptr, line, sizeof *line);
  head->buf.len = line->len;
  return FC_OK;
}

/* ---- one field */

/* Fields of the server that say nothing to it. */
enum { DROPPED = 1 << 30 };
enum { WRITTEN = FC_SAID_DATE | FC_SAID_SERVER | FC_SAID_TYPE | FC_SAID_UPGRADE };

/* What a field of that name may say (FC_SAID_CLOSE: it is Connection); 0 for
 * all that concern nobody here. */
static uint32_t said_by(fc_span name) {
  switch (name.len) {
    case 4:
      return is_word(name, "date") ? FC_SAID_DATE : 0;
    case 6:
      return is_word(name, "server") ? FC_SAID_SERVER : 0;
    case 7:
      return is_word(name, "upgrade") ? FC_SAID_UPGRADE : 0;
    case 10:
      if (is_word(name, "connection")) return FC_SAID_CLOSE;
      return is_word(name, "keep-alive") ? DROPPED : 0;
    case 12:
      return is_word(name, "content-type") ? FC_SAID_TYPE : 0;
    case 14:
      return is_word(name, "content-length") ? FC_SAID_LENGTH : 0;
    case 16:
      return is_word(name, "proxy-connection") ? DROPPED : 0;
    case 17:
      return is_word(name, "transfer-encoding") ? FC_SAID_CHUNKED : 0;
    default:
      return 0;
  }
}

/* 1*DIGIT below 2^63, or -1. */
static int64_t read_length(fc_span value) {
  if (value.len == 0) return -1;
  int64_t length = 0;
  for (size_t i = 0; i < value.len; i++) {
    char c = value.ptr[i];
    if (c < '0' || c > '9') return -1;
    int digit = c - '0';
    if (length > (INT64_MAX - digit) / 10) return -1;
    length = length * 10 + digit;
  }
  return length;
}

static int take_length(fc_head *head, fc_span value) {
  int64_t length = read_length(value);
  if (length < 0) return refuse();
  if ((head->said & FC_SAID_LENGTH) && head->content_length != length) return refuse();
  head->content_length = length;
  head->said |= FC_SAID_LENGTH;
  return FC_OK;
}

/* Connection is a list of tokens (RFC 9110 section 7.6.1); of those only
 * "close" can be the application's wish. */
static int take_connection(fc_head *head, fc_span value) {
  const char *at = value.ptr;
  const char *end = at + value.len;
  while (at < end) {
    const char *comma = memchr(at, ',', (size_t)(end - at));
    const char *stop = comma != NULL ? comma : end;
    fc_span option = {at, (size_t)(stop - at)};
    option = without_blanks(option);
    if (option.len == 5 && is_word(option, "close")) head->said |= FC_SAID_CLOSE;
    at = comma != NULL ? comma + 1 : end;
  }
  return FC_OK;
}

/* Fields that belong to the server are reported and not written. */
static int take_aside(fc_head *head, uint32_t said, fc_span value) {
  if (said == FC_SAID_LENGTH) return take_length(head, value);
  if (said == FC_SAID_CLOSE) return take_connection(head, value);
  if (said == FC_SAID_CHUNKED) head->said |= FC_SAID_CHUNKED;
  return FC_OK;
}

static char *put_field(char *at, fc_span name, fc_span value) {
  at = put(at, name.ptr, name.len);
  at = PUT_TEXT(at, ": ");
  at = put(at, value.ptr, value.len);
  return PUT_TEXT(at, "\r\n");
}

int fc_head_field(fc_head *head, fc_span name, fc_span value) {
  value = without_blanks(value);
  if (!is_token(name) || !is_text(value)) return refuse();
  uint32_t said = said_by(name);
  if (FC_UNLIKELY((said & ~(uint32_t)WRITTEN) != 0)) return take_aside(head, said, value);
  if (fc_buf_reserve(&head->buf, name.len + value.len + 4) < 0) return FC_ERR;
  char *at = put_field(head->buf.ptr + head->buf.len, name, value);
  head->buf.len = (size_t)(at - head->buf.ptr);
  head->said |= said;
  return FC_OK;
}

/* ---- what the server adds */

static char *put_framing(char *at, int frame, int64_t length) {
  if (frame == FC_FRAME_LENGTH) {
    at = PUT_TEXT(at, "Content-Length: ");
    at = put_number(at, (uint64_t)length);
    return PUT_TEXT(at, "\r\n");
  }
  return frame == FC_FRAME_CHUNKED ? PUT_TEXT(at, "Transfer-Encoding: chunked\r\n") : at;
}

static char *put_connection(char *at, int connection) {
  switch (connection) {
    case FC_CONN_CLOSE:
      return PUT_TEXT(at, "Connection: close\r\n");
    case FC_CONN_KEEP:
      return PUT_TEXT(at, "Connection: keep-alive\r\n");
    case FC_CONN_UPGRADE:
      return PUT_TEXT(at, "Connection: Upgrade\r\n");
    default:
      return at;
  }
}

/* More than all that finish writes besides the date and the server's name. */
enum { FINISH_MAX = 128 };

int fc_head_finish(fc_head *head, int frame, int64_t length, int connection, fc_span date,
                   fc_span server) {
  if (frame == FC_FRAME_LENGTH && length < 0) return refuse();
  if (fc_buf_reserve(&head->buf, FINISH_MAX + date.len + server.len) < 0) return FC_ERR;
  char *at = head->buf.ptr + head->buf.len;
  at = put_framing(at, frame, length);
  at = put_connection(at, connection);
  if (date.len > 0 && !(head->said & FC_SAID_DATE)) {
    at = PUT_TEXT(at, "Date: ");
    at = put(at, date.ptr, date.len);
    at = PUT_TEXT(at, "\r\n");
  }
  if (server.len > 0 && !(head->said & FC_SAID_SERVER)) {
    at = PUT_TEXT(at, "Server: ");
    at = put(at, server.ptr, server.len);
    at = PUT_TEXT(at, "\r\n");
  }
  at = PUT_TEXT(at, "\r\n");
  head->buf.len = (size_t)(at - head->buf.ptr);
  return FC_OK;
}

void fc_head_free(fc_head *head) {
  fc_buf_free(&head->buf);
  memset(head, 0, sizeof *head);
}
