/* date.h: the HTTP date (RFC 9110 section 5.6.7), remade once a second.
 *
 * The caller brings the wall-clock second, so that a loop reads the clock once
 * a turn.  No locale, no libc time formatting: the text is always English and
 * GMT. */
#ifndef FC_DATE_H
#define FC_DATE_H

#include "fc.h"

#define FC_DATE_LEN 29 /* "Sun, 06 Nov 1994 08:49:37 GMT" */

/* The form has four digits for the year; other seconds are written as the
 * nearest of these. */
#define FC_DATE_FIRST INT64_C(-62135596800) /* Mon, 01 Jan 0001 00:00:00 GMT */
#define FC_DATE_LAST INT64_C(253402300799)  /* Fri, 31 Dec 9999 23:59:59 GMT */

typedef struct fc_date {
  int64_t second; /* what text says; zero-initialised means "nothing yet" */
  char text[FC_DATE_LEN + 3];
} fc_date;

/* The date at unix_second; the span (always FC_DATE_LEN bytes) lives until the
 * next call with another second. */
fc_span fc_date_text(fc_date *date, int64_t unix_second);

#endif
