// MLX's allocator for CPUs passes on a null pointer when memory runs out, which MLX's operations do
// not check. Here it is wrapped so that it throws: MLX asks for it through a symbol that a program may
// replace on Linux. Elsewhere MLX's allocators report that themselves.
#if defined(__linux__)

#include <dlfcn.h>

#include <stdexcept>
#include <string>

#include "mlx/allocator.h"

namespace mlx::core::allocator {
namespace {

class Checked final : public Allocator {
 public:
  explicit Checked(Allocator& inner) : inner_(inner) {}

  Buffer malloc(size_t size) override {
    auto buffer = inner_.malloc(size);
    if (size > 0 && !buffer.ptr()) throw std::runtime_error("no memory for " + std::to_string(size) + " bytes");
    return buffer;
  }

  void free(Buffer buffer) override {
    inner_.free(buffer);
  }

  size_t size(Buffer buffer) const override {
    return inner_.size(buffer);
  }

  Buffer make_buffer(void* ptr, size_t size) override {
    return inner_.make_buffer(ptr, size);
  }

  void release(Buffer buffer) override {
    inner_.release(buffer);
  }

 private:
  Allocator& inner_;
};

Allocator& original() {
  void* const symbol = dlsym(RTLD_NEXT, "_ZN3mlx4core9allocator9allocatorEv");
  if (!symbol) throw std::runtime_error("MLX has no allocator");
  return reinterpret_cast<Allocator& (*)()>(symbol)();
}

} // namespace

// Never destroyed: MLX frees arrays while the process ends.
Allocator& allocator() {
  static auto& checked = *new Checked(original());
  return checked;
}

} // namespace mlx::core::allocator

#endif
