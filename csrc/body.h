/* body.h: takes a request body apart: counted or chunked (RFC 9112 sections 6
 * and 7.1).
 *
 * Strict where others were lenient and fell (chunk sizes by 1*HEXDIG only,
 * CRLF only, bounded lines, extensions and trailers).  It owns no bytes: every
 * span points into the data it was given.  A body ends only by its own end. */
#ifndef FC_BODY_H
#define FC_BODY_H

#include "fc.h"
#include "request.h"

#define FC_CHUNK_LINE_MAX 256
#define FC_CHUNK_EXTENSIONS_MAX (16 * 1024)
#define FC_TRAILERS_MAX (8 * 1024)

typedef struct fc_body {
  uint64_t left;     /* of the counted body, or of the chunk */
  uint64_t received; /* body bytes so far, without the chunks' frames */
  uint32_t line;     /* bytes of the current chunk line or of the trailers */
  uint32_t extensions;
  uint8_t kind;
  uint8_t state;
  uint8_t digits;
} fc_body;

enum {
  FC_BODY_MORE = 0, /* all data is used and the body goes on */
  FC_BODY_DATA = 1, /* *span holds body bytes; call again with the rest */
  FC_BODY_END = 2,  /* the body is complete; the rest is the next request's */
  FC_BODY_BAD = -1, /* malformed: 400 and close */
};

void fc_body_start(fc_body *body, const fc_framing *framing);

/* Takes the next step over [data, data + len): *used bytes were understood.
 * A body without bytes is at its end at once. */
int fc_body_next(fc_body *body, const char *data, size_t len, size_t *used, fc_span *span);

#endif
