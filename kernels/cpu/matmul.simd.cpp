#include "matmul.h"

#include "codes.h"
#include "simd.h"
#include "weights.h"

namespace mlx_llamba::SIMD_LEVEL {
namespace {

#if defined(SIMD_AVX512) || defined(__ARM_NEON)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif

// Outputs of a tile with this many rows of x: sums, open blocks and weights stay in registers.
template <class Reader>
constexpr int outputs_at_once(int rows) {
  int outputs = 4;
  while (outputs > 1 && outputs * (rows + Reader::REGISTERS + 1) + 2 > REGISTERS) outputs--;
  return outputs;
}

// Keeps the compiler from loading a value again at each use: loads limit the speed of a tile.
INLINE Floats in_register(Floats value) {
#if defined(SIMD_AVX512)
  asm("" : "+v"(value));
#elif defined(__x86_64__)
  asm("" : "+x"(value));
#endif
  return value;
}

template <class Reader, int R, int O>
INLINE void add_block(const Reader (&w)[O], const float* (&x)[R], size_t block, int units, Floats (&acc)[R][O]) {
  typename Reader::Block open[O];
#pragma GCC unroll 4
  for (int o = 0; o < O; o++) open[o] = w[o].open(block, units);
#pragma GCC unroll 16
  for (int v = 0; v < Reader::VECTORS; v++) {
    Floats weight[O];
#pragma GCC unroll 4
    for (int o = 0; o < O; o++) weight[o] = Reader::get(open[o], v);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const Floats value = in_register(load(x[r] + (block * Reader::VECTORS + v) * LANES));
#pragma GCC unroll 4
      for (int o = 0; o < O; o++) acc[r][o] = fma(weight[o], value, acc[r][o]);
    }
  }
}

// Sums the lanes of each accumulator, four at a time, which takes a third of the instructions.
template <int R, int O>
INLINE void add_lanes(const Floats (&acc)[R][O], float (&values)[R][O]) {
  const Floats* flat = &acc[0][0];
  float* to = &values[0][0];
  int i = 0;
#pragma GCC unroll 8
  for (; i + 4 <= R * O; i += 4) {
    const Four four = sums(flat[i], flat[i + 1], flat[i + 2], flat[i + 3]);
    __builtin_memcpy(to + i, &four, sizeof four);
  }
#pragma GCC unroll 4
  for (; i < R * O; i++) to[i] = sum(flat[i]);
}

// Adds the sums of a piece to y, or writes them if it is the first. Only the first `rows` of R rows and
// `outputs` of O outputs exist; the others repeat the last.
template <class Reader, int R, int O>
INLINE void tile(
    Reader (&w)[O], const float* (&x)[R], size_t units, bool first, float* y, size_t y_stride, int rows, int outputs) {
  Floats acc[R][O] = {};
  const size_t blocks = units / LANES;
  for (size_t block = 0; block < blocks; block++) add_block(w, x, block, LANES, acc);
  if (units % LANES) add_block(w, x, blocks, (int)(units % LANES), acc);
  float values[R][O];
  add_lanes(acc, values);
  for (int r = 0; r < rows; r++) {
    for (int o = 0; o < outputs; o++) {
      float& to = y[r * y_stride + o];
      to = first ? values[r][o] : to + values[r][o];
    }
  }
}

// Weights are read from memory once; for the rows of x after the first tile they are in the cache.
template <class Reader, int R>
void few(const Weight& w, const Rows& x, float* y, size_t begin, size_t end) {
  constexpr int O = outputs_at_once<Reader>(R);
  for (size_t o = begin; o < end; o += O) {
    const int outputs = end - o < O ? (int)(end - o) : O;
    for (size_t column = 0; column < w.in; column += PIECE) {
      Reader readers[O];
      for (int i = 0; i < O; i++) readers[i].begin(w, o + (i < outputs ? i : outputs - 1), column, O);
      const size_t numbers = w.in - column < PIECE ? w.in - column : PIECE;
      for (size_t row = 0; row < x.rows; row += R) {
        const int rows = x.rows - row < R ? (int)(x.rows - row) : R;
        const float* values[R];
        for (int r = 0; r < R; r++) values[r] = x.values + (row + (r < rows ? r : rows - 1)) * x.stride + column;
        tile(readers, values, numbers / Reader::VECTORS, column == 0, y + row * w.out + o, w.out, rows, outputs);
      }
    }
  }
}

template <class Reader>
void few(const Weight& w, const Rows& x, float* y, size_t begin, size_t end) {
  switch (x.rows) {
    case 1: return few<Reader, 1>(w, x, y, begin, end);
    case 2: return few<Reader, 2>(w, x, y, begin, end);
    case 3: return few<Reader, 3>(w, x, y, begin, end);
    case 4: return few<Reader, 4>(w, x, y, begin, end);
    default: break;
  }
  // Uses the tile height that wastes least.
  const auto padded = [&](size_t rows) { return (x.rows + rows - 1) / rows * rows; };
  if constexpr (REGISTERS == 32) {
    if (x.rows == 7 || x.rows == 8) return few<Reader, 8>(w, x, y, begin, end);
    if (padded(6) <= padded(4)) return few<Reader, 6>(w, x, y, begin, end);
  } else {
    if (padded(3) < padded(4)) return few<Reader, 3>(w, x, y, begin, end);
  }
  few<Reader, 4>(w, x, y, begin, end);
}

// Rows of a panel start in different sets of the cache.
constexpr size_t PANEL_STRIDE = PIECE + 64;
constexpr int PANEL_ROWS = REGISTERS == 32 ? 6 : 2;

// Unpacks the piece of a row.
template <class Reader>
INLINE void unpack(const Weight& w, size_t row, size_t column, size_t numbers, float* to) {
  Reader reader;
  reader.begin(w, row, column, 1);
  const size_t units = numbers / Reader::VECTORS;
  for (size_t block = 0; block * LANES < units; block++) {
    const size_t left = units - block * LANES;
    const auto open = reader.open(block, left < LANES ? (int)left : LANES);
#pragma GCC unroll 16
    for (int v = 0; v < Reader::VECTORS; v++) store(to + (block * Reader::VECTORS + v) * LANES, Reader::get(open, v));
  }
}

template <int R>
void panel_rows(
    const Rows& x, size_t row, size_t column, const float* panel, size_t numbers, float* y, size_t out, size_t outputs) {
  const int rows = x.rows - row < R ? (int)(x.rows - row) : R;
  const float* values[R];
  for (int r = 0; r < R; r++) values[r] = x.values + (row + (r < rows ? r : rows - 1)) * x.stride + column;
  for (size_t o = 0; o < outputs; o += 4) {
    const int some = outputs - o < 4 ? (int)(outputs - o) : 4;
    Unpacked readers[4];
    for (int i = 0; i < 4; i++) readers[i].values = panel + (o + (i < some ? i : some - 1)) * PANEL_STRIDE;
    tile(readers, values, numbers, column == 0, y + row * out + o, out, rows, some);
  }
}

template <class Reader>
void many(const Weight& w, const Rows& x, float* y, size_t begin, size_t end, float* panel) {
  constexpr size_t BLOCK = Reader::VECTORS * LANES;
  for (size_t column = 0; column < w.in; column += PIECE) {
    const size_t numbers = w.in - column < PIECE ? w.in - column : PIECE;
    for (size_t o = begin; o < end; o++) unpack<Reader>(w, o, column, numbers, panel + (o - begin) * PANEL_STRIDE);
    const size_t padded = (numbers + BLOCK - 1) / BLOCK * BLOCK;
    size_t row = 0;
    const auto rest = [&]<int R>() {
      panel_rows<R>(x, row, column, panel, padded, y + begin, w.out, end - begin);
      row += R;
    };
    while (row + PANEL_ROWS <= x.rows) rest.template operator()<PANEL_ROWS>();
    if (row + 2 < x.rows) rest.template operator()<4>();
    if (row + 1 < x.rows) rest.template operator()<2>();
    if (row < x.rows) rest.template operator()<1>();
  }
}

// Calls `f` with the type of the reader.
template <class F>
INLINE auto with_reader(const Weight& w, F f) {
  switch (w.bits) {
    case 2: return f.template operator()<Codes>();
    case 3: return f.template operator()<Stream<3>>();
    case 5: return f.template operator()<Stream<5>>();
    case 6: return f.template operator()<Stream<6>>();
    default: break; // dense
  }
  switch (w.format) {
    case Format::f16: return f.template operator()<Dense<Format::f16>>();
    case Format::bf16: return f.template operator()<Dense<Format::bf16>>();
    default: return f.template operator()<Dense<Format::f32>>();
  }
}

size_t block_of(const Weight& w) {
  return with_reader(w, []<class Reader>() { return (size_t)Reader::VECTORS * LANES; });
}

// A whole number of blocks and one more cache line: rows a power of two apart would compete for the
// same cache sets.
size_t stride(const Weight& w) {
  const size_t block = block_of(w);
  return (w.in + block - 1) / block * block + 16;
}

void arrange(const Weight& w, const float* x, float* to, size_t begin, size_t end) {
  const size_t vectors = block_of(w) / LANES, step = stride(w), padded = step - 16;
  const size_t in = w.in, units = in / vectors;
  for (size_t row = begin; row < end; row++) {
    const float* from = x + row * in;
    float* values = to + row * step;
    if (vectors == 1) {
      __builtin_memcpy(values, from, in * sizeof(float));
      __builtin_memset(values + in, 0, (padded - in) * sizeof(float));
      continue;
    }
    for (size_t unit = 0; unit < padded / vectors; unit++) {
      float* lane = values + unit / LANES * LANES * vectors + unit % LANES;
      for (size_t v = 0; v < vectors; v++) lane[v * LANES] = unit < units ? from[unit * vectors + v] : 0;
    }
  }
}

size_t most_few(const Weight& w) {
  if (w.bits) return 8;
  return w.format == Format::f32 ? 48 : 16;
}

void few_rows(const Weight& w, const Rows& x, float* y, size_t begin, size_t end) {
  with_reader(w, [&]<class Reader>() {
    few<Reader>(w, x, y, begin, end);
  });
}

void many_rows(const Weight& w, const Rows& x, float* y, size_t begin, size_t end, float* panel) {
  with_reader(w, [&]<class Reader>() { many<Reader>(w, x, y, begin, end, panel); });
}

} // namespace

extern const MatmulTable matmul_table{stride, arrange, few_rows, many_rows, most_few};

} // namespace mlx_llamba::SIMD_LEVEL
