#include "matmul.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "c_api.h"
#include "int8.h"
#include "op.h"
#include "pool.h"

namespace mlx_llamba {
namespace {

// Rows of x that are arranged at a time: what the outputs share stays in the cache, and weights are
// unpacked seldom enough.
constexpr size_t ROWS_AT_ONCE = 512;

// The same of rows that are rounded to int8, from which all outputs are computed: they stay in the
// second cache.
constexpr size_t INT8_ROWS_AT_ONCE = 64;

// Below so many multiply-adds the other threads are not worth the call.
constexpr size_t SMALL = 1 << 14;

// Memory of this thread that is kept between calls, on a line of its own.
float* scratch(size_t count) {
  static thread_local std::unique_ptr<float[], decltype(&std::free)> memory{nullptr, std::free};
  static thread_local size_t capacity = 0;
  if (capacity < count) {
    capacity = (count + 15) / 16 * 16;
    memory.reset(static_cast<float*>(std::aligned_alloc(64, capacity * sizeof(float))));
    if (!memory) throw std::bad_alloc();
  }
  return memory.get();
}

Format format_of(const array& a) {
  if (a.dtype() == mlx::core::float16) return Format::f16;
  return a.dtype() == mlx::core::bfloat16 ? Format::bf16 : Format::f32;
}

} // namespace

void matmul(const Weight& w, const float* x, float* y, size_t rows) {
  if (w.in == 0) std::fill_n(y, rows * w.out, 0.0f);
  if (w.in == 0 || w.out == 0) return;
  const MatmulTable& kernels = matmul_table();
  const size_t stride = kernels.stride(w);
  const bool few = rows <= kernels.most_few(w);
  float* arranged = scratch(std::min(rows, ROWS_AT_ONCE) * stride);
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
    if (few) {
      const size_t grain = w.in * w.out < SMALL ? w.out : 24;
      parallel_ranges(w.out, grain, [&](size_t begin, size_t end) { kernels.few(w, part, to, begin, end); });
    } else {
      parallel((w.out + panel - 1) / panel, [&](size_t task) {
        static thread_local std::vector<float> memory(PANEL * (PIECE + 64));
        const size_t begin = task * panel;
        kernels.many(w, part, to, begin, std::min(begin + panel, w.out), memory.data());
      });
    }
  }
}

// The compilation for AVX-512 has instructions of VNNI in it: a processor without them takes the one
// for AVX2, which gives the same bits.
const Int8Table& int8_table() {
#if defined(__x86_64__)
  static const bool vnni = __builtin_cpu_supports("avx512vnni");
  if (level() == Level::avx512 && !vnni) return avx2::int8_level_table;
#endif
  return int8_level_table();
}

void matmul_int8(const Weight& w, const float* x, float* y, size_t rows) {
  if (w.in == 0) std::fill_n(y, rows * w.out, 0.0f);
  if (w.in == 0 || w.out == 0) return;
  const Int8Table& kernels = int8_table();
  const Int8Layout layout = int8_layout(w);
  char* rounded = reinterpret_cast<char*>(scratch(std::min(rows, INT8_ROWS_AT_ONCE) * layout.stride / sizeof(float)));
  for (size_t done = 0; done < rows; done += INT8_ROWS_AT_ONCE) {
    const Int8Rows part{rounded, std::min(rows - done, INT8_ROWS_AT_ONCE)};
    const float* from = x + done * w.in;
    float* to = y + done * w.out;
    const size_t rows_each = part.rows * w.in < SMALL ? part.rows : 1;
    parallel_ranges(
        part.rows, rows_each, [&](size_t begin, size_t end) { kernels.round(w, from, rounded, begin, end); });
    const size_t grain = w.in * w.out < SMALL ? w.out : 24;
    parallel_ranges(w.out, grain, [&](size_t begin, size_t end) { kernels.products(w, part, to, begin, end); });
  }
}

