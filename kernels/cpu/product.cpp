#include "product.h"

#include <algorithm>

#include "pool.h"

namespace mlx_llamba {
namespace {

// Rows of x that are arranged at a time: few enough to stay in the cache, and enough that weights are
// seldom unpacked.
constexpr size_t ROWS_AT_ONCE = 512;

// The same for rows rounded to int8, which stay in the second-level cache for all outputs.
constexpr size_t INT8_ROWS_AT_ONCE = 64;

// Rows up to which a packed matrix is multiplied as it is unpacked.
constexpr size_t PACKED_FEW = 8;

// Multiply-adds below which waking other threads does not pay.
constexpr size_t SMALL = 1 << 14;

Format format_of(const array& a) {
  if (a.dtype() == mlx::core::float16) return Format::f16;
  return a.dtype() == mlx::core::bfloat16 ? Format::bf16 : Format::f32;
}

} // namespace

Weight weight_of(const array* parts, const mlx_llamba_coding& coding) {
  const bool dense = coding.bits == 0;
  const array& floats = parts[dense ? 0 : 1];
  return {
      .values = parts[0].data<char>(),
      .scales = dense ? nullptr : parts[1].data<char>(),
      .biases = dense ? nullptr : parts[2].data<char>(),
      .format = format_of(floats),
      .bits = coding.bits,
      .group = static_cast<size_t>(coding.group),
      .in = static_cast<size_t>(floats.shape(1)) * static_cast<size_t>(dense ? 1 : coding.group),
      .out = static_cast<size_t>(coding.packed ? coding.packed : parts[0].shape(0)),
  };
}

PlainProduct::PlainProduct(const Stream& stream, const Weight& w, const float* x, float* y, size_t rows)
    : w(w), x(x), y(y), rows(rows),
      scratch(
          stream, std::min(rows, ROWS_AT_ONCE) * stride, few() ? 0 : PANEL_FLOATS,
          few() ? 0 : static_cast<size_t>(threads())) {}

bool PlainProduct::few() const {
  return rows <= kernels.most_few(w);
}

void PlainProduct::operator()() const {
  float* arranged = scratch.shared();
  // Whole tiles of the kernels, and enough of them for every thread.
  const size_t share = (w.out / static_cast<size_t>(threads()) + 23) / 24 * 24;
  const size_t panel = std::clamp<size_t>(share, 24, PANEL);
  for (size_t done = 0; done < rows; done += ROWS_AT_ONCE) {
    const Rows part{arranged, std::min(rows - done, ROWS_AT_ONCE), stride};
    const float* from = x + done * w.in;
    float* to = y + done * w.out;
    if (part.rows <= 8) {
      kernels.arrange(w, from, arranged, 0, part.rows);
    } else {
      parallel_ranges(part.rows, 4, [&](size_t begin, size_t end) { kernels.arrange(w, from, arranged, begin, end); });
    }
    if (few()) {
      const size_t grain = w.in * w.out < SMALL ? w.out : 24;
      parallel_ranges(w.out, grain, [&](size_t begin, size_t end) { kernels.few(w, part, to, begin, end); });
    } else {
      parallel((w.out + panel - 1) / panel, [&](size_t task) {
        const Scratch::Piece memory(scratch);
        const size_t begin = task * panel;
        kernels.many(w, part, to, begin, std::min(begin + panel, w.out), memory.get());
      });
    }
  }
}

PackedProduct::PackedProduct(
    const Stream& stream, const Weight& w, bool int8, const float* x, float* y, size_t rows)
    : w(w), int8(int8), kernels(packed_table(int8)), x(x), y(y), rows(rows),
      at_once(int8 ? INT8_ROWS_AT_ONCE : ROWS_AT_ONCE), many(!int8 && rows > PACKED_FEW),
      scratch(
          stream, std::min(rows, at_once) * prepared_layout(w, int8).stride / sizeof(float),
          many ? PACKED_PANEL_FLOATS : 0, many ? static_cast<size_t>(threads()) : 0) {}

void PackedProduct::operator()() const {
  char* prepared = reinterpret_cast<char*>(scratch.shared());
  const size_t grain = w.in * w.out < SMALL ? tiles(w) : PACKED_PANEL / TILE;
  for (size_t done = 0; done < rows; done += at_once) {
    const Prepared part{prepared, std::min(rows - done, at_once)};
    const float* from = x + done * w.in;
    float* to = y + done * w.out;
    const size_t rows_each = part.rows * w.in < SMALL ? part.rows : 1;
    parallel_ranges(part.rows, rows_each, [&](size_t begin, size_t end) {
      kernels.prepare(w, int8, from, prepared, begin, end);
    });
    parallel_ranges(tiles(w), grain, [&](size_t begin, size_t end) {
      if (int8) {
        kernels.multiply_int8(w, part, to, begin, end);
      } else if (many) {
        const Scratch::Piece panel(scratch);
        kernels.multiply_many(w, part, to, begin, end, panel.get());
      } else {
        kernels.multiply(w, part, to, begin, end);
      }
    });
  }
}

Product::Product(
    const Stream& stream, const Weight& w, const mlx_llamba_coding& coding, bool int8, const float* x, float* y,
    size_t rows)
    : product_([&]() -> std::variant<PlainProduct, PackedProduct> {
        if (coding.packed) return PackedProduct(stream, w, int8, x, y, rows);
        return PlainProduct(stream, w, x, y, rows);
      }()) {}

} // namespace mlx_llamba
