// A word of Threefry-2x32 with 20 rounds.
METAL_FUNC uint32_t threefry(
    uint32_t key0, uint32_t key1, uint32_t low, uint32_t high, bool second) {
  const uint32_t keys[3] = {key0, key1, key0 ^ key1 ^ 0x1BD11BDAu};
  const int turns[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  uint32_t x = low + keys[0];
  uint32_t y = high + keys[1];
  UNROLL
  for (int round = 0; round < 5; ++round) {
    UNROLL
    for (int i = 0; i < 4; ++i) {
      const int turn = turns[round % 2][i];
      x += y;
      y = (y << turn) | (y >> (32 - turn));
      y ^= x;
    }
    x += keys[(round + 1) % 3];
    y += keys[(round + 2) % 3] + uint32_t(round) + 1u;
  }
  return second ? y : x;
}
