/* body.c: the body decoder behind body.h: a counted run, or one state a kind of
 * byte in the chunked coding. */
#include "body.h"

#include <string.h>

enum {
  COUNTED,
  SIZE,          /* hex digits of a chunk size */
  SIZE_BLANK,    /* blanks after the size: only an extension may follow */
  EXTENSION,     /* anything up to CR */
  SIZE_LF,       /* the LF that ends a chunk line */
  CHUNK,         /* chunk data */
  CHUNK_CR,      /* CR after chunk data */
  CHUNK_LF,      /* LF after chunk data */
  TRAILER_START, /* first byte of a trailer line, or the last CR */
  TRAILER_NAME,
  TRAILER_VALUE,
  TRAILER_LF, /* the LF that ends a trailer line */
  LAST_LF,    /* the LF that ends the body */
  DONE,
};

void fc_body_start(fc_body *body, const fc_framing *framing) {
  memset(body, 0, sizeof *body);
  body->kind = framing->body;
  if (framing->body == FC_BODY_CHUNKED) {
    body->state = SIZE;
  } else {
    body->state = framing->length > 0 ? COUNTED : DONE;
    body->left = framing->length;
  }
}

/* Bytes of a field name (RFC 9110 section 5.6.2). */
static int is_token_byte(char c) {
  unsigned char u = (unsigned char)c;
  if ((u >= 'a' && u <= 'z') || (u >= 'A' && u <= 'Z') || (u >= '0' && u <= '9')) return 1;
  return u != 0 && strchr("!#$%&'*+-.^_`|~", u) != NULL;
}

/* What may stand in a value or an extension: no control byte but TAB. */
static int is_text_byte(char c) {
  unsigned char u = (unsigned char)c;
  return (u >= 0x20 && u != 0x7f) || u == '\t';
}

/* Takes up to `left` bytes as data. */
static int take_data(fc_body *body, const char *data, size_t len, size_t *used, fc_span *span,
                     uint8_t next_state) {
  size_t n = len < body->left ? len : (size_t)body->left;
  span->ptr = data;
  span->len = n;
  *used += n;
  body->left -= n;
  body->received += n;
  if (body->left == 0) body->state = next_state;
  return FC_BODY_DATA;
}

/* A digit of the size; at most 16, and below 2^63. */
static int take_digit(fc_body *body, int digit) {
  if (++body->digits > 16 || body->left > (uint64_t)INT64_MAX >> 4) return FC_BODY_BAD;
  body->left = body->left << 4 | (uint64_t)digit;
  return FC_BODY_MORE;
}

static int size_byte(fc_body *body, char c) {
  int digit = fc_hex_digit(c);
  if (digit >= 0) return take_digit(body, digit);
  if (body->digits == 0) return FC_BODY_BAD;
  if (c == '\r') {
    body->state = SIZE_LF;
  } else if (c == ';') {
    body->state = EXTENSION;
  } else if (c == ' ' || c == '\t') {
    body->state = SIZE_BLANK;
  } else {
    return FC_BODY_BAD;
  }
  return FC_BODY_MORE;
}

static int blank_byte(fc_body *body, char c) {
  if (c == ' ' || c == '\t') return FC_BODY_MORE;
  if (c != ';') return FC_BODY_BAD;
  body->state = EXTENSION;
  return FC_BODY_MORE;
}

static int extension_byte(fc_body *body, char c) {
  if (c == '\r') {
    body->state = SIZE_LF;
    return FC_BODY_MORE;
  }
  if (!is_text_byte(c) || ++body->extensions > FC_CHUNK_EXTENSIONS_MAX) return FC_BODY_BAD;
  return FC_BODY_MORE;
}

static int size_end(fc_body *body, char c) {
  if (c != '\n') return FC_BODY_BAD;
  body->line = 0;
  body->digits = 0;
  body->state = body->left > 0 ? CHUNK : TRAILER_START;
  return FC_BODY_MORE;
}

static int trailer_byte(fc_body *body, char c) {
  switch (body->state) {
    case TRAILER_START:
      if (c == '\r') {
        body->state = LAST_LF;
        return FC_BODY_MORE;
      }
      if (!is_token_byte(c)) return FC_BODY_BAD;
      body->state = TRAILER_NAME;
      return FC_BODY_MORE;
    case TRAILER_NAME:
      if (c == ':') {
        body->state = TRAILER_VALUE;
        return FC_BODY_MORE;
      }
      return is_token_byte(c) ? FC_BODY_MORE : FC_BODY_BAD;
    case TRAILER_VALUE:
      if (c == '\r') {
        body->state = TRAILER_LF;
        return FC_BODY_MORE;
      }
      return is_text_byte(c) ? FC_BODY_MORE : FC_BODY_BAD;
    default: /* TRAILER_LF */
      if (c != '\n') return FC_BODY_BAD;
      body->state = TRAILER_START;
      return FC_BODY_MORE;
  }
}

/* One byte that is no data.  The budgets count every such byte as it is
 * received, so that nothing that a step ignores is free. */
static int frame_byte(fc_body *body, char c) {
  body->line++;
  switch (body->state) {
    case SIZE:
      return body->line > FC_CHUNK_LINE_MAX ? FC_BODY_BAD : size_byte(body, c);
    case SIZE_BLANK:
      return body->line > FC_CHUNK_LINE_MAX ? FC_BODY_BAD : blank_byte(body, c);
    case EXTENSION:
      return body->line > FC_CHUNK_LINE_MAX ? FC_BODY_BAD : extension_byte(body, c);
    case SIZE_LF:
      return size_end(body, c);
    case CHUNK_CR:
      body->state = CHUNK_LF;
      return c == '\r' ? FC_BODY_MORE : FC_BODY_BAD;
    case CHUNK_LF:
      body->state = SIZE;
      body->line = 0;
      return c == '\n' ? FC_BODY_MORE : FC_BODY_BAD;
    case LAST_LF:
      body->state = DONE;
      return c == '\n' ? FC_BODY_END : FC_BODY_BAD;
    default:
      return body->line > FC_TRAILERS_MAX ? FC_BODY_BAD : trailer_byte(body, c);
  }
}

int fc_body_next(fc_body *body, const char *data, size_t len, size_t *used, fc_span *span) {
  *used = 0;
  if (body->state == DONE) return FC_BODY_END;
  while (*used < len) {
    if (body->state == COUNTED) return take_data(body, data, len, used, span, DONE);
    if (body->state == CHUNK) {
      return take_data(body, data + *used, len - *used, used, span, CHUNK_CR);
    }
    int result = frame_byte(body, data[(*used)++]);
    if (result != FC_BODY_MORE) return result;
  }
  return FC_BODY_MORE;
}
