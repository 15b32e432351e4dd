/* llhttp.c: the binding behind llhttp.h.
 *
 * The layout of the settings table is the only thing that could silently
 * differ between llhttp releases, so bind() tries the known ones and keeps the
 * first that reads two known messages exactly; a wrong one calls our
 * callbacks at the wrong places, which the probes bear without looking at
 * what they were given. */
#define _GNU_SOURCE
#include "llhttp.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum { TYPE_REQUEST = 1 };
enum { SKIP_BODY = 1 }; /* what on_headers_complete returns: bodies are not llhttp's */
enum { USER_ERROR = -1 };

/* Where our five callbacks stand in the table. */
typedef struct layout {
  int url, field, value, headers_complete, message_complete;
} layout;

static const layout LAYOUTS[] = {
    {2, 6, 7, 10, 12}, /* 9.3 and later: on_protocol before on_url */
    {1, 5, 6, 9, 11},  /* 9.0 to 9.2 */
};

static int on_url(void *state, const char *at, size_t len) {
  fc_request *r = &((fc_parser *)state)->request;
  uint32_t offset = (uint32_t)(at - r->base);
  if (r->target_len == 0) r->target = offset;
  r->target_len += (uint32_t)len;
  return 0;
}

static int on_field(void *state, const char *at, size_t len) {
  fc_parser *parser = state;
  fc_request *r = &parser->request;
  uint32_t offset = (uint32_t)(at - r->base);
  if (r->n_fields > 0) {
    /* A name that came in pieces goes on where it stopped. */
    fc_field *last = &r->fields[r->n_fields - 1];
    if (last->name + last->name_len == offset) {
      last->name_len += (uint32_t)len;
      return 0;
    }
  }
  if (r->n_fields == r->max_fields) {
    parser->too_many = 1;
    return USER_ERROR;
  }
  fc_field *field = &r->fields[r->n_fields++];
  field->name = offset;
  field->name_len = (uint32_t)len;
  field->value = field->value_len = 0;
  return 0;
}

static int on_value(void *state, const char *at, size_t len) {
  fc_request *r = &((fc_parser *)state)->request;
  fc_field *field = &r->fields[r->n_fields - 1];
  if (field->value_len == 0) field->value = (uint32_t)(at - r->base);
  field->value_len += (uint32_t)len;
  return 0;
}

static int on_headers_complete(void *state) {
  (void)state;
  return SKIP_BODY;
}

static int on_message_complete(void *state) { return ((fc_parser *)state)->paused; }

/* ---- reading heads */

fc_parser *fc_parser_new(uint32_t max_fields) {
  /* One place more than is ever parsed, for a field of the server's own. */
  fc_parser *parser = calloc(1, sizeof *parser + (max_fields + 1) * sizeof(fc_field));
  if (parser == NULL) return NULL;
  parser->request.max_fields = max_fields;
  parser->request.fields = parser->fields;
  return parser;
}

void fc_parser_delete(fc_parser *parser) { free(parser); }

static void forget(fc_parser *parser) {
  fc_request *r = &parser->request;
  r->base = NULL;
  r->head_len = r->method = r->method_len = r->target = r->target_len = 0;
  r->major = r->minor = 0;
  r->n_fields = 0;
  parser->too_many = parser->error = 0;
}

void fc_parser_start(const fc_llhttp *llhttp, fc_parser *parser) {
  forget(parser);
  parser->paused = llhttp->paused;
  llhttp->init(parser->state, TYPE_REQUEST, llhttp->settings);
}

/* llhttp leaves the blanks at a value's end in the span (RFC 9112 section 5). */
static void trim_values(fc_request *r) {
  for (uint32_t i = 0; i < r->n_fields; i++) {
    fc_field *field = &r->fields[i];
    const char *value = r->base + field->value;
    while (field->value_len > 0 &&
           (value[field->value_len - 1] == ' ' || value[field->value_len - 1] == '\t')) {
      field->value_len--;
    }
  }
}

/* llhttp also takes RTSP/1.0 and ICE/1.0, several spaces before the target,
 * and a line without a version. */
