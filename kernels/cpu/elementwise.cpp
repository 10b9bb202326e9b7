#include "elementwise.h"

#include <cstring>

#include "c_api.h"
#include "op.h"
#include "pool.h"

namespace mlx_llamba {
namespace {

// Elements that one thread handles in some microseconds: less is not worth sharing.
constexpr std::size_t GRAIN = 8192;

// gate_up (.., 2m) to (.., m).
class Swiglu : public Op {
 public:
  using Op::Op;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    const float* gate_up = inputs[0].data<float>();
    float* out = outputs[0].data<float>();
    const std::size_t size = outputs[0].size(), m = static_cast<std::size_t>(outputs[0].shape(-1));
    enqueue([gate_up, out, size, m] {
      parallel_ranges(size, GRAIN, [&](std::size_t begin, std::size_t end) {
        elementwise_table().swiglu(gate_up, out, m, begin, end);
      });
    });
  }

  const char* name() const override {
    return "LlambaSwiglu";
  }

  bool is_equivalent(const Primitive& other) const override {
    return dynamic_cast<const Swiglu*>(&other);
  }
};

// x, y (.., d) and weight (d,) to x + y and its norm; without y to the norm of x alone.
class AddRmsNorm : public Op {
 public:
  AddRmsNorm(mlx::core::Stream stream, float epsilon) : Op(stream), epsilon_(epsilon) {}

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    for (array& out : outputs) allocate(out);
    const bool adds = outputs.size() == 2;
    const float* x = inputs[0].data<float>();
    const float* y = adds ? inputs[1].data<float>() : nullptr;
    const float* weight = inputs.back().data<float>();
    float* sum = adds ? outputs.front().data<float>() : nullptr;
    float* normed = outputs.back().data<float>();
    const std::size_t d = inputs.back().size(), rows = d ? inputs[0].size() / d : 0;
    enqueue([=, epsilon = epsilon_] {
      parallel_ranges(rows, (GRAIN + d - 1) / (d ? d : 1), [&](std::size_t begin, std::size_t end) {
        for (std::size_t at = begin * d; at < end * d; at += d) {
          elementwise_table().add_rms_norm(
              x + at, y ? y + at : nullptr, weight, epsilon, sum ? sum + at : nullptr, normed + at, d);
        }
      });
    });
  }

  const char* name() const override {
    return "LlambaAddRmsNorm";
  }

  bool is_equivalent(const Primitive& other) const override {
    const auto* norm = dynamic_cast<const AddRmsNorm*>(&other);
    return norm && std::memcmp(&norm->epsilon_, &epsilon_, sizeof epsilon_) == 0;
  }

 private:
  float epsilon_;
};

} // namespace
} // namespace mlx_llamba

using namespace mlx_llamba;

// gate_up (.., 2m) float32 -> (.., m). The caller has checked shape and dtype.
extern "C" int mlx_llamba_swiglu(void** out, const void* gate_up, const void* stream_handle) {
  return guard([&] {
    const auto stream = stream_from_handle(stream_handle);
    const array input = contiguous(from_handle(gate_up), stream);
    auto shape = input.shape();
    shape.back() /= 2;
    *out = to_handle(array(std::move(shape), mlx::core::float32, std::make_shared<Swiglu>(stream), {input}));
  });
}

// x, y (.., d), weight (d,), float32. Writes x + y and its norm; with y null only the norm of x.
// The caller has checked shapes and dtypes.
extern "C" int mlx_llamba_add_rms_norm(
    void** out, const void* x, const void* y, const void* weight, float epsilon, const void* stream_handle) {
  return guard([&] {
    const auto stream = stream_from_handle(stream_handle);
    std::vector<array> inputs;
    for (const void* input : {x, y, weight}) {
      if (input) inputs.push_back(contiguous(from_handle(input), stream));
    }
    const auto norm = std::make_shared<AddRmsNorm>(stream, epsilon);
    const std::size_t count = y ? 2 : 1;
    const std::vector<mlx::core::Shape> shapes(count, inputs[0].shape());
    const std::vector<mlx::core::Dtype> dtypes(count, mlx::core::float32);
    const auto outputs = array::make_arrays(shapes, dtypes, norm, inputs);
    for (std::size_t i = 0; i < count; i++) out[i] = to_handle(outputs[i]);
  });
}
