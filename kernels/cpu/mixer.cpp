#include "mixer.h"

#include "op.h"
#include "pool.h"

namespace mlx_llamba {

// Multiply-adds of the recurrence (a third of them) below which waking other threads costs more
// than it saves: some 5 us of one thread.
static constexpr std::ptrdiff_t WORTH_SHARING = 1 << 15;

void mix(const Mixer& m, std::size_t b, const Scratch& scratch) {
  const MixerTable& table = mixer_table();
  const std::size_t h = static_cast<std::size_t>(m.h), heads = b * h;
  const auto head = [&](std::size_t i) {
    const Scratch::Piece memory(scratch);
    table.head(m, i / h, i % h, memory.get());
  };
  if (static_cast<std::ptrdiff_t>(heads) * m.l * m.p * m.n < WORTH_SHARING) {
    for (std::size_t i = 0; i < heads; i++) head(i);
  } else {
    parallel(heads, head);
  }
}

namespace {

// The optional inputs, in the order in which they follow the others.
enum Optional { A_LOG = 1, LENGTHS = 2, CONV_BIAS = 4, Z_BIAS = 8 };

struct MixerSettings {
  mlx_llamba_dims dims;
  int silu;
  int optional; // of `Optional`
};

// Inputs: rows, conv, ssm, conv_weight, D, and the optional ones. Outputs: y, conv, ssm.
class MixerOp : public OpOf<MixerOp, MixerSettings> {
 public:
  static constexpr const char* NAME = "LlambaMixer";
  using OpOf::OpOf;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    for (array& out : outputs) allocate(out);
    const auto& [dims, silu, optional] = settings_;
    Mixer m{};
    m.h = dims.h, m.g = dims.g, m.p = dims.p, m.n = dims.n, m.k = dims.k;
    m.silu = silu != 0;
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
    if (optional & A_LOG) {
      m.A_log = inputs[next++].data<float>();
      m.A_log_token = m.h;
      m.A_log_row = m.l * m.h;
    } else {
      m.A_log = m.xBCz + width - m.h;
      m.A_log_token = m.xBCz_token;
      m.A_log_row = m.xBCz_row;
    }
    if (optional & LENGTHS) m.lengths = inputs[next++].data<std::int32_t>();
    if (optional & CONV_BIAS) m.conv_bias = inputs[next++].data<float>();
    if (optional & Z_BIAS) m.z_bias = inputs[next++].data<float>();

    // The state goes to new memory. Updating it in place would save writing memory that is not in the
    // cache yet, but MLX cannot tell an operation with several outputs that it alone holds an input.
    m.y = outputs[0].data<float>();
    m.conv_out = outputs[1].data<float>();
    m.ssm_out = outputs[2].data<float>();
    const std::size_t b = static_cast<std::size_t>(rows.shape(0));
    const Scratch scratch(stream(), 0, mixer_table().scratch(m), static_cast<std::size_t>(threads()));
    enqueue([m, b, scratch] { mix(m, b, scratch); });
  }
};

} // namespace
} // namespace mlx_llamba

using namespace mlx_llamba;

int mlx_llamba_mixer(const mlx_llamba_mixer_args* args, const mlx_llamba_stream* handle, mlx_llamba_array** out) {
  return guard([&] {
    const Stream stream = from_handle(handle);
    std::vector<array> inputs;
    for (const auto* one : {args->rows, args->conv, args->ssm, args->conv_weight, args->D}) {
      inputs.push_back(input(one, stream));
    }
    MixerSettings settings{args->dims, args->silu, 0};
    int bit = 1;
    for (const auto* one : {args->A_log, args->lengths, args->conv_bias, args->z_bias}) {
      if (one) {
        inputs.push_back(input(one, stream));
        settings.optional |= bit;
      }
      bit <<= 1;
    }
    auto y = inputs[0].shape();
    y[2] = args->dims.h * args->dims.p;
    give(outputs_of({y, inputs[1].shape(), inputs[2].shape()}, std::make_shared<MixerOp>(stream, settings), inputs), out);
  });
}