static int line_is_http(const fc_request *r) {
  const char *line_end = r->base + r->head_len;
  const char *version = r->base + r->target + r->target_len + 1;
  return r->target == r->method_len + 1 && line_end - version > 5 &&
         memcmp(version, "HTTP/", 5) == 0;
}

static int head_done(const fc_llhttp *llhttp, fc_parser *parser) {
  fc_request *r = &parser->request;
  r->head_len = (uint32_t)(llhttp->error_pos(parser->state) - r->base);
  r->major = llhttp->http_major(parser->state);
  r->minor = llhttp->http_minor(parser->state);
  const char *space = memchr(r->base, ' ', r->head_len);
  if (space != NULL) r->method_len = (uint32_t)(space - r->base);
  if (FC_UNLIKELY(!line_is_http(r) || r->major != 1)) return FC_HEAD_BAD;
  trim_values(r);
  return FC_HEAD_DONE;
}

int fc_parser_feed(const fc_llhttp *llhttp, fc_parser *parser, const char *base, size_t from,
                   size_t to) {
  if (parser->error != 0) return parser->too_many ? FC_HEAD_TOO_MANY : FC_HEAD_BAD;
  parser->request.base = base;
  int error = llhttp->execute(parser->state, base + from, to - from);
  if (FC_LIKELY(error == llhttp->paused || error == llhttp->paused_upgrade)) {
    return head_done(llhttp, parser);
  }
  if (error == 0) return FC_HEAD_MORE;
  parser->error = error;
  return parser->too_many ? FC_HEAD_TOO_MANY : FC_HEAD_BAD;
}

/* ---- binding */

typedef struct name_of {
  const char *name;
  size_t at;
} name_of;

#define FUNCTION(symbol, member) {symbol, offsetof(fc_llhttp, member)}

static const name_of FUNCTIONS[] = {
    FUNCTION("llhttp_init", init),
    FUNCTION("llhttp_settings_init", settings_init),
    FUNCTION("llhttp_execute", execute),
    FUNCTION("llhttp_get_error_pos", error_pos),
    FUNCTION("llhttp_errno_name", error_name),
    FUNCTION("llhttp_get_http_major", http_major),
    FUNCTION("llhttp_get_http_minor", http_minor),
};

static int look_up(fc_llhttp *llhttp, void *library) {
  for (size_t i = 0; i < sizeof FUNCTIONS / sizeof FUNCTIONS[0]; i++) {
    void *found = dlsym(library, FUNCTIONS[i].name);
    if (found == NULL) return FC_ERR;
    memcpy((char *)llhttp + FUNCTIONS[i].at, &found, sizeof found);
  }
  return FC_OK;
}

static int error_named(const fc_llhttp *llhttp, const char *name) {
  for (int error = 1; error < 30; error++) {
    if (strcmp(llhttp->error_name(error), name) == 0) return error;
  }
  return 0;
}

static int look_up_errors(fc_llhttp *llhttp) {
  llhttp->paused = error_named(llhttp, "HPE_PAUSED");
  llhttp->paused_upgrade = error_named(llhttp, "HPE_PAUSED_UPGRADE");
  return llhttp->paused && llhttp->paused_upgrade ? FC_OK : FC_ERR;
}

static void set_layout(fc_llhttp *llhttp, const layout *at) {
  memset(llhttp->settings, 0, sizeof llhttp->settings);
  llhttp->settings_init(llhttp->settings);
  llhttp->settings[at->url].span = on_url;
  llhttp->settings[at->field].span = on_field;
  llhttp->settings[at->value].span = on_value;
  llhttp->settings[at->headers_complete].event = on_headers_complete;
  llhttp->settings[at->message_complete].event = on_message_complete;
}

/* The probes stand where a candidate layout says; each only takes spans that
 * lie inside the message, so a wrong layout is noticed and not believed. */
static const char PROBE[] =
    "POST /probe?a=b HTTP/1.1\r\nHost: x\r\nEmpty:\r\nContent-Length: 3\r\nLast: 1 2 \r\n\r\nabc";
static const char *const PROBE_SPANS[] = {"/probe?a=b",     "Host", "x",    "Empty", "",
                                          "Content-Length", "3",    "Last", "1 2 "};

