/* bench_board.c: what a request writes, and the search for the least busy of 64. */
#include "board.h"

#include "measure.h"

enum { SLOTS = 64 };

int main(void) {
  static const char LINE[] = "GET /articles/2026 HTTP/1.1";
  static const char PEER[FC_NOTE_PEER_BYTES];
  fc_board *board = fc_board_create(SLOTS);
  if (board == NULL) return 1;
  for (uint32_t i = 0; i < SLOTS; i++) {
    if (fc_board_take(board, i, 1000) == 0) return 1;
    atomic_store(&board->slot[i].state, FC_SLOT_READY);
    atomic_store(&board->slot[i].connections, (int32_t)(SLOTS - i));
    atomic_store(&board->slot[i].waiting, 1);
  }
  fc_slot *slot = &board->slot[0];
  MEASURE("note a request", fc_slot_note(slot, LINE, sizeof LINE - 1, PEER, 1000));
  MEASURE("count a request", fc_slot_served(slot));
  MEASURE("least busy of 64", KEEP(fc_board_least(board, 0, 1000)));
  fc_board_destroy(board);
  return 0;
}
