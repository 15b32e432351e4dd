/* request.c: the framing decision behind request.h. */
#include "request.h"

#include <string.h>

/* 1 for the bytes of a host's name: reg-name or IPv4 (RFC 3986 section 3.2.2), as a set. */
static const unsigned char NAME_BYTE[256] = {
    ['!'] = 1, ['$'] = 1, ['%'] = 1, ['&'] = 1, ['\''] = 1, ['('] = 1, [')'] = 1, ['*'] = 1,
    ['+'] = 1, [','] = 1, ['-'] = 1, ['.'] = 1, [';'] = 1,  ['='] = 1, ['_'] = 1, ['~'] = 1,
    ['0'] = 1, ['1'] = 1, ['2'] = 1, ['3'] = 1, ['4'] = 1,  ['5'] = 1, ['6'] = 1, ['7'] = 1,
    ['8'] = 1, ['9'] = 1, ['A'] = 1, ['B'] = 1, ['C'] = 1,  ['D'] = 1, ['E'] = 1, ['F'] = 1,
    ['G'] = 1, ['H'] = 1, ['I'] = 1, ['J'] = 1, ['K'] = 1,  ['L'] = 1, ['M'] = 1, ['N'] = 1,
    ['O'] = 1, ['P'] = 1, ['Q'] = 1, ['R'] = 1, ['S'] = 1,  ['T'] = 1, ['U'] = 1, ['V'] = 1,
    ['W'] = 1, ['X'] = 1, ['Y'] = 1, ['Z'] = 1, ['a'] = 1,  ['b'] = 1, ['c'] = 1, ['d'] = 1,
    ['e'] = 1, ['f'] = 1, ['g'] = 1, ['h'] = 1, ['i'] = 1,  ['j'] = 1, ['k'] = 1, ['l'] = 1,
    ['m'] = 1, ['n'] = 1, ['o'] = 1, ['p'] = 1, ['q'] = 1,  ['r'] = 1, ['s'] = 1, ['t'] = 1,
    ['u'] = 1, ['v'] = 1, ['w'] = 1, ['x'] = 1, ['y'] = 1,  ['z'] = 1,
};

static int is_name_byte(char c) { return NAME_BYTE[(unsigned char)c]; }

static int is_digit(char c) { return c >= '0' && c <= '9'; }

/* uri-host [ ":" port ].  What stands in the brackets of an IPv6 address is
 * judged by its bytes only: nobody decides by it where a request goes. */
static int is_host(const char *at, size_t len) {
  const char *end = at + len;
  int is_bracketed = at < end && *at == '[';
  if (FC_LIKELY(!is_bracketed)) {
    while (at < end && is_name_byte(*at)) at++;
  } else {
    at++;
    while (at < end && (is_name_byte(*at) || *at == ':')) at++;
    if (at == end || *at++ != ']') return 0;
  }
  if (at < end && *at++ != ':') return 0;
  while (at < end && is_digit(*at)) at++;
  return at == end;
}

static char lower(char c) { return (c >= 'A' && c <= 'Z') ? (char)(c | 0x20) : c; }

/* word is lower-case. */
static int same_word(const char *bytes, size_t len, const char *word, size_t word_len) {
  if (len != word_len) return 0;
  for (size_t i = 0; i < len; i++) {
    if (lower(bytes[i]) != word[i]) return 0;
  }
  return 1;
}

uint32_t fc_request_unquote(const char *ptr, uint32_t len, char *out) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < len;) {
    int high = -1, low = -1;
    if (ptr[i] == '%' && len - i > 2) {
      high = fc_hex_digit(ptr[i + 1]);
      low = fc_hex_digit(ptr[i + 2]);
    }
    if (high < 0 || low < 0) {
      out[n++] = ptr[i++];
    } else {
      out[n++] = (char)(high << 4 | low);
      i += 3;
    }
  }
  return n;
}

const fc_field *fc_request_find(const fc_request *request, const char *name, size_t name_len) {
  for (uint32_t i = 0; i < request->n_fields; i++) {
    const fc_field *field = &request->fields[i];
    if (same_word(request->base + field->name, field->name_len, name, name_len)) return field;
  }
  return NULL;
}