typedef struct probe_state {
  _Alignas(16) char state[FC_LLHTTP_STATE];
  int url, field, value, headers, message;
  int paused;
} probe_state;

static int inside(const char *at, size_t len) {
  return at >= PROBE && at < PROBE + sizeof PROBE && len < sizeof PROBE;
}

static int is_span(const char *at, size_t len, int index) {
  const char *want = PROBE_SPANS[index];
  return strlen(want) == len && memcmp(at, want, len) == 0;
}

static int probe_url(void *state, const char *at, size_t len) {
  probe_state *seen = state;
  seen->url += inside(at, len) && is_span(at, len, 0) ? 1 : 100;
  return 0;
}

static int probe_field(void *state, const char *at, size_t len) {
  probe_state *seen = state;
  int index = 1 + 2 * seen->field;
  seen->field += inside(at, len) && index < 9 && is_span(at, len, index) ? 1 : 100;
  return 0;
}

static int probe_value(void *state, const char *at, size_t len) {
  probe_state *seen = state;
  if (inside(at, len) && len == 0) return 0; /* an empty value may or may not be reported */
  int index = seen->value == 0 ? 2 : (seen->value == 1 ? 6 : 8);
  seen->value += inside(at, len) && seen->value < 3 && is_span(at, len, index) ? 1 : 100;
  return 0;
}

static int probe_headers_complete(void *state) {
  probe_state *seen = state;
  seen->headers += seen->field == 4 ? 1 : 100;
  return SKIP_BODY;
}

static int probe_message_complete(void *state) {
  probe_state *seen = state;
  seen->message += seen->headers == 1 ? 1 : 100;
  return seen->paused;
}

static int layout_holds(fc_llhttp *llhttp, const layout *at) {
  fc_callback settings[FC_LLHTTP_SETTINGS];
  memcpy(settings, llhttp->settings, sizeof settings);
  llhttp->settings[at->url].span = probe_url;
  llhttp->settings[at->field].span = probe_field;
  llhttp->settings[at->value].span = probe_value;
  llhttp->settings[at->headers_complete].event = probe_headers_complete;
  llhttp->settings[at->message_complete].event = probe_message_complete;
  probe_state seen;
  memset(&seen, 0, sizeof seen);
  seen.paused = llhttp->paused;
  /* A parser larger than the room we give it must be noticed too. */
  memset(seen.state, 0x5a, sizeof seen.state);
  llhttp->init(seen.state, TYPE_REQUEST, llhttp->settings);
  int fits = seen.state[FC_LLHTTP_STATE - 1] == 0x5a;
  int error = llhttp->execute(seen.state, PROBE, sizeof PROBE - 1);
  const char *end = llhttp->error_pos(seen.state);
  memcpy(llhttp->settings, settings, sizeof settings);
  return fits && error == llhttp->paused && end == PROBE + sizeof PROBE - 1 - 3 && seen.url == 1 &&
         seen.field == 4 && seen.value == 3 && seen.headers == 1 && seen.message == 1 &&
         llhttp->http_major(seen.state) == 1 && llhttp->http_minor(seen.state) == 1;
}

int fc_llhttp_bind(fc_llhttp *llhttp, const char *path, const char **why) {
  memset(llhttp, 0, sizeof *llhttp);
  *why = "";
  /* Stays open for the life of the process, as the extension module itself. */
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    *why = "httptools' parser module cannot be opened as a library";
    return FC_ERR;
  }
  if (look_up(llhttp, library) < 0) {
    *why = "the installed httptools does not export llhttp's functions";
    return FC_ERR;
  }
  if (look_up_errors(llhttp) < 0) {
    *why = "the installed llhttp names its errors differently";
    return FC_ERR;
  }
  for (size_t i = 0; i < sizeof LAYOUTS / sizeof LAYOUTS[0]; i++) {
    set_layout(llhttp, &LAYOUTS[i]);
    if (layout_holds(llhttp, &LAYOUTS[i])) return FC_OK;
  }
  *why = "the installed llhttp lays its settings out in a way not known here";
  return FC_ERR;
}
