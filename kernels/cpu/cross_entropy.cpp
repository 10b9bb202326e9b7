#include "cross_entropy.h"

#include "op.h"
#include "pool.h"

namespace mlx_llamba {
namespace {

// Logits (m, v), and maybe a teacher's, to gradients (m, v) and sums (m, 3). Has no gradient: it is
// one.
class CrossEntropy : public OpOf<CrossEntropy, Comparison> {
 public:
  static constexpr const char* NAME = "LlambaCrossEntropy";
  using OpOf::OpOf;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    for (array& out : outputs) allocate(out);
    const float* logits = inputs[0].data<float>();
    const float* teacher = inputs.size() == 2 ? inputs[1].data<float>() : nullptr;
    float* gradients = outputs[0].data<float>();
    float* sums = outputs[1].data<float>();
    const std::size_t v = static_cast<std::size_t>(inputs[0].shape(-1)), m = inputs[0].size() / v;
    enqueue([=, how = settings_] {
      parallel_ranges(m, 1, [&](std::size_t begin, std::size_t end) {
        for (std::size_t row = begin; row < end; row++) {
          cross_entropy_table().compare(
              logits + row * v, teacher ? teacher + row * v : nullptr, how, gradients + row * v, sums + row * 3, v);
        }
      });
    });
  }
};

} // namespace
} // namespace mlx_llamba

using namespace mlx_llamba;

int mlx_llamba_cross_entropy(
    const mlx_llamba_cross_entropy_args* args, const mlx_llamba_stream* handle, mlx_llamba_array** out) {
  return guard([&] {
    const Stream stream = from_handle(handle);
    std::vector<array> inputs{input(args->logits, stream)};
    if (args->teacher) inputs.push_back(input(args->teacher, stream));
    const auto shape = inputs[0].shape();
    give(outputs_of({shape, {shape[0], 3}}, std::make_shared<CrossEntropy>(stream, args->how), inputs), out);
  });
}
