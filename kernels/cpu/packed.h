// Matrix multiplication with a weight of 4- or 8-bit codes in the order in which these kernels read it.
//
// Rows are in tiles of TILE. A tile of codes is (in * bits / 32, TILE) words and a tile of scales or
// biases (in / group, TILE) numbers: word j of a tile's rows is one cache line, every lane of a vector
// belongs to an output of its own, and a tile is read from its first byte to its last. Rows past the
// last of the matrix are zeros.
//
// With the affine weights scale * q + bias, a sum over a group is
//
//     sum (scale q + bias) x = scale * sum of q x + bias * sum of x
//
// so that scale and bias are applied once per group. An output is one chain of sums over its groups:
// results do not depend on the width of vectors, the number of rows or threads. (SSE2 has no multiply-add
// and rounds twice.)
//
// With int8 activations, every INT8_BLOCK of a row share a scale: x ~ s c with s = max |x| / 127 and
// whole c. Sums of q c over a block are of small integers: exact, in any order. A block with an infinity
// or NaN makes its row NaN. A block whose largest value is below 1e-36 counts as 0.
#pragma once

#include "matmul.h"

namespace mlx_llamba {

constexpr size_t TILE = 16, INT8_BLOCK = 32;

// Returns true if matrices of this many bits (0: dense) can be packed.
static constexpr bool can_pack(int bits) {
  return bits == 4 || bits == 8;
}

static inline __attribute__((always_inline)) size_t tiles(const Weight& w) {
  return (w.out + TILE - 1) / TILE;
}

// Offsets of the parts of a prepared row in bytes: the numbers (float32, or int8 codes with the scales
// of their blocks), and their sums per group.
struct PreparedLayout {
  size_t scales, sums, stride;
};

static inline __attribute__((always_inline)) PreparedLayout prepared_layout(const Weight& w, bool int8) {
  const size_t scales = int8 ? w.in : 0;
  const size_t sums = int8 ? scales + w.in / INT8_BLOCK * sizeof(float) : w.in * sizeof(float);
  const size_t end = sums + w.in / w.group * sizeof(float);
  // One cache line more: rows a power of two apart would compete for cache sets.
  return {scales, sums, (end + 63) / 64 * 64 + 64};
}

struct Prepared {
  const char* values;
  size_t rows;
};

// Outputs of a panel of the kernel for many rows, and floats of its unpacked codes.
constexpr size_t PACKED_PANEL = 64, PACKED_PANEL_NUMBERS = 512, PACKED_PANEL_FLOATS = PACKED_PANEL * PACKED_PANEL_NUMBERS;

struct PackedTable {
  // Writes rows [begin, end) of x (.., in), prepared, `PreparedLayout::stride` bytes apart.
  void (*prepare)(const Weight& w, bool int8, const float* x, char* to, size_t begin, size_t end);
  // y[r, o] for all rows r and the outputs o of tiles [begin, end).
  void (*multiply)(const Weight& w, const Prepared& x, float* y, size_t begin, size_t end);
  void (*multiply_int8)(const Weight& w, const Prepared& x, float* y, size_t begin, size_t end);
  // As `multiply`, for many rows: codes are unpacked once, to `panel` with room for PACKED_PANEL_FLOATS.
  void (*multiply_many)(const Weight& w, const Prepared& x, float* y, size_t begin, size_t end, float* panel);
  // Dequantizes row `row` of the matrix.
  void (*row)(const Weight& w, size_t row, float* to);
};

PER_LEVEL(PackedTable, packed_level_table)

// Compilations of these kernels alone for more kinds of int8 instructions, where the compiler knows them.
namespace avxvnni { extern const PackedTable packed_level_table; }
namespace dotprod { extern const PackedTable packed_level_table; }
namespace i8mm { extern const PackedTable packed_level_table; }

// Returns the table for this processor, in `packed_choice.cpp`: that for AVX-512 needs VNNI in int8.
const PackedTable& packed_table(bool int8);

} // namespace mlx_llamba