/* Everything that the fields say about framing, gathered in one pass. */
typedef struct facts {
  uint32_t hosts, lengths, codings, expects;
  const fc_field *host, *length, *coding, *expect;
  int close, keep_alive, upgrade_token, upgrade_field;
} facts;

/* Connection is a list of tokens (RFC 9110 section 7.6.1). */
static void read_connection(const char *at, size_t len, facts *f) {
  const char *end = at + len;
  while (at < end) {
    while (at < end && (*at == ' ' || *at == '\t' || *at == ',')) at++;
    const char *token = at;
    while (at < end && *at != ',' && *at != ' ' && *at != '\t') at++;
    size_t n = (size_t)(at - token);
    f->close |= same_word(token, n, "close", 5);
    f->keep_alive |= same_word(token, n, "keep-alive", 10);
    f->upgrade_token |= same_word(token, n, "upgrade", 7);
  }
}

static void read_field(const fc_request *r, const fc_field *field, facts *f) {
  const char *name = r->base + field->name;
  switch (field->name_len) {
    case 4:
      if (!same_word(name, 4, "host", 4)) return;
      f->hosts++;
      f->host = field;
      return;
    case 6:
      if (!same_word(name, 6, "expect", 6)) return;
      f->expects++;
      f->expect = field;
      return;
    case 7:
      if (same_word(name, 7, "upgrade", 7)) f->upgrade_field = 1;
      return;
    case 10:
      if (!same_word(name, 10, "connection", 10)) return;
      read_connection(r->base + field->value, field->value_len, f);
      return;
    case 14:
      if (!same_word(name, 14, "content-length", 14)) return;
      f->lengths++;
      f->length = field;
      return;
    case 17:
      if (!same_word(name, 17, "transfer-encoding", 17)) return;
      f->codings++;
      f->coding = field;
      return;
    default:
      return;
  }
}

static int refuse(int status, const char *text, const char **why) {
  *why = text;
  return status;
}

/* 1*DIGIT below 2^63; "+5", "0x5", "5, 5" and an empty value are all refused. */
static int read_length(const char *digits, size_t len, uint64_t *out) {
  uint64_t n = 0;
  if (len == 0) return 0;
  for (size_t i = 0; i < len; i++) {
    if (digits[i] < '0' || digits[i] > '9') return 0;
    if (n > (INT64_MAX - 9) / 10) return 0;
    n = n * 10 + (uint64_t)(digits[i] - '0');
  }
  *out = n;
  return 1;
}

static int frame_body(const fc_request *r, const facts *f, fc_framing *out, const char **why) {
  if (f->codings != 0) {
    if (f->lengths != 0) return refuse(400, "both Content-Length and Transfer-Encoding", why);
    if (f->codings > 1) return refuse(400, "repeated Transfer-Encoding", why);
    if (r->minor == 0) return refuse(400, "Transfer-Encoding in HTTP/1.0", why);
    if (!same_word(r->base + f->coding->value, f->coding->value_len, "chunked", 7)) {
      return refuse(400, "transfer coding other than chunked", why);
    }
    /* llhttp, asked to frame the body, takes blanks there but no TAB: the two
     * doors must not differ. */
    if (r->base[f->coding->value + f->coding->value_len] == '\t') {
      return refuse(400, "TAB after the transfer coding", why);
    }
    out->body = FC_BODY_CHUNKED;
    return 0;
  }
  if (f->lengths == 0) return 0;
  if (f->lengths > 1) return refuse(400, "repeated Content-Length", why);
  if (!read_length(r->base + f->length->value, f->length->value_len, &out->length)) {
    return refuse(400, "malformed Content-Length", why);
  }
  if (out->length > 0) out->body = FC_BODY_COUNTED;
  return 0;
}

static int frame_host(const fc_request *r, const facts *f, fc_framing *out, const char **why) {
  if (f->hosts == 0) {
    return r->minor == 0 ? 0 : refuse(400, "missing Host", why);
  }
  if (f->hosts > 1) return refuse(400, "repeated Host", why);
  if (!is_host(r->base + f->host->value, f->host->value_len)) {
    return refuse(400, "malformed Host", why);
  }
  out->host = f->host->value;
  out->host_len = f->host->value_len;
  return 0;
}

