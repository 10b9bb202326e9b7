// What the operations of this directory have in common as nodes of MLX's graph.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "mlx/allocator.h"
#include "mlx/array.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"

namespace mlx_llamba {

using mlx::core::array;

// An operation that MLX evaluates on a CPU stream. Inputs are row contiguous (see `contiguous`) and
// so are outputs.
class Op : public mlx::core::Primitive {
 public:
  explicit Op(mlx::core::Stream stream);

  void eval_gpu(const std::vector<array>&, std::vector<array>&) override {
    throw std::runtime_error(std::string(name()) + " runs on the CPU only");
  }

 protected:
  // Memory for an output, in `eval_cpu`.
  static void allocate(array& out) {
    out.set_data(mlx::core::allocator::malloc(out.nbytes()));
  }

  // Runs `f` when the stream comes to it. MLX keeps inputs and outputs alive until then; `f` has
  // them as `weak` copies, since a counted one would keep their memory from being reused.
  template <class F>
  void enqueue(F f) {
    mlx::core::cpu::get_command_encoder(stream()).dispatch(std::move(f));
  }

  static array weak(const array& a) {
    return array::unsafe_weak_copy(a);
  }
};

// `a` in row-major order without gaps; itself where that is known already.
array contiguous(const array& a, mlx::core::Stream stream);

} // namespace mlx_llamba
