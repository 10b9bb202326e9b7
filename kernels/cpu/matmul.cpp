#include "matmul.h"

#include "c_api.h"
#include "op.h"
#include "pool.h"

namespace mlx_llamba {
namespace {

// Inputs: x (.., in) f32, then the weight (out, in), or the packed weight with its scales and biases.
class Matmul : public Op {
 public:
  Matmul(mlx::core::Stream stream, int bits, int group) : Op(stream), bits_(bits), group_(group) {}

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    Weight w = describe(inputs);
    const float* x = inputs[0].data<float>();
    float* y = outputs[0].data<float>();
    const size_t rows = inputs[0].size() / w.in;
    enqueue([w, x, y, rows] {
      parallel_ranges(w.out, 4, [&](size_t begin, size_t end) {
        matmul_table().rows(w, x, y, rows, begin, end);
      });
    });
  }

  const char* name() const override {
    return "LlambaMatmul";
  }

  bool is_equivalent(const Primitive& other) const override {
    const auto* matmul = dynamic_cast<const Matmul*>(&other);
    return matmul && matmul->bits_ == bits_ && matmul->group_ == group_;
  }

 private:
  Weight describe(const std::vector<array>& inputs) const {
    Weight w{.values = inputs[1].data<char>(), .format = Format::f32, .in = 0, .out = 0};
    w.in = inputs[0].shape(-1);
    w.out = inputs[1].shape(0);
    return w;
  }

  int bits_, group_;
};

} // namespace
} // namespace mlx_llamba

using namespace mlx_llamba;

// x (.., in) f32, weight (out, in) -> (.., out) f32. The caller has checked shapes and dtypes.
extern "C" int mlx_llamba_matmul(
    void** out,
    const void* x,
    const void* weight,
    const void* scales,
    const void* biases,
    int bits,
    int group,
    const void* stream_handle) {
  return guard([&] {
    const auto stream = stream_from_handle(stream_handle);
    std::vector<array> inputs;
    for (const void* input : {x, weight, scales, biases}) {
      if (input) inputs.push_back(contiguous(from_handle(input), stream));
    }
    auto shape = inputs[0].shape();
    shape[shape.size() - 1] = inputs[1].shape(0);
    *out = to_handle(array(
        std::move(shape), mlx::core::float32, std::make_shared<Matmul>(stream, bits, group), std::move(inputs)));
  });
}
