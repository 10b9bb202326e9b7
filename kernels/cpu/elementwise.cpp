#include "elementwise.h"

#include "mlx/ops.h"
#include "op.h"
#include "pool.h"

namespace mlx_llamba {

void swiglu(const float* gate, const float* up, size_t stride, float* out, size_t m, size_t size) {
  parallel_ranges(size, GRAIN, [&](std::size_t begin, std::size_t end) {
    elementwise_table().swiglu(gate, up, stride, out, m, begin, end);
  });
}

void add_rms_norm(
    const float* x, const float* y, const float* weight, float epsilon, float* sum, float* normed, size_t rows, size_t d) {
  parallel_ranges(rows, (GRAIN + d - 1) / (d ? d : 1), [&](std::size_t begin, std::size_t end) {
    for (std::size_t at = begin * d; at < end * d; at += d) {
      elementwise_table().add_rms_norm(
          x + at, y ? y + at : nullptr, weight, epsilon, sum ? sum + at : nullptr, normed + at, d);
    }
  });
}

namespace {

// Picks the gradients that are asked for.
std::vector<array> chosen(const std::vector<array>& gradients, const std::vector<int>& argnums) {
  std::vector<array> chosen;
  for (const int i : argnums) chosen.push_back(gradients[static_cast<std::size_t>(i)]);
  return chosen;
}

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
class SwigluGradient : public OpOf<SwigluGradient> {
 public:
  static constexpr const char* NAME = "LlambaSwigluGradient";
  using OpOf::OpOf;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    for (array& out : outputs) allocate(out);
    const bool two = outputs.size() == 2;
    const Gate from(inputs[0], two ? &inputs[1] : nullptr);
    const float* d_out = inputs.back().data<float>();
    float* d_gate = outputs[0].data<float>();
    float* d_up = two ? outputs[1].data<float>() : d_gate + from.m;
    const std::size_t size = inputs.back().size();
    enqueue([=] {
      parallel_ranges(size, GRAIN, [&](std::size_t begin, std::size_t end) {
        elementwise_table().swiglu_gradient(
            from.gate, from.up, from.stride, d_out, d_gate, d_up, from.m, begin, end);
      });
    });
  }
};

// gate_up (.., 2m), or gate and up (.., m), to (.., m).
class Swiglu : public OpOf<Swiglu> {
 public:
  static constexpr const char* NAME = "LlambaSwiglu";
  using OpOf::OpOf;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    const Gate from(inputs[0], inputs.size() == 2 ? &inputs[1] : nullptr);
    float* out = outputs[0].data<float>();
    const std::size_t size = outputs[0].size();
    enqueue([=] { swiglu(from.gate, from.up, from.stride, out, from.m, size); });
  }

  std::vector<array> vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                         const std::vector<int>& argnums, const std::vector<array>&) override {
    std::vector<array> inputs = primals;
    inputs.push_back(contiguous(cotangents[0], stream()));
    std::vector<mlx::core::Shape> shapes;
    for (const array& primal : primals) shapes.push_back(primal.shape());
    return chosen(outputs_of(shapes, std::make_shared<SwigluGradient>(stream()), inputs), argnums);
  }
};

// e^x
class Exp : public OpOf<Exp> {
 public:
  static constexpr const char* NAME = "LlambaExp";
  using OpOf::OpOf;

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
};

// The sum (.., d), weight (d,), the gradient with respect to the norm, and maybe one with respect to
// the sum: to the whole gradient with respect to the sum, and an array whose rows add up to the
// weight's.
class RmsNormGradient : public OpOf<RmsNormGradient, float> {
 public:
  static constexpr const char* NAME = "LlambaRmsNormGradient";
  using OpOf::OpOf;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    for (array& out : outputs) allocate(out);
    const float* sum = inputs[0].data<float>();
    const float* weight = inputs[1].data<float>();
    const float* d_normed = inputs[2].data<float>();
    const float* d_later = inputs.size() == 4 ? inputs[3].data<float>() : nullptr;
    float* d_sum = outputs[0].data<float>();
    float* scaled = outputs[1].data<float>();
    const std::size_t d = inputs[1].size(), rows = d ? inputs[0].size() / d : 0;
    enqueue([=, epsilon = settings_] {
      parallel_ranges(rows, (GRAIN + d - 1) / (d ? d : 1), [&](std::size_t begin, std::size_t end) {
        for (std::size_t at = begin * d; at < end * d; at += d) {
          elementwise_table().rms_norm_gradient(
              sum + at, weight, epsilon, d_normed + at, d_later ? d_later + at : nullptr, d_sum + at, scaled + at, d);
        }
      });
    });
  }
};

