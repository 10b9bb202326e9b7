#include "elementwise.h"

#include <cstring>

#include "c_api.h"
#include "mlx/ops.h"
#include "op.h"
#include "pool.h"

namespace mlx_llamba {
namespace {

// Those of the gradients that are asked for.
std::vector<array> chosen(const std::vector<array>& slopes, const std::vector<int>& argnums) {
  std::vector<array> chosen;
  for (const int i : argnums) chosen.push_back(slopes[static_cast<std::size_t>(i)]);
  return chosen;
}

// Elements that one thread handles in some microseconds: less is not worth sharing.
constexpr std::size_t GRAIN = 8192;

// The two inputs of a gate: side by side in one array (.., 2m), or two arrays (.., m).
struct Gate {
  const float *gate, *up;
  std::size_t m, stride;

  Gate(const array& first, const array* second) : gate(first.data<float>()) {
    stride = static_cast<std::size_t>(first.shape(-1));
    m = second ? stride : stride / 2;
    up = second ? second->data<float>() : gate + m;
  }
};

// Gate, up and the gradient (.., m) with respect to Swiglu's result, to those with respect to gate
// and up, in arrays like theirs.
class SwigluSlopes : public Op {
 public:
  using Op::Op;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    for (array& out : outputs) allocate(out);
    const bool two = outputs.size() == 2;
    const Gate from(inputs[0], two ? &inputs[1] : nullptr);
    const float* slope = inputs.back().data<float>();
    float* by_gate = outputs[0].data<float>();
    float* by_up = two ? outputs[1].data<float>() : by_gate + from.m;
    const std::size_t size = inputs.back().size();
    enqueue([=] {
      parallel_ranges(size, GRAIN, [&](std::size_t begin, std::size_t end) {
        elementwise_table().swiglu_slopes(
            from.gate, from.up, from.stride, slope, by_gate, by_up, from.m, begin, end);
      });
    });
  }

  const char* name() const override {
    return "LlambaSwigluSlopes";
  }

  bool is_equivalent(const Primitive& other) const override {
    return dynamic_cast<const SwigluSlopes*>(&other);
  }
};

// gate_up (.., 2m), or gate and up (.., m), to (.., m).
class Swiglu : public Op {
 public:
  using Op::Op;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    const Gate from(inputs[0], inputs.size() == 2 ? &inputs[1] : nullptr);
    float* out = outputs[0].data<float>();
    const std::size_t size = outputs[0].size();
    enqueue([=] {
      parallel_ranges(size, GRAIN, [&](std::size_t begin, std::size_t end) {
        elementwise_table().swiglu(from.gate, from.up, from.stride, out, from.m, begin, end);
      });
    });
  }

  std::vector<array> vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                         const std::vector<int>& argnums, const std::vector<array>&) override {
    std::vector<array> inputs = primals;
    inputs.push_back(contiguous(cotangents[0], stream()));
    std::vector<mlx::core::Shape> shapes;
    for (const array& primal : primals) shapes.push_back(primal.shape());
    const std::vector<mlx::core::Dtype> dtypes(shapes.size(), mlx::core::float32);
    const auto slopes =
        array::make_arrays(shapes, dtypes, std::make_shared<SwigluSlopes>(stream()), inputs);
    return chosen(slopes, argnums);
  }

  const char* name() const override {
    return "LlambaSwiglu";
  }

  bool is_equivalent(const Primitive& other) const override {
    return dynamic_cast<const Swiglu*>(&other);
  }
};

// e^x
class Exp : public Op {
 public:
  using Op::Op;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    const float* x = inputs[0].data<float>();
    float* out = outputs[0].data<float>();
    const std::size_t size = outputs[0].size();
    enqueue([=] {
      parallel_ranges(size, GRAIN, [&](std::size_t begin, std::size_t end) {
        elementwise_table().exp(x, out, begin, end);
      });
    });
  }

  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>& cotangents,
                         const std::vector<int>&, const std::vector<array>& outputs) override {
    return {mlx::core::multiply(cotangents[0], outputs[0], stream())};
  }

  const char* name() const override {
    return "LlambaExp";
  }

  bool is_equivalent(const Primitive& other) const override {
    return dynamic_cast<const Exp*>(&other);
  }
};

