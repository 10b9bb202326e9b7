#include "mixer.h"

#include <cstdlib>
#include <memory>

#include "c_api.h"
#include "op.h"
#include "pool.h"

namespace mlx_llamba {
namespace {

// Multiply-adds of the recurrence (a third of them) below which waking other threads costs more
// than it saves: some 5 us of one thread.
constexpr std::ptrdiff_t WORTH_SHARING = 1 << 15;

// Memory of this thread for one head at a time; kept, because it is asked for in every layer.
float* scratch(std::size_t floats) {
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  thread_local std::unique_ptr<float, Free> memory;
  thread_local std::size_t size = 0;
  if (size < floats) {
    const std::size_t bytes = (floats * sizeof(float) + 63) / 64 * 64;
    memory.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    size = memory ? floats : 0;
  }
  return memory.get();
}

void run(const Mixer& m, std::size_t b) {
  const std::size_t h = static_cast<std::size_t>(m.h), heads = b * h;
  const MixerTable& table = mixer_table();
  const auto head = [&](std::size_t i) {
    // Without memory for a tile there is no way to report it from here, nor to go on.
    float* memory = scratch(table.scratch(m));
    if (!memory) std::abort();
    table.head(m, i / h, i % h, memory);
  };
  if (static_cast<std::ptrdiff_t>(heads) * m.l * m.p * m.n < WORTH_SHARING) {
    for (std::size_t i = 0; i < heads; i++) head(i);
  } else {
    parallel(heads, head);
  }
}

// The optional inputs, in the order in which they follow the others.
enum Optional { A_LOG = 1, LENGTHS = 2, CONV_BIAS = 4, Z_BIAS = 8 };

// Inputs: rows, conv, ssm, conv_weight, D, and the optional ones. Outputs: y, conv, ssm.
class MixerOp : public Op {
 public:
  MixerOp(mlx::core::Stream stream, const Mixer& sizes, int optional)
      : Op(stream), sizes_(sizes), optional_(optional) {}

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    for (array& out : outputs) allocate(out);
    Mixer m = sizes_;
    const array& rows = inputs[0];
    const std::ptrdiff_t width = rows.shape(2);
    m.l = rows.shape(1);
    m.xBCz = rows.data<float>();
    m.xBCz_token = width;
    m.xBCz_row = m.l * width;
    m.conv = inputs[1].data<float>();
    m.ssm = inputs[2].data<float>();
    m.conv_weight = inputs[3].data<float>();
    m.D = inputs[4].data<float>();

    std::size_t next = 5;
    if (optional_ & A_LOG) {
      m.A_log = inputs[next++].data<float>();
      m.A_log_token = m.h;
      m.A_log_row = m.l * m.h;
    } else {
      m.A_log = m.xBCz + width - m.h;
      m.A_log_token = m.xBCz_token;
      m.A_log_row = m.xBCz_row;
    }
    if (optional_ & LENGTHS) m.lengths = inputs[next++].data<std::int32_t>();
    if (optional_ & CONV_BIAS) m.conv_bias = inputs[next++].data<float>();
    if (optional_ & Z_BIAS) m.z_bias = inputs[next++].data<float>();

    // The state goes to new memory. In place would spare writing what the cache has not got yet,
    // but MLX cannot tell an operation with several outputs that nobody else holds an input.
    m.y = outputs[0].data<float>();
    m.conv_out = outputs[1].data<float>();
    m.ssm_out = outputs[2].data<float>();
    const std::size_t b = static_cast<std::size_t>(rows.shape(0));
    enqueue([m, b] { run(m, b); });
  }

  const char* name() const override {
    return "LlambaMixer";
  }

  bool is_equivalent(const Primitive& other) const override {
    const auto* mixer = dynamic_cast<const MixerOp*>(&other);
    if (!mixer || mixer->optional_ != optional_) return false;
    const Mixer &a = sizes_, &b = mixer->sizes_;
    return a.h == b.h && a.g == b.g && a.p == b.p && a.n == b.n && a.k == b.k && a.silu == b.silu;
  }

 private:
  Mixer sizes_; // without arrays
  int optional_;
};

} // namespace
} // namespace mlx_llamba

using namespace mlx_llamba;

// Everything float32 but lengths, which are int32; A_log, lengths, conv_bias and z_bias may be null.
// Writes y, conv and ssm. The caller has checked shapes and dtypes.
extern "C" int mlx_llamba_mixer(
    void** out,
    const void* rows,
    const void* conv,
    const void* ssm,
    const void* conv_weight,
    const void* D,
    const void* A_log,
    const void* lengths,
    const void* conv_bias,
    const void* z_bias,
    const std::size_t* dims, // h, g, p, n, k
    int silu,
    const void* stream_handle) {
  return guard([&] {
    const auto stream = stream_from_handle(stream_handle);
    std::vector<array> inputs;
    for (const void* input : {rows, conv, ssm, conv_weight, D}) {
      inputs.push_back(contiguous(from_handle(input), stream));
    }
    int present = 0, bit = 1;
    for (const void* input : {A_log, lengths, conv_bias, z_bias}) {
      if (input) {
        inputs.push_back(contiguous(from_handle(input), stream));
        present |= bit;
      }
      bit <<= 1;
    }
    Mixer sizes{};
    sizes.h = static_cast<std::ptrdiff_t>(dims[0]);
    sizes.g = static_cast<std::ptrdiff_t>(dims[1]);
    sizes.p = static_cast<std::ptrdiff_t>(dims[2]);
    sizes.n = static_cast<std::ptrdiff_t>(dims[3]);
    sizes.k = static_cast<std::ptrdiff_t>(dims[4]);
    sizes.silu = silu != 0;
    auto y = inputs[0].shape();
    y[2] = static_cast<int>(sizes.d_inner());
    const auto& f32 = mlx::core::float32;
    auto outputs = array::make_arrays(
        {y, inputs[1].shape(), inputs[2].shape()}, {f32, f32, f32},
        std::make_shared<MixerOp>(stream, sizes, present), inputs);
    for (std::size_t i = 0; i < outputs.size(); i++) out[i] = to_handle(outputs[i]);
  });
}
