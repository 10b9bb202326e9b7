#include "adamw.h"

#include <cstring>

#include "c_api.h"
#include "op.h"
#include "pool.h"

namespace mlx_llamba {
namespace {

// Parameter, gradient and the two moments, of one shape, to the new parameter and moments.
class AdamWStep : public Op {
 public:
  AdamWStep(mlx::core::Stream stream, const AdamW& how) : Op(stream), how_(how) {}

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    for (array& out : outputs) allocate(out);
    const float *p = inputs[0].data<float>(), *g = inputs[1].data<float>();
    const float *m = inputs[2].data<float>(), *v = inputs[3].data<float>();
    float *new_p = outputs[0].data<float>(), *new_m = outputs[1].data<float>(), *new_v = outputs[2].data<float>();
    const std::size_t size = inputs[0].size();
    enqueue([=, how = how_] {
      parallel_ranges(size, 8192, [&](std::size_t begin, std::size_t end) {
        adamw_table().step(how, p, g, m, v, new_p, new_m, new_v, begin, end);
      });
    });
  }

  const char* name() const override {
    return "LlambaAdamW";
  }

  bool is_equivalent(const Primitive& other) const override {
    const auto* same = dynamic_cast<const AdamWStep*>(&other);
    return same && std::memcmp(&same->how_, &how_, sizeof how_) == 0;
  }

 private:
  AdamW how_;
};

} // namespace
} // namespace mlx_llamba

using namespace mlx_llamba;

// Four arrays of one shape, float32. Writes three of that shape. `how` are the fields of AdamW in
// their order. The caller has checked shapes and dtypes.
extern "C" int mlx_llamba_adamw(
    void** out, const void* parameter, const void* gradient, const void* m, const void* v, const float* how,
    const void* stream_handle) {
  return guard([&] {
    const auto stream = stream_from_handle(stream_handle);
    std::vector<array> inputs;
    for (const void* input : {parameter, gradient, m, v}) inputs.push_back(contiguous(from_handle(input), stream));
    const AdamW fields{how[0], how[1], how[2], how[3], how[4], how[5], how[6]};
    const auto shape = inputs[0].shape();
    const auto outputs = array::make_arrays(
        {shape, shape, shape}, {mlx::core::float32, mlx::core::float32, mlx::core::float32},
        std::make_shared<AdamWStep>(stream, fields), inputs);
    for (std::size_t i = 0; i < 3; i++) out[i] = to_handle(outputs[i]);
  });
}
