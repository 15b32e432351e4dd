/* test_date.c: the HTTP date against known texts and against the C library's
 * calendar.  Built with csrc/date.c. */
#define _GNU_SOURCE
#include "date.h"

#include <time.h>

#include "check.h"

static int says(fc_date *date, int64_t second, const char *want) {
  fc_span span = fc_date_text(date, second);
  return span.len == FC_DATE_LEN && strlen(want) == FC_DATE_LEN &&
         memcmp(span.ptr, want, FC_DATE_LEN) == 0;
}

/* The same by gmtime. */
static int agrees(int64_t second) {
  static const char *const days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  time_t t = (time_t)second;
  struct tm tm;
  if (gmtime_r(&t, &tm) == NULL) return 0;
  char want[64];
  snprintf(want, sizeof want, "%s, %02d %s %04d %02d:%02d:%02d GMT", days[tm.tm_wday], tm.tm_mday,
           months[tm.tm_mon], tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
  fc_date date = {0};
  return says(&date, second, want);
}

static void test_known(void) {
  static const struct {
    int64_t second;
    const char *text;
  } rows[] = {
      {784111777, "Sun, 06 Nov 1994 08:49:37 GMT"}, /* RFC 9110's own */
      {0, "Thu, 01 Jan 1970 00:00:00 GMT"},
      {1, "Thu, 01 Jan 1970 00:00:01 GMT"},
      {-1, "Wed, 31 Dec 1969 23:59:59 GMT"},
      {951782399, "Mon, 28 Feb 2000 23:59:59 GMT"},
      {951782400, "Tue, 29 Feb 2000 00:00:00 GMT"},
      {951868800, "Wed, 01 Mar 2000 00:00:00 GMT"},
      {INT64_C(2147483647), "Tue, 19 Jan 2038 03:14:07 GMT"},
      {INT64_C(2147483648), "Tue, 19 Jan 2038 03:14:08 GMT"},
      {INT64_C(4107542399), "Sun, 28 Feb 2100 23:59:59 GMT"},
      {INT64_C(4107542400), "Mon, 01 Mar 2100 00:00:00 GMT"},
      {FC_DATE_LAST, "Fri, 31 Dec 9999 23:59:59 GMT"},
      {FC_DATE_FIRST, "Mon, 01 Jan 0001 00:00:00 GMT"},
      /* What has no four digits for its year is written as the nearest. */
      {FC_DATE_LAST + 1, "Fri, 31 Dec 9999 23:59:59 GMT"},
      {INT64_MAX, "Fri, 31 Dec 9999 23:59:59 GMT"},
      {FC_DATE_FIRST - 1, "Mon, 01 Jan 0001 00:00:00 GMT"},
      {INT64_MIN, "Mon, 01 Jan 0001 00:00:00 GMT"},
  };
  fc_date kept = {0};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    fc_date fresh = {0};
    CHECK(says(&fresh, rows[i].second, rows[i].text));
    CHECK(says(&kept, rows[i].second, rows[i].text));
  }
}

static void test_every_day(void) {
  uint64_t seed = 1;
  for (int64_t day = 0; day * 86400 < INT64_C(4200000000); day++) {
    CHECK(agrees(day * 86400 + (int64_t)check_random(&seed, 86400)));
  }
}

static void test_the_ends_of_days_around_leap_days(void) {
  static const int years[] = {1,    4,    100,  400,  1600, 1700, 1800, 1900, 1970, 1972,
                              1999, 2000, 2001, 2004, 2026, 2099, 2100, 2400, 9996, 9999};
  for (size_t i = 0; i < sizeof years / sizeof years[0]; i++) {
    struct tm tm = {0};
    tm.tm_year = years[i] - 1900;
    tm.tm_mday = 1;
    int64_t start = (int64_t)timegm(&tm);
    for (int day = 0; day < 365; day++) {
      CHECK(agrees(start + day * INT64_C(86400)));
      CHECK(agrees(start + day * INT64_C(86400) + 86399));
    }
  }
}

static void test_every_second_of_a_day(void) {
  for (int64_t second = 0; second < 86400; second++) CHECK(agrees(INT64_C(1764028800) + second));
}

static void test_anywhere(void) {
  uint64_t seed = 2;
  uint64_t span = (uint64_t)(FC_DATE_LAST - FC_DATE_FIRST) + 1;
  for (int i = 0; i < 200000; i++)
    CHECK(agrees(FC_DATE_FIRST + (int64_t)check_random(&seed, span)));
}

static void test_remade_only_for_another_second(void) {
  fc_date date = {0};
  fc_span span = fc_date_text(&date, 784111777);
  CHECK(span.ptr == date.text);
  date.text[0] = 'X'; /* whoever writes the text again puts the S back */
  CHECK(fc_date_text(&date, 784111777).ptr[0] == 'X');
  CHECK(fc_date_text(&date, 784111778).ptr[0] == 'S');
  /* Seconds beyond the years are remembered as they were asked for. */
  fc_date_text(&date, INT64_MAX);
  date.text[0] = 'X';
  CHECK(fc_date_text(&date, INT64_MAX).ptr[0] == 'X');
  CHECK(fc_date_text(&date, 0).ptr[0] == 'T');
}

int main(void) {
  test_known();
  test_every_day();
  test_the_ends_of_days_around_leap_days();
  test_every_second_of_a_day();
  test_anywhere();
  test_remade_only_for_another_second();
  return check_summary("test_date");
}
