#include "op.h"

#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>

#include "mlx/allocator.h"
#include "mlx/ops.h"

namespace mlx_llamba {
namespace {
thread_local std::string error_text;

constexpr std::size_t LINE = 64; // bytes of a cache line
}

void set_error(const char* text) {
  try {
    error_text = text;
  } catch (...) {
    error_text.clear();
  }
}

Op::Op(Stream stream) : Primitive(stream) {
  if (stream.device != mlx::core::Device::cpu) {
    throw std::invalid_argument("an operation for the CPU was asked for on a stream of another device");
  }
}

void Op::allocate(array& out) {
  auto buffer = mlx::core::allocator::malloc(out.nbytes() + LINE);
  // MLX's allocator passes on a null pointer if memory runs out.
  if (!buffer.ptr()) throw std::runtime_error("no memory for a result of a CPU kernel");
  const auto past = reinterpret_cast<std::uintptr_t>(buffer.raw_ptr()) % LINE;
  const auto offset = static_cast<int64_t>((LINE - past) % LINE);
  out.set_data(buffer, out.size(), out.strides(), {true, true, false}, offset);
}

array contiguous(const array& a, Stream stream) {
  if (a.status() == array::Status::unscheduled) {
    // An array that is not computed has no layout yet, but outputs of ours have the wanted one.
    if (a.has_primitive() && dynamic_cast<Op*>(&a.primitive())) return a;
  } else if (a.flags().row_contiguous) {
    return a;
  }
  return mlx::core::contiguous(a, false, stream);
}

std::vector<array> outputs_of(
    std::vector<mlx::core::Shape> shapes, std::shared_ptr<Op> op, const std::vector<array>& inputs) {
  const std::vector<mlx::core::Dtype> dtypes(shapes.size(), mlx::core::float32);
  return array::make_arrays(std::move(shapes), dtypes, std::move(op), inputs);
}

namespace {

std::size_t whole_lines(std::size_t floats) {
  constexpr std::size_t FLOATS = LINE / sizeof(float);
  return (floats + FLOATS - 1) / FLOATS * FLOATS;
}

} // namespace

// As many pieces as there may be threads: see `set_threads`.
constexpr std::size_t MOST_PIECES = 256;

struct Scratch::Block {
  struct Free {
    void operator()(float* memory) const {
      std::free(memory);
    }
  };

  explicit Block(std::size_t floats)
      : capacity(floats), memory(static_cast<float*>(std::aligned_alloc(LINE, floats * sizeof(float)))) {
    if (!memory) throw std::bad_alloc();
  }

  std::size_t capacity;
  std::unique_ptr<float, Free> memory;
  std::atomic_flag taken[MOST_PIECES] = {};
};

Scratch::Scratch(
    const Stream& stream, std::size_t shared, std::size_t count, std::size_t pieces, int level)
    : shared_(whole_lines(shared)), count_(whole_lines(count)), pieces_(pieces < MOST_PIECES ? pieces : MOST_PIECES) {
  // Never destroyed: a stream of MLX may still compute while the process ends.
  static auto& blocks = *new std::map<std::pair<int, int>, std::shared_ptr<Block>>;
  static auto& lock = *new std::mutex;
  const std::size_t floats = shared_ + count_ * pieces_;
  const std::lock_guard held(lock);
  std::shared_ptr<Block>& block = blocks[{stream.index, level}];
  // An operation that still waits holds on to the smaller block.
  if (floats && (!block || block->capacity < floats)) block = std::make_shared<Block>(floats);
  block_ = block;
}

float* Scratch::shared() const {
  return block_ ? block_->memory.get() : nullptr;
}

Scratch::Piece::Piece(const Scratch& scratch) {
  for (std::size_t i = 0;; i = (i + 1) % scratch.pieces_) {
    taken_ = &scratch.block_->taken[i];
    if (taken_->test_and_set(std::memory_order_acquire)) continue;
    memory_ = scratch.block_->memory.get() + scratch.shared_ + i * scratch.count_;
    return;
  }
}

Scratch::Piece::~Piece() {
  taken_->clear(std::memory_order_release);
}

} // namespace mlx_llamba

const char* mlx_llamba_error() {
  return mlx_llamba::error_text.c_str();
}