namespace {

// (.., n), read as (m, n), to (n, m). MLX's own copy walks through one of the two in strides.
class Transpose : public Op {
 public:
  using Op::Op;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    const float* from = inputs[0].data<float>();
    float* to = outputs[0].data<float>();
    const size_t n = static_cast<size_t>(outputs[0].shape(0)), m = static_cast<size_t>(outputs[0].shape(1));
    enqueue([from, to, m, n] {
      // Blocks of whole lines of the cache.
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

  const char* name() const override {
    return "LlambaTranspose";
  }

  bool is_equivalent(const Primitive& other) const override {
    return dynamic_cast<const Transpose*>(&other);
  }
};

array transpose(const array& a, mlx::core::Stream stream) {
  const int n = a.shape(-1), m = n ? static_cast<int>(a.size() / static_cast<size_t>(n)) : 0;
  return array({n, m}, mlx::core::float32, std::make_shared<Transpose>(stream), {contiguous(a, stream)});
}

array product(std::vector<array> inputs, int bits, int group, bool int8, mlx::core::Stream stream);

// Inputs: x (.., in) f32, then the weight (out, in), or the packed weight with its scales and biases.
class Matmul : public Op {
 public:
  Matmul(mlx::core::Stream stream, int bits, int group, bool int8)
      : Op(stream), bits_(bits), group_(group), int8_(int8) {}

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    const Weight w = describe(inputs);
    const float* x = inputs[0].data<float>();
    float* y = outputs[0].data<float>();
    const size_t rows = w.out ? outputs[0].size() / w.out : 0;
    enqueue([product = int8_ ? matmul_int8 : matmul, w, x, y, rows] { product(w, x, y, rows); });
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
          ? product({contiguous(dy, stream()), transpose(w, stream())}, 0, 0, false, stream())
          : product({transpose(dy, stream()), transpose(x, stream())}, 0, 0, false, stream()));
    }
    return gradients;
  }

  const char* name() const override {
    return "LlambaMatmul";
  }

  bool is_equivalent(const Primitive& other) const override {
    const auto* matmul = dynamic_cast<const Matmul*>(&other);
    return matmul && matmul->bits_ == bits_ && matmul->group_ == group_ && matmul->int8_ == int8_;
  }

 private:
  Weight describe(const std::vector<array>& inputs) const {
    const bool quantized = inputs.size() > 2;
    return {
        .values = inputs[1].data<char>(),
        .scales = quantized ? inputs[2].data<char>() : nullptr,
        .biases = quantized ? inputs[3].data<char>() : nullptr,
        .format = format_of(inputs[quantized ? 2 : 1]),
        .bits = bits_,
        .group = static_cast<size_t>(group_),
        .in = static_cast<size_t>(inputs[0].shape(-1)),
        .out = static_cast<size_t>(inputs[1].shape(0)),
    };
  }

  int bits_, group_;
  bool int8_;
};

array product(std::vector<array> inputs, int bits, int group, bool int8, mlx::core::Stream stream) {
  auto shape = inputs[0].shape();
  shape[shape.size() - 1] = inputs[1].shape(0);
  return array(
      std::move(shape), mlx::core::float32, std::make_shared<Matmul>(stream, bits, group, int8), std::move(inputs));
}

} // namespace
} // namespace mlx_llamba

using namespace mlx_llamba;

// x (.., in) f32, weight (out, in) -> (.., out) f32. `int8` rounds activations where there are such
// products. The caller has checked shapes and dtypes.
extern "C" int mlx_llamba_matmul(
    void** out,
    const void* x,
    const void* weight,
    const void* scales,
    const void* biases,
    int bits,
    int group,
    int int8,
    const void* stream_handle) {
  return guard([&] {
    const auto stream = stream_from_handle(stream_handle);
    std::vector<array> inputs;
    for (const void* input : {x, weight, scales, biases}) {
      if (input) inputs.push_back(contiguous(from_handle(input), stream));
    }
    *out = to_handle(product(std::move(inputs), bits, group, int8 && has_int8(bits), stream));
  });
}
