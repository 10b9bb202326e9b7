// MLX's allocator for CPUs passes on a null pointer when memory runs out, which MLX's operations do
// not check. Here it is wrapped so that it throws: MLX asks for it through a symbol that a program may
// replace on Linux. Elsewhere MLX's allocators report that themselves.
//
// The wrapper also asks for huge pages, which many systems give on request only. A stream of weights
// enters a new page of 4 KiB every few hundred cycles otherwise, and a virtual machine takes about as
// long to look its address up.
#include "c_api.h"

#if defined(__linux__)

#include <dlfcn.h>
#include <sys/mman.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "mlx/allocator.h"
#include "mlx/device.h"

namespace mlx::core::allocator {
namespace {

// Size from which huge pages are asked for: the request costs about a microsecond.
constexpr size_t LARGE = 128 << 10;

class Checked final : public Allocator {
 public:
  explicit Checked(Allocator& inner) : inner_(inner) {}

  Buffer malloc(size_t size) override {
    auto buffer = inner_.malloc(size);
    if (size > 0 && !buffer.ptr()) throw std::runtime_error("no memory for " + std::to_string(size) + " bytes");
    // Buffers of a library for GPUs are not plain memory.
    static const bool plain = !is_available(Device::gpu);
    if (plain && size >= LARGE) mlx_llamba_huge_pages(buffer.ptr(), size);
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

// Advises the system for every huge page that the memory is in: several buffers may share one. What
// surrounds the memory belongs to the same heap, or is not mapped, which is an error without a consequence.
void mlx_llamba_huge_pages(const void* memory, mlx_llamba_size size) {
#if defined(__linux__)
  constexpr uintptr_t HUGE_PAGE = 2 << 20;
  const auto first = reinterpret_cast<uintptr_t>(memory) / HUGE_PAGE * HUGE_PAGE;
  const auto end = (reinterpret_cast<uintptr_t>(memory) + size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
  madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#else
  (void)memory, (void)size;
#endif
}