static void split_query(const fc_request *r, uint32_t at, uint32_t end, fc_framing *out) {
  const char *mark = memchr(r->base + at, '?', end - at);
  out->path = at;
  out->path_len = mark != NULL ? (uint32_t)(mark - r->base) - at : end - at;
  if (mark == NULL) return;
  out->query = at + out->path_len + 1;
  out->query_len = end - out->query;
}

/* http://authority[/path][?query]: the authority overrules Host (RFC 9112
 * section 3.2.2). */
static int frame_absolute(const fc_request *r, fc_framing *out, const char **why) {
  const char *target = r->base + r->target;
  uint32_t scheme;
  if (r->target_len >= 7 && same_word(target, 7, "http://", 7)) {
    scheme = 7;
  } else if (r->target_len >= 8 && same_word(target, 8, "https://", 8)) {
    scheme = 8;
  } else {
    return refuse(400, "target of an unknown form", why);
  }
  uint32_t end = r->target + r->target_len;
  uint32_t at = r->target + scheme;
  uint32_t host = at;
  while (at < end && r->base[at] != '/' && r->base[at] != '?') at++;
  if (at == host || r->base[host] == ':' || !is_host(r->base + host, at - host)) {
    return refuse(400, "malformed host in the target", why);
  }
  out->host = host;
  out->host_len = at - host;
  out->target_form = FC_TARGET_ABSOLUTE;
  split_query(r, at, end, out);
  return 0;
}

/* CONNECT names a port (RFC 9110 section 9.3.6). */
static int ends_with_port(const char *at, size_t len) {
  size_t i = len;
  while (i > 0 && is_digit(at[i - 1])) i--;
  return i < len && i > 0 && at[i - 1] == ':';
}

static int frame_target(const fc_request *r, fc_framing *out, const char **why) {
  const char *target = r->base + r->target;
  const char *method = r->base + r->method;
  if (memchr(target, '#', r->target_len) != NULL) return refuse(400, "fragment in the target", why);
  if (r->method_len == 7 && memcmp(method, "CONNECT", 7) == 0) {
    if (!is_host(target, r->target_len) || !ends_with_port(target, r->target_len)) {
      return refuse(400, "malformed authority", why);
    }
    out->is_connect = 1;
    out->target_form = FC_TARGET_AUTHORITY;
    out->path = r->target;
    return 0;
  }
  if (FC_LIKELY(target[0] == '/')) {
    out->target_form = FC_TARGET_ORIGIN;
    split_query(r, r->target, r->target + r->target_len, out);
    return 0;
  }
  if (r->target_len == 1 && target[0] == '*') {
    if (r->method_len != 7 || memcmp(method, "OPTIONS", 7) != 0) {
      return refuse(400, "the target * belongs to OPTIONS", why);
    }
    out->target_form = FC_TARGET_ASTERISK;
    out->path = r->target;
    out->path_len = 1;
    return 0;
  }
  return frame_absolute(r, out, why);
}

static int frame_expect(const fc_request *r, const facts *f, fc_framing *out, const char **why) {
  if (f->expects == 0) return 0;
  if (f->expects > 1 ||
      !same_word(r->base + f->expect->value, f->expect->value_len, "100-continue", 12)) {
    return refuse(417, "unknown expectation", why);
  }
  /* An HTTP/1.0 client's expectation is ignored (RFC 9110 section 10.1.1). */
  out->expect_continue = r->minor >= 1 && out->body != FC_BODY_NONE;
  return 0;
}

