#include "op.h"

#include "mlx/ops.h"

namespace mlx_llamba {

Op::Op(mlx::core::Stream stream) : Primitive(stream) {
  if (stream.device != mlx::core::Device::cpu) {
    throw std::invalid_argument("an operation for the CPU was asked for on a stream of another device");
  }
}

array contiguous(const array& a, mlx::core::Stream stream) {
  if (a.status() == array::Status::unscheduled) {
    // What is not computed has no layout yet, but outputs of ours have the one that is wanted.
    if (a.has_primitive() && dynamic_cast<Op*>(&a.primitive())) return a;
  } else if (a.flags().row_contiguous) {
    return a;
  }
  return mlx::core::contiguous(a, false, stream);
}

} // namespace mlx_llamba
