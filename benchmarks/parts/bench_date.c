/* bench_date.c: the date within a second, and a new one. */
#include "date.h"

#include "measure.h"

int main(void) {
  fc_date date = {0};
  int64_t second = 1764000000;
  MEASURE("the same second", KEEP(fc_date_text(&date, second).len));
  MEASURE("another second", KEEP(fc_date_text(&date, second++).len));
  return 0;
}
