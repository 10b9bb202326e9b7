#include "int8.h"

#include "codes.h"
#include "dot.h"
#include "simd.h"

namespace mlx_llamba::SIMD_LEVEL {
namespace {

#if !defined(SIMD_AVX512)
#define VNNI
#endif

// Vectors for the words of a block, each with a chain of sums of its own.
constexpr int CHAINS = (int)INT8_WORDS / LANES;

// A product of one row and one output, open: lane l of chain c has what words c * LANES + l gave.
struct Sum {
  Floats chain[CHAINS];
};

// In the order in which `sum` adds 16 lanes.
INLINE float total(const Sum& a) {
  if constexpr (CHAINS == 1) return sum(a.chain[0]);
  if constexpr (CHAINS == 2) return sum(a.chain[0] + a.chain[1]);
  const Floats half0 = a.chain[0] + a.chain[2 % CHAINS], half1 = a.chain[1 % CHAINS] + a.chain[3 % CHAINS];
  return sum(half0 + half1);
}

struct Row {
  const char* codes;
  const float* scales;
  const float* sums; // of rounded activations, of the groups of the weight
};

// Adds the products of `units` words from word `at` on.
template <class Dot, int BITS, int R, int O>
VNNI static inline __attribute__((always_inline)) void add_words(
    const Codes<BITS> (&w)[O], const Row (&x)[R], size_t block, int chain, int units, Sum (&acc)[R][O]) {
  const size_t vector = block * CHAINS + (size_t)chain;
  Unpacked8<BITS> codes[O];
  Floats scale[O];
#pragma GCC unroll 4
  for (int o = 0; o < O; o++) {
    const auto open = w[o].open(vector, units);
    codes[o] = unpack8<BITS>(open.words);
    scale[o] = open.scale;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    const Floats own = load(x[r].scales + vector * LANES);
    const char* from = x[r].codes + block * (8 / BITS) * PART + (size_t)chain * LANES * 4;
#pragma GCC unroll 4
    for (int o = 0; o < O; o++) {
      const Ints sum = Dot::template dot<BITS>(codes[o], from);
      acc[r][o].chain[chain] = fma(__builtin_convertvector(sum, Floats), scale[o] * own, acc[r][o].chain[chain]);
    }
  }
}

template <class Dot, int BITS, int R, int O>
VNNI static inline __attribute__((always_inline)) void tile(
    Codes<BITS> (&w)[O], const Row (&x)[R], size_t numbers, bool first, float* y, size_t y_stride, int rows,
    int outputs) {
  Sum acc[R][O] = {};
  const size_t words = numbers / Codes<BITS>::VECTORS, blocks = words / INT8_WORDS;
  for (size_t block = 0; block < blocks; block++) {
#pragma GCC unroll 4
    for (int chain = 0; chain < CHAINS; chain++) add_words<Dot>(w, x, block, chain, LANES, acc);
  }
  const int rest = (int)(words - blocks * INT8_WORDS);
#pragma GCC unroll 4
  for (int chain = 0; chain < CHAINS; chain++) {
    const int left = rest - chain * LANES;
    if (left > 0) add_words<Dot>(w, x, blocks, chain, left < LANES ? left : LANES, acc);
  }
  // The biases, 16 groups at a time.
  const int groups = (int)(numbers >> w[0].group_bits);
  for (int group = 0; group < groups; group += (int)INT8_WORDS) {
#pragma GCC unroll 4
    for (int chain = 0; chain < CHAINS; chain++) {
      const int at = group + chain * LANES, left = groups - at;
      if (left <= 0) break;
      const int count = left < LANES ? left : LANES;
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        const Floats own = load(x[r].sums + at, count);
#pragma GCC unroll 4
        for (int o = 0; o < O; o++) {
          acc[r][o].chain[chain] = fma(load(w[o].biases + at, count), own, acc[r][o].chain[chain]);
        }
      }
    }
  }
  for (int r = 0; r < rows; r++) {
    for (int o = 0; o < outputs; o++) {
      float& to = y[(size_t)r * y_stride + (size_t)o];
      to = first ? total(acc[r][o]) : to + total(acc[r][o]);
    }
  }
}

// Outputs in a tile of so many rows, for the registers there are.
constexpr int outputs_at_once(int rows) {
#if defined(SIMD_AVX512)
  return rows <= 4 ? 4 : 2;
#else
  return rows == 1 ? 2 : 1;
#endif
}

template <class Dot, int BITS, int R>
VNNI void products(const Weight& w, const Int8Rows& x, float* y, size_t begin, size_t end) {
  constexpr int O = outputs_at_once(R);
  const Int8Layout layout = int8_layout(w);
  for (size_t o = begin; o < end; o += O) {
    const int outputs = end - o < O ? (int)(end - o) : O;
    for (size_t column = 0; column < w.in; column += PIECE) {
      Codes<BITS> readers[O];
      for (int i = 0; i < O; i++) readers[i].stand_on(w, o + (size_t)(i < outputs ? i : outputs - 1), column, O);
      const size_t numbers = w.in - column < PIECE ? w.in - column : PIECE;
      for (size_t row = 0; row < x.rows; row += R) {
        const int rows = x.rows - row < R ? (int)(x.rows - row) : R;
        Row values[R];
        for (int r = 0; r < R; r++) {
          const char* from = x.values + (row + (size_t)(r < rows ? r : rows - 1)) * layout.stride;
          values[r].codes = from + column;
          values[r].scales = (const float*)(from + layout.scales) + column * BITS / 32;
          values[r].sums = (const float*)(from + layout.sums) + column / w.group;
        }
        tile<Dot>(readers, values, numbers, column == 0, y + row * w.out + o, w.out, rows, outputs);
      }
    }
  }
}

template <class Dot, int BITS>
void products(const Weight& w, const Int8Rows& x, float* y, size_t begin, size_t end) {
  if (x.rows == 1) return products<Dot, BITS, 1>(w, x, y, begin, end);
  if (x.rows == 2) return products<Dot, BITS, 2>(w, x, y, begin, end);
#if defined(SIMD_AVX512)
  if (x.rows == 5 || x.rows == 6) return products<Dot, BITS, 6>(w, x, y, begin, end);
  if (x.rows > 6) return products<Dot, BITS, 8>(w, x, y, begin, end);
#endif
  products<Dot, BITS, 4>(w, x, y, begin, end);
}

template <class Dot>
void products(const Weight& w, const Int8Rows& x, float* y, size_t begin, size_t end) {
  switch (w.bits) {
    case 2: return products<Dot, 2>(w, x, y, begin, end);
    case 4: return products<Dot, 4>(w, x, y, begin, end);
    default: return products<Dot, 8>(w, x, y, begin, end);
  }
}

void all_products(const Weight& w, const Int8Rows& x, float* y, size_t begin, size_t end) {
#if defined(SIMD_AVX512)
  static const bool fused = __builtin_cpu_supports("avx512vnni");
  if (fused) return products<Fused>(w, x, y, begin, end);
#endif
  products<Portable>(w, x, y, begin, end);
}

// Rounds a block of numbers to whole multiples of its scale, which it returns.
INLINE float round_block(const float* x, int32_t* codes, int32_t& sum) {
  // As whole numbers, the bits of |x| are in the order of |x|, with NaN above infinity.
  int32_t most = 0;
  for (size_t i = 0; i < INT8_BLOCK; i++) {
    int32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof bits);
    bits &= INT32_MAX;
    most = bits > most ? bits : most;
  }
  float largest;
  __builtin_memcpy(&largest, &most, sizeof largest);
  const bool finite = most < 0x7f800000;
  // Below that the inverse of the scale is no float.
  if (!finite || largest < 1e-36f) {
    __builtin_memset(codes, 0, INT8_BLOCK * sizeof *codes);
    sum = 0;
    return finite ? 0.0f : __builtin_nanf("");
  }
  const float inverse = 127.0f / largest;
  sum = 0;
  for (size_t i = 0; i < INT8_BLOCK; i++) {
    // Adding 1.5 * 2^23 rounds to a whole number, which then stands in the low bits.
    const float shifted = x[i] * inverse + 0x1.8p23f;
    int32_t bits;
    __builtin_memcpy(&bits, &shifted, sizeof bits);
    codes[i] = bits - 0x4b400000;
    sum += codes[i];
  }
  return largest / 127.0f;
}

