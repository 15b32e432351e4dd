/* test_ws.c: heads, masks, close codes and UTF-8; every input is flush against
 * an unreadable page, cut at every position, and mutated. */
#define _GNU_SOURCE
#include "ws.h"

#include "check.h"

/* ---- heads */

/* Reads a head of which only the first len bytes can be read at all. */
static int read_head(fc_ws_frame *frame, const void *bytes, size_t len, const char **why) {
  return fc_ws_read_head(frame, guarded(bytes, len), len, why);
}

/* A head is read from all its bytes and from no fewer. */
static void expect_head(const char *bytes, size_t len, int opcode, int flags, uint64_t length) {
  fc_ws_frame frame;
  const char *why = NULL;
  for (size_t cut = 0; cut < len; cut++) CHECK(read_head(&frame, bytes, cut, &why) == 0);
  CHECK(read_head(&frame, bytes, len, &why) == (int)len);
  CHECK(frame.opcode == opcode && frame.flags == flags && frame.length == length);
  CHECK(memcmp(frame.mask, bytes + len - 4, 4) == 0);
  CHECK(why == NULL);
}

static void test_heads(void) {
  expect_head("\x81\x80\1\2\3\4", 6, FC_WS_TEXT, FC_WS_FIN, 0);
  expect_head("\x02\xfd\1\2\3\4", 6, FC_WS_BINARY, 0, 125);
  expect_head("\xc1\xfe\x00\x7e\1\2\3\4", 8, FC_WS_TEXT, FC_WS_FIN | FC_WS_RSV1, 126);
  expect_head("\x80\xfe\xff\xff\1\2\3\4", 8, FC_WS_CONTINUATION, FC_WS_FIN, 65535);
  expect_head("\x82\xff\0\0\0\0\0\1\0\0\1\2\3\4", 14, FC_WS_BINARY, FC_WS_FIN, 65536);
  expect_head("\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\1\2\3\4", 14, FC_WS_BINARY, FC_WS_FIN,
              INT64_MAX);
  expect_head("\x88\xfd\1\2\3\4", 6, FC_WS_CLOSE, FC_WS_FIN, 125);
  expect_head("\xf9\x80\1\2\3\4", 6, FC_WS_PING, 0xf0, 0);
  expect_head("\x8a\x80\1\2\3\4", 6, FC_WS_PONG, FC_WS_FIN, 0);
}

/* Refused with the need-th byte, and not before. */
static void expect_refusal(const char *bytes, size_t need) {
  fc_ws_frame frame;
  const char *why = NULL;
  for (size_t cut = 0; cut < need; cut++) CHECK(read_head(&frame, bytes, cut, &why) == 0);
  CHECK(why == NULL);
  CHECK(read_head(&frame, bytes, need, &why) == FC_ERR);
  CHECK(why != NULL);
}

static void test_refused_heads(void) {
  static const uint8_t reserved[] = {3, 4, 5, 6, 7, 11, 12, 13, 14, 15};
  for (size_t i = 0; i < sizeof reserved; i++) {
    char first = (char)(FC_WS_FIN | reserved[i]);
    expect_refusal(&first, 1);
  }
  for (char opcode = FC_WS_CLOSE; opcode <= FC_WS_PONG; opcode++) {
    char pieces[1] = {opcode};
    expect_refusal(pieces, 1);
    char long_one[2] = {(char)(FC_WS_FIN | opcode), (char)0xfe};
    expect_refusal(long_one, 2);
    long_one[1] = (char)0xff;
    expect_refusal(long_one, 2);
  }
  expect_refusal("\x81\x05", 2);
  expect_refusal("\x81\x7e", 2);
  expect_refusal("\x82\xfe\x00\x7d", 4);
  expect_refusal("\x82\xfe\x00\x00", 4);
  expect_refusal("\x82\xff\0\0\0\0\0\0\xff\xff", 10);
  expect_refusal("\x82\xff\x80\0\0\0\0\0\0\0", 10);
}

static void test_written_heads(void) {
  static const struct {
    uint64_t length;
    size_t head;
  } table[] = {{0, 2},      {1, 2},      {125, 2},
               {126, 4},    {127, 4},    {65535, 4},
               {65536, 10}, {65537, 10}, {UINT64_C(1) << 40, 10}};
  for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
    char *out = guarded(NULL, table[i].head);
    CHECK(fc_ws_write_head(out, FC_WS_FIN | FC_WS_TEXT, table[i].length) == table[i].head);
    /* With a mask behind it, it is a client's. */
    char theirs[FC_WS_HEAD_MAX];
    memcpy(theirs, out, table[i].head);
    theirs[1] = (char)(theirs[1] | 0x80);
    memcpy(theirs + table[i].head, "abcd", 4);
    expect_head(theirs, table[i].head + 4, FC_WS_TEXT, FC_WS_FIN, table[i].length);
  }
}

