//! Compares every kernel of this machine's GPU with its float64 definition, over the emulator's list
//! of cases and the sizes of the published models. Prints a table; ends with 1 if an error is too
//! large.
//!
//! Arguments: words; only cases whose rows have all of them are computed. A GPU's compiler takes about
//! a second for each of the 130 variants of a kernel that MLX has not cached.

#![allow(clippy::expect_used)]

use mlx_llamba_kernels::Backend;
use mlx_llamba_kernels::check::{FLOAT32, HEADING, all};
use mlx_rs::{Device, DeviceType, Dtype};

fn main() {
    // MLX's float32 products round to 10 bits of mantissa on NVIDIA's GPUs; the comparison in 16 bits
    // is to hold beside exact ones. The kernels that round as MLX does are only used with
    // MLX_ENABLE_TF32=1.
    if std::env::var_os("MLX_ENABLE_TF32").is_none() {
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var("MLX_ENABLE_TF32", "0") };
    }
    let device = Device::try_default().and_then(|device| device.get_type());
    if !matches!(device, Ok(DeviceType::Gpu)) {
        println!("MLX has no GPU here: nothing to check");
        return;
    }
    let backend = Backend::select(Dtype::Float32).expect("a back end");
    println!("{}\n\n{HEADING}", backend.describe());
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut failed = 0;
    for check in all() {
        let name = check.to_string();
        if check.applies(backend) && words.iter().all(|word| name.contains(word.as_str())) {
            let outcome = check.run(backend, FLOAT32);
            println!("{outcome}");
            failed += usize::from(!outcome.passed());
        }
    }
    println!("\n{failed} of the errors are above their bounds; {}", backend.report());
    std::process::exit(i32::from(failed > 0));
}
