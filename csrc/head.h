/* head.h: writes the response head and refuses bytes that would split it.
 *
 * The only file that writes "HTTP/1.".  It checks every name (token) and value
 * (no CR, LF or NUL) by table, writes what it is told in the order it is told,
 * and takes aside the fields that belong to the server: Content-Length,
 * Transfer-Encoding, Connection, Keep-Alive, Proxy-Connection.  What they say
 * is reported, not written; the connection decides the framing and has it
 * written by fc_head_finish.  One fc_head is reused for all responses of a
 * loop. */
#ifndef FC_HEAD_H
#define FC_HEAD_H

#include "buf.h"
#include "fc.h"

/* What the application's fields said. */
enum {
  FC_SAID_DATE = 1,     /* written as given; finish adds none */
  FC_SAID_SERVER = 2,   /* likewise */
  FC_SAID_CLOSE = 4,    /* Connection: close */
  FC_SAID_LENGTH = 8,   /* content_length is valid */
  FC_SAID_CHUNKED = 16, /* a Transfer-Encoding field was there */
  FC_SAID_TYPE = 32,    /* Content-Type */
  FC_SAID_UPGRADE = 64, /* Upgrade (written as given) */
};

typedef struct fc_head {
  fc_buf buf;
  int64_t content_length;
  uint32_t said;
  uint32_t serial; /* grows with every head that is begun: is it still mine? */
} fc_head;

/* How finish frames the body. */
enum {
  FC_FRAME_NONE = 0,    /* no framing field: 1xx, 204, and bodies ended by close */
  FC_FRAME_LENGTH = 1,  /* Content-Length: length */
  FC_FRAME_CHUNKED = 2, /* Transfer-Encoding: chunked */
};
enum {
  FC_CONN_NONE = 0,    /* no Connection field: keep-alive on HTTP/1.1 */
  FC_CONN_CLOSE = 1,   /* Connection: close */
  FC_CONN_KEEP = 2,    /* Connection: keep-alive, for HTTP/1.0 */
  FC_CONN_UPGRADE = 3, /* Connection: Upgrade, with 101 */
};

/* Begins a head: the status line.  status is 100..999, else FC_ERR (EINVAL).
 * An empty reason means the standard phrase (or an empty one for an unknown
 * status); a reason with CR, LF, NUL or another control byte is FC_ERR
 * (EINVAL).  Forgets whatever the buffer held. */
int fc_head_start(fc_head *head, int status, fc_span reason);

/* Adds one field.  FC_ERR with EINVAL: the name is no token, or the value has
 * CR, LF, NUL or another control byte than TAB (leading and trailing blanks of
 * a value are dropped); a Content-Length that is not 1*DIGIT below 2^63, or
 * two that differ.  The head is then as before the call. */
int fc_head_field(fc_head *head, fc_span name, fc_span value);

/* Adds what belongs to the server and the blank line.  date and server may be
 * empty spans (nothing is written, nor if the application said its own). */
int fc_head_finish(fc_head *head, int frame, int64_t length, int connection, fc_span date,
                   fc_span server);

/* The standard reason phrase, or an empty span. */
fc_span fc_head_reason(int status);

void fc_head_free(fc_head *head);

#endif
