// The common part of the CPU operations as nodes of MLX's graph, and their C interface.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "c_api.h"
#include "mlx/array.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"

namespace mlx_llamba {

using mlx::core::array;
using mlx::core::Stream;

// An operation that MLX evaluates on a CPU stream. Inputs are row contiguous (see `contiguous`) and
// so are outputs.
class Op : public mlx::core::Primitive {
 public:
  explicit Op(Stream stream);

  void eval_gpu(const std::vector<array>&, std::vector<array>&) override {
    throw std::runtime_error(std::string(name()) + " runs on the CPU only");
  }

 protected:
  // Allocates an output, in `eval_cpu`. It begins with a cache line: MLX puts 8 bytes before every buffer,
  // and vectors that reach into a second line cost the kernels a tenth of their speed.
  static void allocate(array& out);

  // Runs `f` on the stream's thread, after the operations before it. MLX keeps inputs and outputs
  // alive until then. `f` must not throw: nobody could report it.
  template <class F>
  void enqueue(F f) {
    mlx::core::cpu::get_command_encoder(stream()).dispatch(std::move(f));
  }
};

struct NoSettings {};

// Base of an operation `Self` with settings. MLX shows it as `Self::NAME`, and may merge operations
// that have the same settings and inputs.
template <class Self, class Settings = NoSettings>
class OpOf : public Op {
 public:
  static_assert(std::is_trivially_copyable_v<Settings>);

  explicit OpOf(Stream stream, Settings settings = {}) : Op(stream), settings_(settings) {}

  const char* name() const override {
    return Self::NAME;
  }

  bool is_equivalent(const Primitive& other) const override {
    const auto* same = dynamic_cast<const Self*>(&other);
    if constexpr (std::is_empty_v<Settings>) return same;
    // Settings are plain numbers without padding.
    else return same && std::memcmp(&same->settings_, &settings_, sizeof settings_) == 0;
  }

 protected:
  Settings settings_;
};

// Returns `a` in row-major order without gaps; `a` itself where that is known already.
array contiguous(const array& a, Stream stream);

// Memory for intermediate values of an operation: one shared part, and pieces that its tasks borrow.
// The operations of a stream run one after the other and use the same memory, which is kept between
// them: allocating it anew in every layer would cost page faults.
class Scratch {
 public:
  // Makes room for `shared` floats and for `pieces` pieces of `count` floats, all of them at the
  // beginning of a cache line. To be called in `eval_cpu`, where MLX reports a std::bad_alloc. Parts of
  // an operation that use memory of the operation at the same time take it of another `level`.
  Scratch(
      const Stream& stream, std::size_t shared, std::size_t count = 0, std::size_t pieces = 0, int level = 0);

  float* shared() const;

  // A piece that belongs to one task. There may be more tasks than pieces: a task waits for one.
  class Piece {
   public:
    explicit Piece(const Scratch& scratch);
    ~Piece();
    Piece(const Piece&) = delete;
    Piece& operator=(const Piece&) = delete;

    float* get() const {
      return memory_;
    }

   private:
    std::atomic_flag* taken_;
    float* memory_;
  };

 private:
  struct Block;
  std::shared_ptr<Block> block_;
  std::size_t shared_, count_, pieces_;
};

// The rest is for the functions of `c_api.h`.

void set_error(const char* text);

// Runs `f` and turns what it throws into the text of `mlx_llamba_error`.
template <class F>
int guard(const F& f) {
  try {
    f();
    return 0;
  } catch (const std::exception& error) {
    set_error(error.what());
  } catch (...) {
    set_error("an unknown C++ exception");
  }
  return 1;
}

inline const array& from_handle(const mlx_llamba_array* handle) {
  return *reinterpret_cast<const array*>(handle);
}

inline Stream from_handle(const mlx_llamba_stream* handle) {
  return *reinterpret_cast<const Stream*>(handle);
}

// Returns an input of an operation of ours.
inline array input(const mlx_llamba_array* handle, Stream stream) {
  return contiguous(from_handle(handle), stream);
}

// Gives the outputs of an operation to the caller.
inline void give(const std::vector<array>& outputs, mlx_llamba_array** out) {
  for (std::size_t i = 0; i < outputs.size(); i++) {
    out[i] = reinterpret_cast<mlx_llamba_array*>(new array(outputs[i]));
  }
}

// The float32 outputs of these shapes of an operation.
std::vector<array> outputs_of(
    std::vector<mlx::core::Shape> shapes, std::shared_ptr<Op> op, const std::vector<array>& inputs);

} // namespace mlx_llamba