// x, y (.., d) and weight (d,) to x + y and its norm; without y to the norm of x alone.
class AddRmsNorm : public OpOf<AddRmsNorm, float> {
 public:
  static constexpr const char* NAME = "LlambaAddRmsNorm";
  using OpOf::OpOf;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    for (array& out : outputs) allocate(out);
    const bool adds = outputs.size() == 2;
    const float* x = inputs[0].data<float>();
    const float* y = adds ? inputs[1].data<float>() : nullptr;
    const float* weight = inputs.back().data<float>();
    float* sum = adds ? outputs.front().data<float>() : nullptr;
    float* normed = outputs.back().data<float>();
    const std::size_t d = inputs.back().size(), rows = d ? inputs[0].size() / d : 0;
    enqueue([=, epsilon = settings_] { add_rms_norm(x, y, weight, epsilon, sum, normed, rows, d); });
  }

  std::vector<array> vjp(const std::vector<array>& primals, const std::vector<array>& cotangents,
                         const std::vector<int>& argnums, const std::vector<array>& outputs) override {
    const bool adds = outputs.size() == 2;
    std::vector<array> inputs{adds ? outputs[0] : primals[0], primals.back(),
                              contiguous(cotangents.back(), stream())};
    if (adds) inputs.push_back(contiguous(cotangents[0], stream()));
    const auto gradients = outputs_of(
        {inputs[0].shape(), inputs[0].shape()}, std::make_shared<RmsNormGradient>(stream(), settings_), inputs);
    std::vector<int> rows;
    for (int axis = 0; axis + 1 < static_cast<int>(gradients[1].ndim()); axis++) rows.push_back(axis);
    const array d_weight = mlx::core::sum(gradients[1], rows, false, stream());
    return chosen(adds ? std::vector<array>{gradients[0], gradients[0], d_weight}
                       : std::vector<array>{gradients[0], d_weight},
                  argnums);
  }
};

} // namespace
} // namespace mlx_llamba

using namespace mlx_llamba;

int mlx_llamba_swiglu(const mlx_llamba_array* gate_up, const mlx_llamba_stream* handle, mlx_llamba_array** out) {
  return guard([&] {
    const Stream stream = from_handle(handle);
    const array both = input(gate_up, stream);
    auto shape = both.shape();
    shape.back() /= 2;
    give(outputs_of({shape}, std::make_shared<Swiglu>(stream), {both}), out);
  });
}

int mlx_llamba_gate(const mlx_llamba_gate_args* args, const mlx_llamba_stream* handle, mlx_llamba_array** out) {
  return guard([&] {
    const Stream stream = from_handle(handle);
    const array gate = input(args->gate, stream), up = input(args->up, stream);
    give(outputs_of({gate.shape()}, std::make_shared<Swiglu>(stream), {gate, up}), out);
  });
}

int mlx_llamba_exp(const mlx_llamba_array* x, const mlx_llamba_stream* handle, mlx_llamba_array** out) {
  return guard([&] {
    const Stream stream = from_handle(handle);
    const array from = input(x, stream);
    give(outputs_of({from.shape()}, std::make_shared<Exp>(stream), {from}), out);
  });
}

int mlx_llamba_rms_norm(
    const mlx_llamba_rms_norm_args* args, const mlx_llamba_stream* handle, mlx_llamba_array** out) {
  return guard([&] {
    const Stream stream = from_handle(handle);
    std::vector<array> inputs;
    for (const auto* one : {args->x, args->y, args->weight}) {
      if (one) inputs.push_back(input(one, stream));
    }
    const std::vector<mlx::core::Shape> shapes(args->y ? 2 : 1, inputs[0].shape());
    give(outputs_of(shapes, std::make_shared<AddRmsNorm>(stream, args->epsilon), inputs), out);
  });
}
