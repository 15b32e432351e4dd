/* bench_timer.c: a deadline moved, filed and forgotten, among ten thousand. */
#include "timer.h"

#include "measure.h"

enum { NODES = 10000 };

static fc_wheel wheel;
static fc_deadline nodes[NODES];

int main(void) {
  int64_t now_ms = 1000000;
  size_t i = 0;
  fc_wheel_init(&wheel, now_ms);
  for (int n = 0; n < NODES; n++) fc_wheel_set(&wheel, &nodes[n], now_ms + n);
  MEASURE("moved later", i = (i + 1) % NODES; fc_wheel_set(&wheel, &nodes[i], now_ms += 1));
  now_ms = 1000000;
  fc_wheel_init(&wheel, now_ms);
  for (int n = 0; n < NODES; n++) nodes[n] = (fc_deadline){0};
  MEASURE("filed and forgotten", i = (i + 1) % NODES;
          fc_wheel_set(&wheel, &nodes[i], now_ms + 5000); fc_wheel_clear(&wheel, &nodes[i]));
  MEASURE("nothing has expired", KEEP(fc_wheel_expired(&wheel, now_ms)));
  return 0;
}