template <int BITS>
void round(const Weight& w, const float* x, char* to, size_t begin, size_t end) {
  constexpr size_t PARTS = 8 / BITS, NUMBERS = PART * PARTS, WORD = 32 / BITS;
  const Int8Layout layout = int8_layout(w);
  for (size_t row = begin; row < end; row++) {
    char* bytes = to + row * layout.stride;
    float* scales = (float*)(bytes + layout.scales);
    float* sums = (float*)(bytes + layout.sums);
    __builtin_memset(sums, 0, w.in / w.group * sizeof(float));
    for (size_t column = 0; column < layout.blocks * NUMBERS; column += INT8_BLOCK) {
      int32_t codes[INT8_BLOCK] = {}, sum = 0;
      float scale = 0;
      // Rows are whole groups, and groups whole blocks; behind them are zeros.
      if (column < w.in) {
        scale = round_block(x + row * w.in + column, codes, sum);
        sums[column / w.group] += scale * (float)sum;
      }
      char* part = bytes + column / NUMBERS * NUMBERS + column % NUMBERS / PARTS;
      for (size_t v = 0; v < PARTS; v++) {
        for (size_t i = 0; i < INT8_BLOCK / PARTS; i++) part[v * PART + i] = (char)codes[i * PARTS + v];
      }
      for (size_t word = 0; word < INT8_BLOCK / WORD; word++) scales[column / WORD + word] = scale;
    }
  }
}

void round_all(const Weight& w, const float* x, char* to, size_t begin, size_t end) {
  switch (w.bits) {
    case 2: return round<2>(w, x, to, begin, end);
    case 4: return round<4>(w, x, to, begin, end);
    default: return round<8>(w, x, to, begin, end);
  }
}

} // namespace

extern const Int8Table int8_table{round_all, all_products};

} // namespace mlx_llamba::SIMD_LEVEL
