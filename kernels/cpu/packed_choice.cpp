// The choice between the compilations of the packed kernels, by the int8 instructions of the processor. All
// of them give the same bits in int8.
#include "packed.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace mlx_llamba {
namespace {

#if defined(__x86_64__)
// Compilers learned the name of this feature later than its instructions.
[[maybe_unused]] bool has_avxvnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

const PackedTable& int8_table() {
  static const bool vnni = __builtin_cpu_supports("avx512vnni");
  const Level best = level();
  if (best == Level::baseline) return baseline::packed_level_table;
  if (best == Level::avx512 && vnni) return avx512::packed_level_table;
#if defined(MLX_LLAMBA_AVXVNNI)
  static const bool short_vectors = has_avxvnni();
  if (short_vectors) return avxvnni::packed_level_table;
#endif
  return avx2::packed_level_table;
}
#elif defined(__aarch64__) && defined(__linux__)
const PackedTable& int8_table() {
  // HWCAP_ASIMDDP and HWCAP2_I8MM, which older headers lack.
  [[maybe_unused]] static const bool dot = getauxval(AT_HWCAP) >> 20 & 1;
  [[maybe_unused]] static const bool mixed = getauxval(AT_HWCAP2) >> 13 & 1;
#if defined(MLX_LLAMBA_I8MM)
  if (mixed) return i8mm::packed_level_table;
#endif
#if defined(MLX_LLAMBA_DOTPROD)
  if (dot) return dotprod::packed_level_table;
#endif
  return packed_level_table();
}
#else
const PackedTable& int8_table() {
  return packed_level_table();
}
#endif

} // namespace

const PackedTable& packed_table(bool int8) {
  return int8 ? int8_table() : packed_level_table();
}

} // namespace mlx_llamba
