#include "adamw.h"

#include "op.h"
#include "pool.h"

namespace mlx_llamba {
namespace {

// Parameter, gradient and the two moments, of one shape, and the gradient's scale, to the new parameter
// and moments.
class AdamWStep : public OpOf<AdamWStep, AdamW> {
 public:
  static constexpr const char* NAME = "LlambaAdamW";
  using OpOf::OpOf;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    for (array& out : outputs) allocate(out);
    const float *p = inputs[0].data<float>(), *g = inputs[1].data<float>();
    const float *m = inputs[2].data<float>(), *v = inputs[3].data<float>(), *scale = inputs[4].data<float>();
    float *new_p = outputs[0].data<float>(), *new_m = outputs[1].data<float>(), *new_v = outputs[2].data<float>();
    const std::size_t size = inputs[0].size();
    enqueue([=, how = settings_] {
      parallel_ranges(size, GRAIN, [&](std::size_t begin, std::size_t end) {
        adamw_table().step(how, *scale, p, g, m, v, new_p, new_m, new_v, begin, end);
      });
    });
  }
};

} // namespace
} // namespace mlx_llamba

using namespace mlx_llamba;

int mlx_llamba_adamw(const mlx_llamba_adamw_args* args, const mlx_llamba_stream* handle, mlx_llamba_array** out) {
  return guard([&] {
    const Stream stream = from_handle(handle);
    std::vector<array> inputs;
    for (const auto* one : {args->parameter, args->gradient, args->m, args->v, args->scale}) {
      inputs.push_back(input(one, stream));
    }
    const auto shape = inputs[0].shape();
    give(outputs_of({shape, shape, shape}, std::make_shared<AdamWStep>(stream, args->how), inputs), out);
  });
}
