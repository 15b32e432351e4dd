/* llhttp.h: binds the llhttp inside the installed httptools and reads request
 * heads with it.
 *
 * The parser is reached only through its public functions, looked up by name,
 * and through its settings table, whose layout is verified by parsing known
 * messages before it is used.  It parses strictly: no lenient flag is ever
 * set.  Only heads pass through here; bodies are body.c's. */
#ifndef FC_LLHTTP_H
#define FC_LLHTTP_H

#include "fc.h"
#include "request.h"

#define FC_LLHTTP_SETTINGS 64 /* pointers; the real table has some 25 */
#define FC_LLHTTP_STATE 512   /* bytes; the real parser has about 100 */

/* One entry of the settings table: a callback of either shape. */
typedef union fc_callback {
  int (*span)(void *parser, const char *at, size_t len);
  int (*event)(void *parser);
} fc_callback;

typedef struct fc_llhttp {
  void (*init)(void *parser, int type, const void *settings);
  void (*settings_init)(void *settings);
  int (*execute)(void *parser, const char *data, size_t len);
  const char *(*error_pos)(const void *parser);
  const char *(*error_name)(int error);
  uint8_t (*http_major)(void *parser);
  uint8_t (*http_minor)(void *parser);
  int paused, paused_upgrade; /* how it says "stopped where you asked" */
  fc_callback settings[FC_LLHTTP_SETTINGS];
} fc_llhttp;

typedef struct fc_parser {
  /* First, so that a callback finds its fc_parser without knowing the layout. */
  _Alignas(16) char state[FC_LLHTTP_STATE];
  fc_request request;
  int too_many;           /* more fields than max_fields */
  int error;              /* llhttp's, once it has failed */
  int paused;             /* what llhttp calls being paused, for the callback that pauses it */
  struct fc_parser *next; /* for the caller's free list */
  fc_field fields[];
} fc_parser;

enum {
  FC_HEAD_MORE = 0,
  FC_HEAD_DONE = 1,
  FC_HEAD_BAD = -1, /* fc_request_line_status says what it deserves */
  FC_HEAD_TOO_MANY = -2,
};

/* Looks the functions up in the shared object at `path` and verifies the
 * layout.  FC_OK, or FC_ERR with *why a constant text. */
int fc_llhttp_bind(fc_llhttp *llhttp, const char *path, const char **why);

fc_parser *fc_parser_new(uint32_t max_fields);
void fc_parser_delete(fc_parser *parser);

/* Forgets the last head. */
void fc_parser_start(const fc_llhttp *llhttp, fc_parser *parser);

/* Reads base[from, to); base[0] is the first byte of the head, and what was
 * read before stands in base[0, from), perhaps at another address than then.
 * FC_HEAD_DONE: request is complete, request.head_len says where the body
 * begins, and the spans live as long as base. */
int fc_parser_feed(const fc_llhttp *llhttp, fc_parser *parser, const char *base, size_t from,
                   size_t to);

#endif
