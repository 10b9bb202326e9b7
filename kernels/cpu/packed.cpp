#include "packed.h"

#include <algorithm>
#include <vector>

#include "pool.h"
#include "product.h"

namespace mlx_llamba {
namespace {

// (out, n) to (tiles, n, TILE), with zeros for rows past the last.
template <class Number>
void pack(const Number* from, Number* to, size_t out, size_t n) {
  parallel_ranges((out + TILE - 1) / TILE, std::max<size_t>(1, GRAIN / (n * TILE + 1)), [=](size_t begin, size_t end) {
    for (size_t tile = begin; tile < end; tile++) {
      const size_t rows = std::min(TILE, out - tile * TILE);
      const Number* rows_at = from + tile * TILE * n;
      Number* tile_at = to + tile * TILE * n;
      for (size_t i = 0; i < n; i++) {
        for (size_t row = 0; row < rows; row++) tile_at[i * TILE + row] = rows_at[row * n + i];
        for (size_t row = rows; row < TILE; row++) tile_at[i * TILE + row] = 0;
      }
    }
  });
}

class Pack : public OpOf<Pack> {
 public:
  static constexpr const char* NAME = "LlambaPack";
  using OpOf::OpOf;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    const size_t out = static_cast<size_t>(inputs[0].shape(0)), n = static_cast<size_t>(inputs[0].shape(1));
    const char* from = inputs[0].data<char>();
    char* to = outputs[0].data<char>();
    enqueue([=, size = inputs[0].itemsize()] {
      if (size == 4) {
        pack(reinterpret_cast<const uint32_t*>(from), reinterpret_cast<uint32_t*>(to), out, n);
      } else {
        pack(reinterpret_cast<const uint16_t*>(from), reinterpret_cast<uint16_t*>(to), out, n);
      }
    });
  }
};

// Inputs: ids (..) u32, codes, scales, biases.
class DequantizedRows : public OpOf<DequantizedRows, mlx_llamba_coding> {
 public:
  static constexpr const char* NAME = "LlambaRows";
  using OpOf::OpOf;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    const Weight w = weight_of(inputs.data() + 1, settings_);
    const uint32_t* ids = inputs[0].data<uint32_t>();
    float* to = outputs[0].data<float>();
    enqueue([=, count = inputs[0].size(), &kernels = packed_level_table()] {
      parallel_ranges(count, GRAIN / w.in + 1, [&](size_t begin, size_t end) {
        for (size_t i = begin; i < end; i++) {
          kernels.row(w, std::min<size_t>(ids[i], w.out - 1), to + i * w.in);
        }
      });
    });
  }
};

} // namespace
} // namespace mlx_llamba

using namespace mlx_llamba;

int mlx_llamba_pack(const mlx_llamba_array* part, const mlx_llamba_stream* handle, mlx_llamba_array** out) {
  return guard([&] {
    const Stream stream = from_handle(handle);
    const array from = input(part, stream);
    const int tiles = (from.shape(0) + static_cast<int>(TILE) - 1) / static_cast<int>(TILE);
    const mlx::core::Shape shape{tiles, from.shape(1), static_cast<int>(TILE)};
    give(array::make_arrays({shape}, {from.dtype()}, std::make_shared<Pack>(stream), {from}), out);
  });
}

int mlx_llamba_rows(const mlx_llamba_rows_args* args, const mlx_llamba_stream* handle, mlx_llamba_array** out) {
  return guard([&] {
    const Stream stream = from_handle(handle);
    std::vector<array> inputs;
    for (const auto* one : {args->ids, args->weight, args->scales, args->biases}) inputs.push_back(input(one, stream));
    auto shape = inputs[0].shape();
    shape.push_back(inputs[2].shape(1) * args->coding.group);
    give(outputs_of({shape}, std::make_shared<DequantizedRows>(stream, args->coding), inputs), out);
  });
}
