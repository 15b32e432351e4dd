/* request.h: a request head as spans, and the one decision how its body is
 * framed.
 *
 * Both doors of the parser fill the same fc_request; nobody behind it knows
 * which door was open.  All positions are offsets from `base`, so that a head
 * that came in pieces can move while it grows.  The framing decision (RFC 9112
 * sections 2.3, 3.2, 6.1 and 6.3) is made here, once, before the application
 * hears of the request. */
#ifndef FC_REQUEST_H
#define FC_REQUEST_H

#include <string.h>

#include "fc.h"

typedef struct fc_field {
  uint32_t name, name_len;
  uint32_t value, value_len;
} fc_field;

typedef struct fc_request {
  const char *base; /* belongs to the connection; dead when the caller says so */
  uint32_t head_len;
  uint32_t method_len; /* the method starts at method */
  uint32_t method;
  uint32_t target, target_len;
  uint8_t major, minor;
  uint32_t n_fields, max_fields;
  fc_field *fields;
} fc_request;

/* The value of a hexadecimal digit, -1 if it is none. */
static inline int fc_hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = (char)(c | 0x20);
  return (c >= 'a' && c <= 'f') ? c - 'a' + 10 : -1;
}

/* For tables of field names: mixes the first and the last bytes, which is where
 * usual names differ.  The low 16 bits are the hash. */
static inline size_t fc_name_hash(const char *name, size_t len) {
  uint64_t first = 0, last = 0;
  if (len >= 8) {
    memcpy(&first, name, 8);
    memcpy(&last, name + len - 8, 8);
  } else {
    memcpy(&first, name, len);
  }
  return (size_t)(((first * 0x9E3779B97F4A7C15ULL) ^ (last * 0xC2B2AE3D27D4EB4FULL) ^ len) >> 48);
}

static inline fc_span fc_request_span(const fc_request *r, uint32_t at, uint32_t len) {
  fc_span span = {r->base + at, len};
  return span;
}

enum {
  FC_BODY_NONE = 0,
  FC_BODY_COUNTED = 1,
  FC_BODY_CHUNKED = 2,
};

enum {
  FC_TARGET_ORIGIN = 0,    /* /path?query */
  FC_TARGET_ABSOLUTE = 1,  /* http://host/path?query */
  FC_TARGET_ASTERISK = 2,  /* OPTIONS * */
  FC_TARGET_AUTHORITY = 3, /* CONNECT host:port */
};

typedef struct fc_framing {
  uint64_t length;         /* FC_BODY_COUNTED */
  uint8_t body;            /* FC_BODY_… */
  uint8_t keep_alive;      /* what version and Connection ask for */
  uint8_t expect_continue; /* Expect: 100-continue on HTTP/1.1 */
  uint8_t is_head;
  uint8_t is_connect;
  uint8_t upgrade;         /* Upgrade with Connection: upgrade */
  uint8_t target_form;     /* FC_TARGET_… */
  uint32_t host, host_len; /* authority: the absolute target's, else Host's */
  uint32_t path, path_len; /* without the query; for absolute-form "/" may be implied (len 0) */
  uint32_t query, query_len;
} fc_framing;

/* Decides.  Returns 0, or the status that the request is refused with: 400,
 * 417 or 505; *why gets a constant text for the log. */
int fc_request_frame(const fc_request *request, fc_framing *framing, const char **why);

/* Finds the spans in a whole head that a parser has accepted already, for the
 * door that reports none.  [base, base + len) ends with the blank line.
 * Returns 1; 0 if it is no HTTP request line after all; -1 for more fields
 * than request->max_fields. */
int fc_request_scan(fc_request *request, const char *base, size_t len);

/* Looks at the line of a head that the parser refused.  [line, line + len) is
 * what has come so far.  Returns 505 for another version of HTTP, 400 if it is
 * no request line, 200 if nothing is wrong with its form, and 0 while it may
 * still become one: only its end will tell. */
int fc_request_line_status(const char *line, size_t len);

/* Decodes %XX (RFC 3986 section 2.1) into out, which has room for len bytes;
 * returns how many it became.  What is no %XX stays as it is. */
uint32_t fc_request_unquote(const char *ptr, uint32_t len, char *out);

/* The first field of that (lower-case) name, or NULL. */
const fc_field *fc_request_find(const fc_request *request, const char *name, size_t name_len);

#endif
