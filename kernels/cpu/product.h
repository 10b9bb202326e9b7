// Matrix multiplication on all threads, as a part of an operation.
#pragma once

#include <variant>

#include "matmul.h"
#include "op.h"
#include "packed.h"

namespace mlx_llamba {

// Returns a matrix among the inputs of an operation: a dense one, or codes, scales and biases.
Weight weight_of(const array* parts, const mlx_llamba_coding& coding);

// Returns the number of the arrays of a matrix.
inline size_t parts_of(const mlx_llamba_coding& coding) {
  return coding.bits ? 3 : 1;
}

// y (rows, out) = x (rows, in) W^T with a matrix in the order of its file.
struct PlainProduct {
  const MatmulTable& kernels = matmul_table();
  Weight w;
  const float* x;
  float* y;
  size_t rows;
  size_t stride = kernels.stride(w);
  // Rows of x as the kernels read them, and a panel of unpacked weights for every thread.
  Scratch scratch;

  PlainProduct(const Stream& stream, const Weight& w, const float* x, float* y, size_t rows);
  bool few() const;
  void operator()() const;
};

// The same with a packed matrix (see `packed.h`), and with activations in float32 or int8.
struct PackedProduct {
  Weight w;
  bool int8;
  const PackedTable& kernels;
  const float* x;
  float* y;
  size_t rows, at_once;
  bool many;
  // Prepared rows, and a panel of unpacked codes for every thread.
  Scratch scratch;

  PackedProduct(const Stream& stream, const Weight& w, bool int8, const float* x, float* y, size_t rows);
  void operator()() const;
};

// Either; to be made in `eval_cpu` and called on the stream's thread.
class Product {
 public:
  Product(
      const Stream& stream, const Weight& w, const mlx_llamba_coding& coding, bool int8, const float* x, float* y,
      size_t rows);

  void operator()() const {
    std::visit([](const auto& product) { product(); }, product_);
  }

 private:
  std::variant<PlainProduct, PackedProduct> product_;
};

} // namespace mlx_llamba
