// All blocks of a model as one operation: MLX's cost per operation is about that of a small model's
// operations themselves, and threads stay awake from the first block to the last.
#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "elementwise.h"
#include "mixer.h"
#include "op.h"
#include "pool.h"
#include "product.h"

namespace mlx_llamba {
namespace {

struct LinearSettings {
  mlx_llamba_coding coding;
  bool bias;
};

// The inputs of a block, in this order: its two norms, the parts and the bias of every linear layer,
// conv_weight and D, the optional arrays, and the state.
struct BlockSettings {
  LinearSettings in_proj, A_log_proj, out_proj, gate, up, down;
  bool split, apart; // with A_log_proj, with up
  bool conv_bias, z_bias;
};

struct Sizes {
  mlx_llamba_dims dims;
  bool silu, int8, lengths;
  float epsilon, final_epsilon;
};

// x W^T + bias.
struct Linear {
  Product product;
  const float* bias;
  float* y;
  size_t rows, out;

  void operator()() const {
    product();
    if (!bias) return;
    for (size_t row = 0; row < rows; row++) {
      for (size_t i = 0; i < out; i++) y[row * out + i] += bias[i];
    }
  }
};

struct Block {
  const float *mixer_norm, *mlp_norm;
  std::optional<Linear> in_proj, A_log_proj, out_proj, gate, up, down;
  Mixer mixer{};
};

// Everything that the stream's thread needs.
struct Run {
  std::vector<Block> blocks;
  std::optional<Scratch> memory, pieces;
  const float *input, *final_norm;
  float *x, *u, *y, *gate, *up, *gated, *out;
  size_t b, rows, d, hidden;
  float epsilon, final_epsilon;

  void operator()() const {
    norm(input, nullptr, blocks.empty() ? final_norm : blocks[0].mixer_norm, blocks.empty() ? final_epsilon : epsilon,
         nullptr, blocks.empty() ? out : u);
    const float* before = input;
    for (size_t i = 0; i < blocks.size(); i++) {
      const Block& block = blocks[i];
      (*block.in_proj)();
      if (block.A_log_proj) (*block.A_log_proj)();
      mix(block.mixer, b, *pieces);
      (*block.out_proj)();
      norm(before, y, block.mlp_norm, epsilon, x, u);
      (*block.gate)();
      if (block.up) (*block.up)();
      swiglu(gate, block.up ? up : gate + hidden, block.up ? hidden : 2 * hidden, gated, hidden, rows * hidden);
      (*block.down)();
      const bool last = i + 1 == blocks.size();
      norm(x, y, last ? final_norm : blocks[i + 1].mixer_norm, last ? final_epsilon : epsilon, x, last ? out : u);
      before = x;
    }
  }

 private:
  void norm(const float* from, const float* add, const float* weight, float epsilon, float* sum, float* normed) const {
    add_rms_norm(from, add, weight, epsilon, sum, normed, rows, d);
  }
};

// Inputs: x, lengths if there are any, the final norm, and those of every block.
class Blocks : public Op {
 public:
  Blocks(Stream stream, Sizes sizes, std::vector<BlockSettings> blocks)
      : Op(stream), sizes_(sizes), blocks_(std::move(blocks)) {}

  const char* name() const override {
    return "LlambaBlocks";
  }

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    for (array& out : outputs) allocate(out);
    auto run = std::make_shared<Run>();
    auto next = inputs.begin();
    const auto floats = [&] { return (next++)->data<float>(); };
    const auto maybe = [&](bool present) { return present ? floats() : nullptr; };
    const array& x = *next;
    const auto l = static_cast<size_t>(x.shape(1));
    run->b = static_cast<size_t>(x.shape(0));
    run->d = static_cast<size_t>(x.shape(2));
    run->rows = run->b * l;
    run->epsilon = sizes_.epsilon, run->final_epsilon = sizes_.final_epsilon;
    run->input = floats();
    const int32_t* lengths = sizes_.lengths ? (next++)->data<int32_t>() : nullptr;
    run->final_norm = floats();
    run->out = outputs[0].data<float>();

    const auto& [h, g, p, n, k] = sizes_.dims;
    const size_t d_inner = static_cast<size_t>(h * p), conv_dim = d_inner + 2 * static_cast<size_t>(g * n);
    const size_t heads = static_cast<size_t>(h), wide = conv_dim + d_inner + heads;
    // Blocks have the same sizes: what is between two operations is in the same memory in all of them.
    run->hidden = blocks_.empty() ? 0 : hidden(inputs);
    const size_t parts[] = {run->d, run->d, run->d, wide, heads, d_inner, run->hidden * 2, run->hidden, run->hidden};
    size_t total = 0;
    for (const size_t part : parts) total += lines(run->rows * part);
    run->memory.emplace(stream(), total, 0, 0, 1);
    float* at = run->memory->shared();
    float* places[std::size(parts)];
    for (size_t i = 0; i < std::size(parts); i++) places[i] = at, at += lines(run->rows * parts[i]);
    float *projected, *A_log, *mixed;
    run->x = places[0], run->u = places[1], run->y = places[2], projected = places[3], A_log = places[4];
    mixed = places[5], run->gate = places[6], run->up = places[7], run->gated = places[8];

