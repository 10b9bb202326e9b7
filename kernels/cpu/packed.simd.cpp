#include "packed_float.h"
#include "packed_int8.h"

namespace mlx_llamba::SIMD_LEVEL {
namespace {

void prepare(const Weight& w, bool int8, const float* x, char* to, size_t begin, size_t end) {
  const PreparedLayout layout = prepared_layout(w, int8);
  for (size_t row = begin; row < end; row++) {
    const float* from = x + row * w.in;
    char* at = to + row * layout.stride;
    if (!int8) prepare_float(w, layout, from, at);
    else if (w.bits == 4) prepare_int8<4>(w, layout, from, at);
    else prepare_int8<8>(w, layout, from, at);
  }
}

void row(const Weight& w, size_t row, float* to) {
  const size_t codes = 32 / (size_t)w.bits, tile = row / TILE, lane = row % TILE;
  const uint32_t* words = static_cast<const uint32_t*>(w.values) + tile * (w.in / codes) * TILE + lane;
  const size_t first = tile * (w.in / w.group) * TILE + lane;
  for (size_t i = 0; i < w.in; i += w.group) {
    const size_t at = first + i / w.group * TILE;
    const Floats scale = broadcast(load_number(w.format, w.scales, at));
    const Floats bias = broadcast(load_number(w.format, w.biases, at));
    for (size_t j = 0; j < w.group; j += LANES) {
      Ints values;
      for (size_t l = 0; l < LANES; l++) {
        const size_t column = i + j + l;
        values[l] = (int32_t)(words[column / codes * TILE] >> (column % codes * (size_t)w.bits)) & ((1 << w.bits) - 1);
      }
      store(to + i + j, fma(__builtin_convertvector(values, Floats), scale, bias));
    }
  }
}

} // namespace

extern const PackedTable packed_level_table{prepare, multiply_all, int8_all, many_all, row};

} // namespace mlx_llamba::SIMD_LEVEL