/* Whatever the bytes are: no byte too many is read, a longer input says the
 * same, and what is accepted keeps the rules. */
static void test_random_heads(void) {
  uint64_t seed = 6455;
  for (int round = 0; round < 200000; round++) {
    char bytes[FC_WS_HEAD_MAX];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (char)check_random(&seed, 256);
    /* Half of them are nearly right. */
    if (round & 1) {
      bytes[0] = (char)(check_random(&seed, 11) | FC_WS_FIN);
      bytes[1] = (char)(bytes[1] | 0x80);
    }
    fc_ws_frame frame;
    const char *why = NULL;
    int whole = fc_ws_read_head(&frame, bytes, sizeof bytes, &why);
    CHECK(whole == FC_ERR || (whole >= 6 && whole <= FC_WS_HEAD_MAX));
    size_t cut = check_random(&seed, sizeof bytes);
    char *exact = bytes + sizeof bytes - cut;
    memmove(exact, bytes, cut);
    fc_ws_frame part;
    int early = fc_ws_read_head(&part, exact, cut, &why);
    CHECK(early == 0 || early == whole);
    if (early > 0) CHECK((size_t)early <= cut && part.length == frame.length);
    if (whole > 0 && frame.opcode >= FC_WS_CLOSE) {
      CHECK(frame.length <= FC_WS_CONTROL_MAX && (frame.flags & FC_WS_FIN));
    }
  }
}

/* ---- masks */

static void test_masks(void) {
  uint64_t seed = 5;
  uint8_t mask[4] = {0x37, 0xfa, 0x21, 0x3d};
  for (size_t len = 0; len < 300; len++) {
    for (uint64_t at = 0; at < 9; at++) {
      char plain[300];
      char masked[300];
      int wide = 0;
      for (size_t i = 0; i < len; i++) {
        plain[i] = (char)check_random(&seed, len % 3 == 0 ? 128 : 256);
        wide |= (plain[i] & 0x80) != 0;
        masked[i] = (char)((uint8_t)plain[i] ^ mask[(at + i) & 3]);
      }
      char *to = guarded(NULL, len);
      CHECK(fc_ws_unmask(to, guarded(masked, len), len, mask, at) == wide);
      CHECK(memcmp(to, plain, len) == 0);
    }
  }
}

/* One wide byte is seen wherever it stands. */
static void test_ascii_is_noticed(void) {
  uint8_t mask[4] = {0, 0, 0, 0};
  for (size_t place = 0; place < 70; place++) {
    char *from = guarded(NULL, 70);
    char *to = guarded(NULL, 70);
    CHECK(fc_ws_unmask(to, from, 70, mask, 0) == 0);
    from[place] = (char)0x80;
    CHECK(fc_ws_unmask(to, from, 70, mask, 0) == 1);
  }
}

/* A payload in two pieces is the payload. */
static void test_masks_in_pieces(void) {
  uint64_t seed = 77;
  char masked[64];
  for (size_t i = 0; i < sizeof masked; i++) masked[i] = (char)check_random(&seed, 256);
  const uint8_t mask[4] = {1, 2, 3, 4};
  char whole[64];
  fc_ws_unmask(whole, masked, sizeof masked, mask, 0);
  for (size_t cut = 0; cut <= sizeof masked; cut++) {
    char pieces[64];
    fc_ws_unmask(pieces, guarded(masked, cut), cut, mask, 0);
    size_t rest = sizeof masked - cut;
    fc_ws_unmask(pieces + cut, guarded(masked + cut, rest), rest, mask, cut);
    CHECK(memcmp(pieces, whole, sizeof whole) == 0);
  }
}

/* ---- close codes */

static void test_close_codes(void) {
  static const int allowed[] = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010,
                                1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999};
  static const int refused[] = {-1,   0,    999,  1004, 1005, 1006, 1015,
                                1016, 1100, 2000, 2999, 5000, 65535};
  for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++)
    CHECK(fc_ws_may_send_code(allowed[i]));
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
    CHECK(!fc_ws_may_send_code(refused[i]));
}

/* ---- UTF-8 */

/* Decodes by the definition, one number at a time.  Returns how many bytes of
 * the text are not wrong: len if it is UTF-8 or the beginning of some. */
