// The C interface that Rust calls: arrays are the `ctx` of mlx-c's `mlx_array` (a pointer to an
// mlx::core::array), streams that of its `mlx_stream`. A function that makes arrays returns 0 and
// writes pointers that the caller owns, or returns 1 and leaves a text for `mlx_llamba_error`.
#pragma once

#include <exception>
#include <string>

#include "mlx/array.h"
#include "mlx/stream.h"

namespace mlx_llamba {

void set_error(const char* text);

// Runs `f`, and turns what it throws into a text.
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

inline const mlx::core::array& from_handle(const void* handle) {
  return *static_cast<const mlx::core::array*>(handle);
}

inline mlx::core::Stream stream_from_handle(const void* handle) {
  return *static_cast<const mlx::core::Stream*>(handle);
}

inline void* to_handle(mlx::core::array a) {
  return new mlx::core::array(std::move(a));
}

} // namespace mlx_llamba
