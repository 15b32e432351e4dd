/* date.c: days to year, month and day by the Gregorian calendar's own periods,
 * behind date.h. */
#include "date.h"

#include <string.h>

enum {
  DAY_SECONDS = 86400,
  YEAR_DAYS = 365,
  YEARS_4_DAYS = 4 * YEAR_DAYS + 1,
  YEARS_100_DAYS = 25 * YEARS_4_DAYS - 1,
  YEARS_400_DAYS = 4 * YEARS_100_DAYS + 1,
  DAYS_TO_MARCH = 306, /* from March 1st of the year 0 to January 1st of the year 1 */
};

static const char WEEKDAYS[] = "MonTueWedThuFriSatSun"; /* 0001-01-01 was a Monday */
static const char MONTHS[] = "MarAprMayJunJulAugSepOctNovDecJanFeb";

static void put_two(char *at, uint32_t number) {
  at[0] = (char)('0' + number / 10 % 10);
  at[1] = (char)('0' + number % 10);
}

/* Writes "06 Nov 1994" for the day `days` after 0001-01-01. */
static void put_day(char *at, uint32_t days) {
  /* Years that begin in March have their leap day at the end, so that all
   * months before it keep their places. */
  days += DAYS_TO_MARCH;
  uint32_t year = days / YEARS_400_DAYS * 400;
  days %= YEARS_400_DAYS;
  /* The last day of a period of 400 or of 4 years is the leap day that its
   * parts do not have: it belongs to the last part, not to a next one. */
  uint32_t hundreds = days / YEARS_100_DAYS;
  if (hundreds == 4) hundreds = 3;
  days -= hundreds * YEARS_100_DAYS;
  uint32_t fours = days / YEARS_4_DAYS;
  days -= fours * YEARS_4_DAYS;
  uint32_t ones = days / YEAR_DAYS;
  if (ones == 4) ones = 3;
  days -= ones * YEAR_DAYS;
  year += hundreds * 100 + fours * 4 + ones;
  /* From March on the months have 31 30 31 30 31 days, over and over: month m
   * begins (153 m + 2) / 5 days after March 1st. */
  uint32_t month = (5 * days + 2) / 153;
  uint32_t day = days - (153 * month + 2) / 5 + 1;
  if (month >= 10) year++; /* January and February */
  put_two(at, day);
  at[2] = ' ';
  memcpy(at + 3, MONTHS + 3 * month, 3);
  at[6] = ' ';
  put_two(at + 7, year / 100);
  put_two(at + 9, year);
}

static void remake(fc_date *date, int64_t unix_second) {
  int64_t second = unix_second;
  if (second < FC_DATE_FIRST) second = FC_DATE_FIRST;
  if (second > FC_DATE_LAST) second = FC_DATE_LAST;
  uint64_t since = (uint64_t)(second - FC_DATE_FIRST);
  uint32_t days = (uint32_t)(since / DAY_SECONDS);
  uint32_t clock = (uint32_t)(since % DAY_SECONDS);
  char *text = date->text;
  memcpy(text, "Ddd, dd Mmm yyyy hh:mm:ss GMT", FC_DATE_LEN + 1);
  memcpy(text, WEEKDAYS + 3 * (days % 7), 3);
  put_day(text + 5, days);
  put_two(text + 17, clock / 3600);
  put_two(text + 20, clock / 60 % 60);
  put_two(text + 23, clock % 60);
  date->second = unix_second;
}

fc_span fc_date_text(fc_date *date, int64_t unix_second) {
  if (FC_UNLIKELY(date->second != unix_second || date->text[0] == '\0')) {
    remake(date, unix_second);
  }
  fc_span span = {date->text, FC_DATE_LEN};
  return span;
}
