// A mixer between its two projections, for one batch. All arrays float32, row-major.
#pragma once

#include <cstddef>
#include <cstdint>

#include "levels.h"

namespace mlx_llamba {

struct Mixer {
  std::ptrdiff_t h, g, p, n, k;
  std::ptrdiff_t l;
  bool silu; // activation of the convolved xBC; otherwise none

  // (b, l, ..) with these steps between rows of the batch and between tokens; the last axis is dense.
  const float* xBCz; // xBC | z | anything
  std::ptrdiff_t xBCz_row, xBCz_token;
  const float* A_log; // (b, l, h)
  std::ptrdiff_t A_log_row, A_log_token;
  const std::int32_t* lengths; // (b,) or null; clamped to 0..=l

  const float* conv_weight; // (conv_dim, k)
  const float* conv_bias; // (conv_dim,) or null
  const float* z_bias; // (d_inner,) or null
  const float* D; // (h,)

  const float* conv; // (b, k-1, conv_dim)
  const float* ssm; // (b, h, p, n)
  float* y; // (b, l, d_inner)
  float* conv_out; // like conv, another place
  float* ssm_out; // like ssm, the same place or another

  std::ptrdiff_t d_inner() const { return h * p; }
  std::ptrdiff_t conv_dim() const { return h * p + 2 * g * n; }
};

struct MixerTable {
  // Floats of scratch that `head` needs.
  std::size_t (*scratch)(const Mixer&);
  // All tokens of one head of one row. Heads and rows are independent.
  void (*head)(const Mixer&, std::size_t row, std::size_t head, float* scratch);
};

PER_LEVEL(MixerTable, mixer_table)

class Scratch;

// Computes `b` rows on all threads; every one of them needs a piece of `mixer_table().scratch` floats.
void mix(const Mixer& m, std::size_t b, const Scratch& scratch);

} // namespace mlx_llamba
