#include "softmax.h"

#include "c_api.h"
#include "op.h"
#include "pool.h"

namespace mlx_llamba {
namespace {

// Some microseconds of work for a thread.
constexpr std::size_t GRAIN = 8192;

// Runs `f(at)` for the place of every row of n elements.
template <class F>
void by_row(std::size_t size, std::size_t n, const F& f) {
  if (n == 0) return;
  parallel_ranges(size / n, (GRAIN + n - 1) / n, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; row++) f(row * n);
  });
}

// The result y (.., n) and the gradient with respect to it, to that with respect to the scores.
class SoftmaxSlopes : public Op {
 public:
  using Op::Op;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    const float *y = inputs[0].data<float>(), *slope = inputs[1].data<float>();
    float* out = outputs[0].data<float>();
    const std::size_t n = static_cast<std::size_t>(inputs[0].shape(-1)), size = inputs[0].size();
    enqueue([=] { by_row(size, n, [&](std::size_t at) { softmax_table().slopes(y + at, slope + at, out + at, n); }); });
  }

  const char* name() const override {
    return "LlambaSoftmaxSlopes";
  }

  bool is_equivalent(const Primitive& other) const override {
    return dynamic_cast<const SoftmaxSlopes*>(&other);
  }
};

// Scores (.., n) to their softmax over the last axis.
class Softmax : public Op {
 public:
  using Op::Op;

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
    return {array(
        outputs[0].shape(),
        mlx::core::float32,
        std::make_shared<SoftmaxSlopes>(stream()),
        {outputs[0], contiguous(cotangents[0], stream())})};
  }

  const char* name() const override {
    return "LlambaSoftmax";
  }

  bool is_equivalent(const Primitive& other) const override {
    return dynamic_cast<const Softmax*>(&other);
  }
};

} // namespace
} // namespace mlx_llamba

using namespace mlx_llamba;

// x (.., n) float32 -> (.., n). The caller has checked the dtype and that there is an axis.
extern "C" int mlx_llamba_softmax(void** out, const void* x, const void* stream_handle) {
  return guard([&] {
    const auto stream = stream_from_handle(stream_handle);
    const array input = contiguous(from_handle(x), stream);
    *out = to_handle(array(input.shape(), mlx::core::float32, std::make_shared<Softmax>(stream), {input}));
  });
}
