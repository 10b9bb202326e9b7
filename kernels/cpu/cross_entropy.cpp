#include "cross_entropy.h"

#include <cstring>

#include "c_api.h"
#include "op.h"
#include "pool.h"

namespace mlx_llamba {
namespace {

// Logits (m, v), and maybe a teacher's, to slopes (m, v) and sums (m, 3). Has no gradient: it is one.
class CrossEntropy : public Op {
 public:
  CrossEntropy(mlx::core::Stream stream, Comparison how) : Op(stream), how_(how) {}

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    for (array& out : outputs) allocate(out);
    const float* logits = inputs[0].data<float>();
    const float* teacher = inputs.size() == 2 ? inputs[1].data<float>() : nullptr;
    float* slopes = outputs[0].data<float>();
    float* sums = outputs[1].data<float>();
    const std::size_t v = static_cast<std::size_t>(inputs[0].shape(-1)), m = inputs[0].size() / v;
    enqueue([=, how = how_] {
      parallel_ranges(m, 1, [&](std::size_t begin, std::size_t end) {
        for (std::size_t row = begin; row < end; row++) {
          cross_entropy_table().compare(
              logits + row * v, teacher ? teacher + row * v : nullptr, how, slopes + row * v, sums + row * 3, v);
        }
      });
    });
  }

  const char* name() const override {
    return "LlambaCrossEntropy";
  }

  bool is_equivalent(const Primitive& other) const override {
    const auto* same = dynamic_cast<const CrossEntropy*>(&other);
    return same && std::memcmp(&same->how_, &how_, sizeof how_) == 0;
  }

 private:
  Comparison how_;
};

} // namespace
} // namespace mlx_llamba

using namespace mlx_llamba;

// logits (m, v) with m, v > 0, teacher (m, v) or null, float32. Writes slopes (m, v) and sums (m, 3).
// The caller has checked shapes and dtypes.
extern "C" int mlx_llamba_cross_entropy(
    void** out, const void* logits, const void* teacher, float temperature, float teacher_weight,
    float next_weight, const void* stream_handle) {
  return guard([&] {
    const auto stream = stream_from_handle(stream_handle);
    std::vector<array> inputs{contiguous(from_handle(logits), stream)};
    if (teacher) inputs.push_back(contiguous(from_handle(teacher), stream));
    const auto op =
        std::make_shared<CrossEntropy>(stream, Comparison{temperature, teacher_weight, next_weight});
    const auto shape = inputs[0].shape();
    const auto outputs = array::make_arrays(
        {shape, {shape[0], 3}}, {mlx::core::float32, mlx::core::float32}, op, inputs);
    for (std::size_t i = 0; i < 2; i++) out[i] = to_handle(outputs[i]);
  });
}
