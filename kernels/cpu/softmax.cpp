#include "softmax.h"

#include "op.h"
#include "pool.h"

namespace mlx_llamba {
namespace {

// Runs `f(offset)` for every row of n elements.
template <class F>
void by_row(std::size_t size, std::size_t n, const F& f) {
  if (n == 0) return;
  parallel_ranges(size / n, (GRAIN + n - 1) / n, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; row++) f(row * n);
  });
}

// The result y (.., n) and the gradient with respect to it, to that with respect to the scores.
class SoftmaxGradient : public OpOf<SoftmaxGradient> {
 public:
  static constexpr const char* NAME = "LlambaSoftmaxGradient";
  using OpOf::OpOf;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    const float *y = inputs[0].data<float>(), *d_y = inputs[1].data<float>();
    float* out = outputs[0].data<float>();
    const std::size_t n = static_cast<std::size_t>(inputs[0].shape(-1)), size = inputs[0].size();
    enqueue([=] { by_row(size, n, [&](std::size_t at) { softmax_table().gradient(y + at, d_y + at, out + at, n); }); });
  }
};

// Scores (.., n) to their softmax over the last axis.
class Softmax : public OpOf<Softmax> {
 public:
  static constexpr const char* NAME = "LlambaSoftmax";
  using OpOf::OpOf;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    const float* x = inputs[0].data<float>();
    float* out = outputs[0].data<float>();
    const std::size_t n = static_cast<std::size_t>(inputs[0].shape(-1)), size = inputs[0].size();
    enqueue([=] { by_row(size, n, [&](std::size_t at) { softmax_table().softmax(x + at, out + at, n); }); });
  }

  std::vector<array> vjp(
      const std::vector<array>&,
      const std::vector<array>& cotangents,
      const std::vector<int>&,
      const std::vector<array>& outputs) override {
    return outputs_of(
        {outputs[0].shape()},
        std::make_shared<SoftmaxGradient>(stream()),
        {outputs[0], contiguous(cotangents[0], stream())});
  }
};

} // namespace
} // namespace mlx_llamba

using namespace mlx_llamba;

int mlx_llamba_softmax(const mlx_llamba_array* x, const mlx_llamba_stream* handle, mlx_llamba_array** out) {
  return guard([&] {
    const Stream stream = from_handle(handle);
    const array scores = input(x, stream);
    give(outputs_of({scores.shape()}, std::make_shared<Softmax>(stream), {scores}), out);
  });
}
