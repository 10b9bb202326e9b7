#include "matmul.h"

#include <algorithm>
#include <vector>

#include "int8.h"
#include "op.h"
#include "pool.h"

namespace mlx_llamba {
namespace {

// Rows of x that are arranged at a time: few enough to stay in the cache, and enough that weights are
// seldom unpacked.
constexpr size_t ROWS_AT_ONCE = 512;

// The same for rows rounded to int8, which stay in the second-level cache for all outputs.
constexpr size_t INT8_ROWS_AT_ONCE = 64;

// Multiply-adds below which waking other threads does not pay.
constexpr size_t SMALL = 1 << 14;

Format format_of(const array& a) {
  if (a.dtype() == mlx::core::float16) return Format::f16;
  return a.dtype() == mlx::core::bfloat16 ? Format::bf16 : Format::f32;
}

// y (rows, out) = x (rows, in) W^T on all threads.
struct Multiplication {
  const MatmulTable& kernels = matmul_table();
  Weight w;
  const float* x;
  float* y;
  size_t rows;
  size_t stride = kernels.stride(w);
  // Rows of x as the kernels read them, and a panel of unpacked weights for every thread.
  Scratch scratch;

  Multiplication(const Stream& stream, const Weight& w, const float* x, float* y, size_t rows)
      : w(w), x(x), y(y), rows(rows),
        scratch(
            stream, std::min(rows, ROWS_AT_ONCE) * stride, few() ? 0 : PANEL_FLOATS,
            few() ? 0 : static_cast<size_t>(threads())) {}

  bool few() const {
    return rows <= kernels.most_few(w);
  }

  void operator()() const {
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
};

// The compilation for AVX-512 uses VNNI instructions: a processor without them takes the one for
// AVX2, which gives the same bits.
const Int8Table& int8_table() {
#if defined(__x86_64__)
  static const bool vnni = __builtin_cpu_supports("avx512vnni");
  if (level() == Level::avx512 && !vnni) return avx2::int8_level_table;
#endif
  return int8_level_table();
}

// The same with activations rounded to int8, of a matrix that `has_int8` (see `int8.h`).
struct Int8Multiplication {
  const Int8Table& kernels = int8_table();
  Weight w;
  const float* x;
  float* y;
  size_t rows;
  Scratch scratch; // rounded rows

  Int8Multiplication(const Stream& stream, const Weight& w, const float* x, float* y, size_t rows)
      : w(w), x(x), y(y), rows(rows),
        scratch(stream, std::min(rows, INT8_ROWS_AT_ONCE) * int8_layout(w).stride / sizeof(float)) {}

