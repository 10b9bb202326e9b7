//! The files of `host/`: the C++ side of the emulator.

/// The replacement for metal_stdlib, and the runtime.
pub(crate) const HOST: [(&str, &str); 14] = [
    ("abi.h", include_str!("../host/abi.h")),
    ("fiber.h", include_str!("../host/fiber.h")),
    ("hooks.h", include_str!("../host/hooks.h")),
    ("lines.h", include_str!("../host/lines.h")),
    ("math.h", include_str!("../host/math.h")),
    ("matrix.h", include_str!("../host/matrix.h")),
    ("memory.h", include_str!("../host/memory.h")),
    ("metal_stdlib.h", include_str!("../host/metal_stdlib.h")),
    ("race.h", include_str!("../host/race.h")),
    ("runtime.cpp", include_str!("../host/runtime.cpp")),
    ("scalar.h", include_str!("../host/scalar.h")),
    ("simd.h", include_str!("../host/simd.h")),
    ("state.h", include_str!("../host/state.h")),
    ("vec.h", include_str!("../host/vec.h")),
];

/// The C library's headers for clang, which by itself has none.
pub(crate) const CHECK: [(&str, &str); 2] = [
    ("stddef.h", include_str!("../host/check/stddef.h")),
    ("stdint.h", include_str!("../host/check/stdint.h")),
];

/// Returns true if a file of this name is part of the C++ side.
pub(crate) fn is_host(file: &str) -> bool {
    HOST.iter().any(|(name, _)| *name == file)
}