static size_t right_bytes(const uint8_t *text, size_t len, int *whole) {
  static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  size_t at = 0;
  *whole = 1;
  while (at < len) {
    uint8_t first = text[at];
    size_t n = first < 0x80       ? 1
               : first >> 5 == 6  ? 2
               : first >> 4 == 14 ? 3
               : first >> 3 == 30 ? 4
                                  : 0;
    if (n == 0) return at;
    /* A prefix is right if some completion of it is. */
    for (size_t have = 1; have <= n && at + have <= len; have++) {
      if (have > 1 && text[at + have - 1] >> 6 != 2) return at + have - 1;
      uint32_t low = n == 1 ? first : first & (0x7fu >> n);
      for (size_t i = 1; i < have; i++) low = low << 6 | (text[at + i] & 0x3f);
      uint32_t free_bits = (uint32_t)(6 * (n - have));
      uint32_t high = low << free_bits | ((UINT32_C(1) << free_bits) - 1);
      low <<= free_bits;
      int possible = high >= least[n] && low <= 0x10ffff && !(low >= 0xd800 && high <= 0xdfff);
      if (!possible) return at + have - 1;
    }
    if (at + n > len) {
      *whole = 0;
      return len;
    }
    at += n;
  }
  return len;
}

/* The validator agrees with the definition on every prefix, in any pieces.
 * Nothing may be read behind the text's end, where the caller has a guard. */
static void expect_as_defined(const uint8_t *text, size_t len, uint64_t *seed) {
  int whole;
  size_t right = right_bytes(text, len, &whole);
  fc_utf8 once = {0, 0, 0};
  int verdict = fc_utf8_feed(&once, (const char *)text, len);
  CHECK(verdict == (right == len));
  if (verdict) CHECK(fc_utf8_is_whole(&once) == whole);
  fc_utf8 bytewise = {0, 0, 0};
  size_t at = 0;
  while (at < len && fc_utf8_feed(&bytewise, (const char *)text + at, 1)) at++;
  CHECK(at == right);
  if (!verdict) return;
  fc_utf8 pieces = {0, 0, 0};
  size_t cut = check_random(seed, len + 1);
  CHECK(fc_utf8_feed(&pieces, (const char *)text, cut));
  CHECK(fc_utf8_feed(&pieces, (const char *)text + cut, len - cut));
  CHECK(fc_utf8_is_whole(&pieces) == whole);
}

static void test_all_short_texts(void) {
  uint64_t seed = 3629;
  for (uint32_t a = 0; a < 256; a++) {
    for (uint32_t b = 0; b < 256; b++) {
      uint8_t two[2] = {(uint8_t)a, (uint8_t)b};
      expect_as_defined(two, sizeof two, &seed);
      for (uint32_t c = 0x7f; c < 0xc2; c += 0x21) {
        uint8_t four[4] = {(uint8_t)a, (uint8_t)b, (uint8_t)c, 0x80};
        expect_as_defined(four, sizeof four, &seed);
      }
    }
  }
}

/* Every code point, alone. */
static void test_all_characters(void) {
  for (uint32_t point = 0; point < 0x110000; point++) {
    uint8_t text[4];
    size_t n;
    if (point < 0x80) {
      n = 1;
      text[0] = (uint8_t)point;
    } else if (point < 0x800) {
      n = 2;
      text[0] = (uint8_t)(0xc0 | point >> 6);
    } else if (point < 0x10000) {
      n = 3;
      text[0] = (uint8_t)(0xe0 | point >> 12);
    } else {
      n = 4;
      text[0] = (uint8_t)(0xf0 | point >> 18);
    }
    for (size_t i = 1; i < n; i++) text[i] = (uint8_t)(0x80 | (point >> (6 * (n - 1 - i)) & 0x3f));
    fc_utf8 utf8 = {0, 0, 0};
    int is_surrogate = point >= 0xd800 && point <= 0xdfff;
    int verdict = fc_utf8_feed(&utf8, (const char *)text, n);
    CHECK(verdict == !is_surrogate);
    if (verdict) CHECK(fc_utf8_is_whole(&utf8));
  }
}

/* Long texts with single bytes changed, so that the run of words is left and
 * entered again everywhere. */
static void test_mutated_texts(void) {
  static const char sample[] =
      "plain words, then \xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5 and \xf0\x9f\x98\x80, "
      "then more plain words until the end; \xe6\xbc\xa2\xe5\xad\x97";
  uint64_t seed = 1;
  for (int round = 0; round < 20000; round++) {
    uint8_t text[sizeof sample - 1];
    memcpy(text, sample, sizeof text);
    for (uint64_t n = check_random(&seed, 4); n > 0; n--) {
      text[check_random(&seed, sizeof text)] = (uint8_t)check_random(&seed, 256);
    }
    size_t start = check_random(&seed, 18);
    size_t len = sizeof text - start - check_random(&seed, 20);
    expect_as_defined((const uint8_t *)guarded(text + start, len), len, &seed);
  }
}

int main(void) {
  test_heads();
  test_refused_heads();
  test_written_heads();
  test_random_heads();
  test_masks();
  test_ascii_is_noticed();
  test_masks_in_pieces();
  test_close_codes();
  test_all_short_texts();
  test_all_characters();
  test_mutated_texts();
  return check_summary("test_ws");
}