  void operator()() const {
    char* rounded = reinterpret_cast<char*>(scratch.shared());
    for (size_t done = 0; done < rows; done += INT8_ROWS_AT_ONCE) {
      const Int8Rows part{rounded, std::min(rows - done, INT8_ROWS_AT_ONCE)};
      const float* from = x + done * w.in;
      float* to = y + done * w.out;
      const size_t rows_each = part.rows * w.in < SMALL ? part.rows : 1;
      parallel_ranges(
          part.rows, rows_each, [&](size_t begin, size_t end) { kernels.round(w, from, rounded, begin, end); });
      const size_t grain = w.in * w.out < SMALL ? w.out : 24;
      parallel_ranges(w.out, grain, [&](size_t begin, size_t end) { kernels.multiply(w, part, to, begin, end); });
    }
  }
};

// (.., n), read as (m, n), to (n, m). MLX's own copy reads or writes one of the two in strides.
class Transpose : public OpOf<Transpose> {
 public:
  static constexpr const char* NAME = "LlambaTranspose";
  using OpOf::OpOf;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    const float* from = inputs[0].data<float>();
    float* to = outputs[0].data<float>();
    const size_t n = static_cast<size_t>(outputs[0].shape(0)), m = static_cast<size_t>(outputs[0].shape(1));
    enqueue([from, to, m, n] {
      // Blocks of whole cache lines.
      constexpr size_t BLOCK = 16;
      parallel_ranges(n, BLOCK, [&](size_t begin, size_t end) {
        for (size_t row = 0; row < m; row += BLOCK) {
          for (size_t column = begin; column < end; column += BLOCK) {
            for (size_t j = column; j < std::min(column + BLOCK, end); j++) {
              for (size_t i = row; i < std::min(row + BLOCK, m); i++) to[j * m + i] = from[i * n + j];
            }
          }
        }
      });
    });
  }
};

array transpose(const array& a, Stream stream) {
  const int n = a.shape(-1), m = n ? static_cast<int>(a.size() / static_cast<size_t>(n)) : 0;
  return outputs_of({{n, m}}, std::make_shared<Transpose>(stream), {contiguous(a, stream)})[0];
}

struct MatmulSettings {
  int bits, group; // 0 for a dense weight
  int int8;
};

std::vector<array> product(const std::vector<array>& inputs, MatmulSettings settings, Stream stream);

// Inputs: x (.., in) f32, then the weight (out, in), or the packed weight with its scales and biases.
class Matmul : public OpOf<Matmul, MatmulSettings> {
 public:
  static constexpr const char* NAME = "LlambaMatmul";
  using OpOf::OpOf;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    const Weight w = describe(inputs);
    const float* x = inputs[0].data<float>();
    float* y = outputs[0].data<float>();
    const size_t size = outputs[0].size();
    if (w.in == 0 || size == 0) {
      enqueue([=] { std::fill_n(y, size, 0.0f); });
    } else if (settings_.int8) {
      enqueue(Int8Multiplication(stream(), w, x, y, size / w.out));
    } else {
      enqueue(Multiplication(stream(), w, x, y, size / w.out));
    }
  }

  // Of a dense float32 W: dx = dy W, and dW (out, in) = dy^T x.
  std::vector<array> vjp(
      const std::vector<array>& primals,
      const std::vector<array>& cotangents,
      const std::vector<int>& argnums,
      const std::vector<array>&) override {
    if (primals.size() != 2 || primals[1].dtype() != mlx::core::float32) {
      throw std::invalid_argument("LlambaMatmul has gradients for dense float32 weights only");
    }
    const array &x = primals[0], &w = primals[1], &dy = cotangents[0];
    std::vector<array> gradients;
    for (const int i : argnums) {
      gradients.push_back(i == 0
          ? product({contiguous(dy, stream()), transpose(w, stream())}, {}, stream())[0]
          : product({transpose(dy, stream()), transpose(x, stream())}, {}, stream())[0]);
    }
    return gradients;
  }

 private:
  Weight describe(const std::vector<array>& inputs) const {
    const bool quantized = inputs.size() > 2;
    return {
        .values = inputs[1].data<char>(),
        .scales = quantized ? inputs[2].data<char>() : nullptr,
        .biases = quantized ? inputs[3].data<char>() : nullptr,
        .format = format_of(inputs[quantized ? 2 : 1]),
        .bits = settings_.bits,
        .group = static_cast<size_t>(settings_.group),
        .in = static_cast<size_t>(inputs[0].shape(-1)),
        .out = static_cast<size_t>(inputs[1].shape(0)),
    };
  }
};

std::vector<array> product(const std::vector<array>& inputs, MatmulSettings settings, Stream stream) {
  auto shape = inputs[0].shape();
  shape.back() = inputs[1].shape(0);
  return outputs_of({shape}, std::make_shared<Matmul>(stream, settings), inputs);
}

} // namespace
} // namespace mlx_llamba

using namespace mlx_llamba;

int mlx_llamba_matmul(const mlx_llamba_matmul_args* args, const mlx_llamba_stream* handle, mlx_llamba_array** out) {
  return guard([&] {
    const Stream stream = from_handle(handle);
    std::vector<array> inputs;
    for (const auto* one : {args->x, args->weight, args->scales, args->biases}) {
      if (one) inputs.push_back(input(one, stream));
    }
    const int int8 = args->int8 && has_int8(args->bits);
    give(product(inputs, {args->bits, args->group, int8}, stream), out);
  });
}