    const auto linear = [&](const LinearSettings& settings, const float* from, float* to) {
      const Weight w = weight_of(&*next, settings.coding);
      next += static_cast<std::ptrdiff_t>(parts_of(settings.coding));
      const float* bias = maybe(settings.bias);
      return Linear{Product(stream(), w, settings.coding, sizes_.int8, from, to, run->rows), bias, to, run->rows, w.out};
    };
    size_t output = 1;
    for (const BlockSettings& settings : blocks_) {
      Block& block = run->blocks.emplace_back();
      block.mixer_norm = floats();
      block.mlp_norm = floats();
      block.in_proj.emplace(linear(settings.in_proj, run->u, projected));
      if (settings.split) block.A_log_proj.emplace(linear(settings.A_log_proj, run->u, A_log));
      block.out_proj.emplace(linear(settings.out_proj, mixed, run->y));
      block.gate.emplace(linear(settings.gate, run->u, run->gate));
      if (settings.apart) block.up.emplace(linear(settings.up, run->u, run->up));
      block.down.emplace(linear(settings.down, run->gated, run->y));
      Mixer& m = block.mixer;
      m.h = h, m.g = g, m.p = p, m.n = n, m.k = k;
      m.l = static_cast<std::ptrdiff_t>(l);
      m.silu = sizes_.silu;
      m.xBCz = projected;
      m.xBCz_token = static_cast<std::ptrdiff_t>(wide - (settings.split ? heads : 0));
      m.xBCz_row = m.l * m.xBCz_token;
      m.A_log = settings.split ? A_log : projected + wide - heads;
      m.A_log_token = settings.split ? h : m.xBCz_token;
      m.A_log_row = m.l * m.A_log_token;
      m.lengths = lengths;
      m.conv_weight = floats();
      m.D = floats();
      m.conv_bias = maybe(settings.conv_bias);
      m.z_bias = maybe(settings.z_bias);
      m.conv = floats();
      m.ssm = floats();
      m.y = mixed;
      m.conv_out = outputs[output++].data<float>();
      m.ssm_out = outputs[output++].data<float>();
    }
    if (!run->blocks.empty()) {
      const size_t piece = mixer_table().scratch(run->blocks[0].mixer);
      run->pieces.emplace(stream(), 0, piece, static_cast<size_t>(threads()));
    }
    enqueue([run] { (*run)(); });
  }

 private:
  static size_t lines(size_t floats) {
    return (floats + 15) / 16 * 16;
  }

  // The width of the MLP: the last matrix reads it.
  size_t hidden(const std::vector<array>& inputs) const {
    const BlockSettings& last = blocks_.back();
    // After the last matrix: its bias, conv_weight, D, the optional arrays, conv and ssm.
    const size_t after = last.down.bias + 2 + last.conv_bias + last.z_bias + 2;
    return weight_of(&inputs[inputs.size() - after - parts_of(last.down.coding)], last.down.coding).in;
  }

  Sizes sizes_;
  std::vector<BlockSettings> blocks_;
};

} // namespace
} // namespace mlx_llamba

using namespace mlx_llamba;

int mlx_llamba_blocks(
    const mlx_llamba_blocks_args* args, const mlx_llamba_stream* handle, mlx_llamba_array** out) {
  return guard([&] {
    const Stream stream = from_handle(handle);
    std::vector<array> inputs;
    const auto add = [&](const mlx_llamba_array* one) {
      if (one) inputs.push_back(input(one, stream));
      return one != nullptr;
    };
    const auto linear = [&](const mlx_llamba_linear* one) -> LinearSettings {
      if (!one) return {};
      add(one->weight), add(one->scales), add(one->biases);
      return {one->coding, add(one->bias)};
    };
    add(args->x);
    const Sizes sizes{
        args->dims, args->silu != 0, args->int8 != 0, add(args->lengths), args->epsilon, args->final_epsilon};
    add(args->final_norm);
    std::vector<mlx::core::Shape> shapes{inputs[0].shape()};
    std::vector<BlockSettings> blocks;
    for (size_t i = 0; i < args->count; i++) {
      const mlx_llamba_block& block = args->blocks[i];
      add(block.mixer_norm), add(block.mlp_norm);
      BlockSettings settings{};
      settings.in_proj = linear(&block.in_proj);
      settings.A_log_proj = linear(block.A_log_proj);
      settings.out_proj = linear(&block.out_proj);
      settings.gate = linear(&block.gate);
      settings.up = linear(block.up);
      settings.down = linear(&block.down);
      settings.split = block.A_log_proj, settings.apart = block.up;
      add(block.conv_weight), add(block.D);
      settings.conv_bias = add(block.conv_bias), settings.z_bias = add(block.z_bias);
      add(block.conv), add(block.ssm);
      shapes.push_back(from_handle(block.conv).shape());
      shapes.push_back(from_handle(block.ssm).shape());
      blocks.push_back(settings);
    }
    give(outputs_of(std::move(shapes), std::make_shared<Blocks>(stream, sizes, std::move(blocks)), inputs), out);
  });
}
