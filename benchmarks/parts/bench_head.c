/* bench_head.c: a response head of two fields and of eight, with date and server. */
#include "head.h"

#include <string.h>

#include "measure.h"

static fc_head head;

static fc_span span(const char *text) {
  fc_span made = {text, strlen(text)};
  return made;
}

static int write_head(int n_fields) {
  static const char *const NAMES[] = {"Content-Type", "Cache-Control", "X-Frame-Options", "ETag"};
  static const char *const VALUES[] = {"text/html; charset=utf-8", "max-age=3600", "DENY",
                                       "\"5f8c-1a2b3c\""};
  fc_head_start(&head, 200, span(""));
  for (int i = 0; i < n_fields; i++)
    if (fc_head_field(&head, span(NAMES[i % 4]), span(VALUES[i % 4])) != FC_OK) return FC_ERR;
  return fc_head_finish(&head, FC_FRAME_LENGTH, 12, FC_CONN_NONE,
                        span("Sun, 06 Nov 1994 08:49:37 GMT"), span("fastcluster"));
}

int main(void) {
  MEASURE("one field", KEEP(write_head(1)));
  MEASURE("eight fields", KEEP(write_head(8)));
  fc_head_free(&head);
  return 0;
}