int fc_request_frame(const fc_request *r, fc_framing *out, const char **why) {
  memset(out, 0, sizeof *out);
  *why = "";
  if (r->major != 1 || r->minor > 1) return refuse(505, "HTTP version other than 1.0 and 1.1", why);
  if (r->target_len == 0 || r->method_len == 0) return refuse(400, "malformed request line", why);
  facts f;
  memset(&f, 0, sizeof f);
  for (uint32_t i = 0; i < r->n_fields; i++) read_field(r, &r->fields[i], &f);
  int status = frame_body(r, &f, out, why);
  if (status == 0) status = frame_host(r, &f, out, why);
  if (status == 0) status = frame_target(r, out, why);
  if (status == 0) status = frame_expect(r, &f, out, why);
  if (status != 0) return status;
  out->is_head = r->method_len == 4 && memcmp(r->base + r->method, "HEAD", 4) == 0;
  out->upgrade = f.upgrade_token && f.upgrade_field && r->minor >= 1;
  out->keep_alive = !f.close && (r->minor >= 1 || f.keep_alive);
  return 0;
}

/* ---- refused request lines */

static int is_token_byte(char c) {
  unsigned char u = (unsigned char)c;
  if ((u >= 'a' && u <= 'z') || (u >= 'A' && u <= 'Z') || (u >= '0' && u <= '9')) return 1;
  return u != 0 && strchr("!#$%&'*+-.^_`|~", u) != NULL;
}

/* " HTTP/d.d\r\n" */
static int version_status(const char *at, const char *end) {
  static const char form[] = " HTTP/0.0\r\n";
  size_t i;
  for (i = 0; i < sizeof form - 1 && at + i < end; i++) {
    if (form[i] == '0' ? !is_digit(at[i]) : at[i] != form[i]) return 400;
  }
  if (i < sizeof form - 1) return 0;
  return at[6] == '1' && at[8] <= '1' ? 200 : 505;
}

int fc_request_line_status(const char *line, size_t len) {
  const char *end = line + len;
  const char *at = line;
  while (at < end && is_token_byte(*at)) at++;
  if (at == end) return 0;
  if (at == line || *at != ' ') return 400;
  const char *target = ++at;
  while (at < end && (unsigned char)*at > ' ' && *at != 0x7f) at++;
  if (at == end) return 0;
  return at == target ? 400 : version_status(at, end);
}

/* ---- the spans of a head that was validated elsewhere */

static int is_blank(char c) { return c == ' ' || c == '\t'; }

/* "METHOD target HTTP/d.d" up to the CR at `end`. */
static int scan_line(fc_request *r, const char *end) {
  const char *space = memchr(r->base, ' ', (size_t)(end - r->base));
  if (space == NULL || space == r->base || end - space < 11) return 0;
  const char *version = end - 9;
  if (memcmp(version, " HTTP/", 6) != 0 || !is_digit(version[6]) || version[7] != '.' ||
      !is_digit(version[8]) || version <= space + 1) {
    return 0;
  }
  if (memchr(space + 1, ' ', (size_t)(version - space) - 1) != NULL) return 0;
  r->method_len = (uint32_t)(space - r->base);
  r->target = r->method_len + 1;
  r->target_len = (uint32_t)(version - r->base) - r->target;
  r->major = (uint8_t)(version[6] - '0');
  r->minor = (uint8_t)(version[8] - '0');
  return 1;
}

/* "name: value" up to the CR at `end`. */
static void scan_field(const fc_request *r, const char *at, const char *end, fc_field *field) {
  const char *colon = memchr(at, ':', (size_t)(end - at));
  const char *value = colon != NULL ? colon + 1 : end;
  while (value < end && is_blank(*value)) value++;
  while (end > value && is_blank(end[-1])) end--;
  field->name = (uint32_t)(at - r->base);
  field->name_len = colon != NULL ? (uint32_t)(colon - at) : 0;
  field->value = (uint32_t)(value - r->base);
  field->value_len = (uint32_t)(end - value);
}

int fc_request_scan(fc_request *r, const char *base, size_t len) {
  const char *blank = base + len - 2;
  r->base = base;
  r->head_len = (uint32_t)len;
  r->method = r->n_fields = 0;
  const char *end = memchr(base, '\r', len);
  if (!scan_line(r, end)) return 0;
  for (const char *at = end + 2; at < blank; at = end + 2) {
    if (r->n_fields == r->max_fields) return -1;
    end = memchr(at, '\r', (size_t)(blank - at) + 1);
    scan_field(r, at, end, &r->fields[r->n_fields++]);
  }
  return 1;
}
