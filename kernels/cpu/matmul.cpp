#include "product.h"

#include <algorithm>
#include <vector>

#include "pool.h"

namespace mlx_llamba {
namespace {

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
  mlx_llamba_coding coding;
  int int8;
};

std::vector<array> product(const std::vector<array>& inputs, MatmulSettings settings, Stream stream);

// Inputs: x (.., in) f32, then the weight (out, in), or the codes with their scales and biases.
class Matmul : public OpOf<Matmul, MatmulSettings> {
 public:
  static constexpr const char* NAME = "LlambaMatmul";
  using OpOf::OpOf;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    const Weight w = weight_of(inputs.data() + 1, settings_.coding);
    const float* x = inputs[0].data<float>();
    float* y = outputs[0].data<float>();
    const size_t size = outputs[0].size();
    if (w.in == 0 || size == 0) {
      enqueue([=] { std::fill_n(y, size, 0.0f); });
    } else {
      enqueue(Product(stream(), w, settings_.coding, settings_.int8, x, y, size / w.out));
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
};

std::vector<array> product(const std::vector<array>& inputs, MatmulSettings settings, Stream stream) {
  auto shape = inputs[0].shape();
  const int packed = settings.coding.packed;
  shape.back() = packed ? packed : inputs[1].shape(0);
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
    give(product(inputs, {args->coding, args->int8}, stream), out);
  });
}