// The row `sum` (.., d), weight (d,), the gradient with respect to the norm, and maybe that with
// respect to the sum: to the gradient with respect to the sum, and what adds up to the weight's.
class RmsNormSlopes : public Op {
 public:
  RmsNormSlopes(mlx::core::Stream stream, float epsilon) : Op(stream), epsilon_(epsilon) {}

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    for (array& out : outputs) allocate(out);
    const float* sum = inputs[0].data<float>();
    const float* weight = inputs[1].data<float>();
    const float* slope = inputs[2].data<float>();
    const float* by_sum = inputs.size() == 4 ? inputs[3].data<float>() : nullptr;
    float* out = outputs[0].data<float>();
    float* scaled = outputs[1].data<float>();
    const std::size_t d = inputs[1].size(), rows = d ? inputs[0].size() / d : 0;
    enqueue([=, epsilon = epsilon_] {
      parallel_ranges(rows, (GRAIN + d - 1) / (d ? d : 1), [&](std::size_t begin, std::size_t end) {
        for (std::size_t at = begin * d; at < end * d; at += d) {
          elementwise_table().rms_norm_slopes(
              sum + at, weight, epsilon, slope + at, by_sum ? by_sum + at : nullptr, out + at, scaled + at, d);
        }
      });
    });
  }

  const char* name() const override {
    return "LlambaRmsNormSlopes";
  }

  bool is_equivalent(const Primitive& other) const override {
    const auto* norm = dynamic_cast<const RmsNormSlopes*>(&other);
    return norm && std::memcmp(&norm->epsilon_, &epsilon_, sizeof epsilon_) == 0;
  }

 private:
  float epsilon_;
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

  std::vector<array> vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                         const std::vector<int>& argnums, const std::vector<array>& outputs) override {
    const bool adds = outputs.size() == 2;
    std::vector<array> inputs{adds ? outputs[0] : primals[0], primals.back(),
                              contiguous(cotangents.back(), stream())};
    if (adds) inputs.push_back(contiguous(cotangents[0], stream()));
    const auto slopes = array::make_arrays(
        {inputs[0].shape(), inputs[0].shape()}, {mlx::core::float32, mlx::core::float32},
        std::make_shared<RmsNormSlopes>(stream(), epsilon_), inputs);
    std::vector<int> rows;
    for (int axis = 0; axis + 1 < static_cast<int>(slopes[1].ndim()); axis++) rows.push_back(axis);
    const array by_weight = mlx::core::sum(slopes[1], rows, false, stream());
    return chosen(adds ? std::vector<array>{slopes[0], slopes[0], by_weight}
                       : std::vector<array>{slopes[0], by_weight},
                  argnums);
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

// gate, up (.., m) float32 -> (.., m). The caller has checked shapes and dtypes.
extern "C" int mlx_llamba_gate(void** out, const void* gate, const void* up, const void* stream_handle) {
  return guard([&] {
    const auto stream = stream_from_handle(stream_handle);
    const array first = contiguous(from_handle(gate), stream), second = contiguous(from_handle(up), stream);
    *out = to_handle(
        array(first.shape(), mlx::core::float32, std::make_shared<Swiglu>(stream), {first, second}));
  });
}

// x float32 -> e^x. The caller has checked the dtype.
extern "C" int mlx_llamba_exp(void** out, const void* x, const void* stream_handle) {
  return guard([&] {
    const auto stream = stream_from_handle(stream_handle);
    const array input = contiguous(from_handle(x), stream);
    *out = to_handle(array(input.shape(), mlx::core::float32, std::make_shared<Exp>(stream), {input}));
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
