// Stand-ins for functions that mlx-rs and MLX take from macOS.
#include <chrono>
#include <cstdint>

// mlx-rs takes its random seed from this clock.
extern "C" std::uint64_t mach_approximate_time() {
  return static_cast<std::uint64_t>(
      std::chrono::steady_clock::now().time_since_epoch().count());
}

#ifdef MLX_LLAMBA_OPENBLAS
extern "C" int openblas_get_num_threads(void);

// A use of OpenBLAS, so that the linker does not drop it as unneeded.
__attribute__((constructor)) static void need_openblas() {
  (void)openblas_get_num_threads();
}
#endif
