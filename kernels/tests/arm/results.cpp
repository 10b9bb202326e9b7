// Prints a line for every product of a packed matrix: a hash of its int8 results, and if those in
// float32 are near the exact ones and the same for few and for many rows. For `scripts/arm-kernels`.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "packed.h"

using namespace mlx_llamba;

Level mlx_llamba::level() {
  return Level::baseline;
}

namespace {

uint32_t next() {
  static uint64_t state = 88172645463325252;
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return static_cast<uint32_t>(state >> 32);
}

// Numbers from `least` on, in steps of a ten thousandth.
std::vector<float> numbers(size_t count, int least, int range) {
  std::vector<float> all(count);
  for (float& one : all) one = static_cast<float>(least + static_cast<int>(next() % static_cast<unsigned>(range))) / 1e4f;
  return all;
}

void check(int bits, size_t in, size_t out, size_t rows) {
  const size_t group = in == 64 ? 32 : 64, codes = 32 / static_cast<size_t>(bits), groups = in / group;
  const size_t padded = (out + TILE - 1) / TILE * TILE;
  std::vector<uint32_t> words(padded * in / codes);
  for (uint32_t& word : words) word = next();
  const auto scales = numbers(padded * groups, 50, 100), biases = numbers(padded * groups, -1500, 1000);
  const auto x = numbers(rows * in, -10000, 20001);
  const Weight w{words.data(), scales.data(), biases.data(), Format::f32, bits, group, in, out};

  const PackedTable& kernels = SIMD_LEVEL::packed_level_table;
  std::vector<float> memory(rows * prepared_layout(w, false).stride / sizeof(float)), panel(PACKED_PANEL_FLOATS);
  const auto prepared = [&](bool int8) {
    char* to = reinterpret_cast<char*>(memory.data());
    kernels.prepare(w, int8, x.data(), to, 0, rows);
    return Prepared{to, rows};
  };
  std::vector<float> int8(rows * out), few(rows * out), many(rows * out);
  kernels.multiply_int8(w, prepared(true), int8.data(), 0, tiles(w));
  kernels.multiply(w, prepared(false), few.data(), 0, tiles(w));
  kernels.multiply_many(w, prepared(false), many.data(), 0, tiles(w), panel.data());

  uint64_t hash = 1469598103934665603;
  for (const float value : int8) {
    uint32_t bits_of;
    std::memcpy(&bits_of, &value, sizeof bits_of);
    hash = (hash ^ bits_of) * 1099511628211;
  }
  double worst = 0;
  for (size_t i = 0; i < rows * out; i++) {
    const size_t row = i / out, tile = i % out / TILE, o = i % out % TILE;
    double sum = 0, size = 0;
    for (size_t k = 0; k < in; k++) {
      const uint32_t word = words[(tile * (in / codes) + k / codes) * TILE + o];
      const uint32_t code = word >> (k % codes * static_cast<size_t>(bits)) & ((1u << bits) - 1);
      const size_t at = (tile * groups + k / group) * TILE + o;
      const double term = (static_cast<double>(scales[at]) * code + biases[at]) * x[row * in + k];
      sum += term, size += std::fabs(term);
    }
    worst = std::fmax(worst, std::fabs(few[i] - sum) / size);
  }
  const bool same = std::memcmp(few.data(), many.data(), few.size() * sizeof(float)) == 0;
  std::printf(
      "%d bits, %zu x %zu, %zu rows: int8 %016llx, float32 %s, few and many rows %s\n", bits, out, in, rows,
      static_cast<unsigned long long>(hash), worst < 2e-7 ? "near" : "far", same ? "alike" : "different");
}

} // namespace

int main() {
  for (const int bits : {4, 8}) {
    for (const size_t in : {64, 576, 1152}) {
      for (const size_t out : {5, 37}) {
        for (const size_t rows : {1, 2, 3, 5, 7, 33}) check(bits, in, out, rows);
      }
    }
  }
}
