//! Checks of device, MLX, BLAS, processor and memory.

use mlx_llamba::Compute;
use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::{Array, Blas, DeviceType, Dtype, Runtime};
use mlx_llamba::random::Preset;
use mlx_llamba::units::count;
use mlx_llamba_kernels::cpu;
use mlx_llamba_kernels::mlx::gpu_memory;
use serde_json::json;

use super::memory::{Memory, of_machine};
use super::{Finding, gib};

pub(super) fn look() -> Vec<Finding> {
    let device = Compute::Auto.select();
    let mut found = vec![compute(&device), kernels()];
    let runtime = Runtime::of_process();
    let library = match &runtime.library {
        Some(path) => path.display().to_string(),
        None => "in an unknown location".to_owned(),
    };
    let mut text = format!("{}, {library}", runtime.version);
    if let Some(path) = &runtime.metallib {
        text += &format!("\nmetallib {}", path.display());
    }
    let details = json!({
        "version": runtime.version, "library": runtime.library, "metallib": runtime.metallib,
    });
    let gpu = matches!(device, Ok(DeviceType::Gpu));
    found.push(
        match &runtime.metallib {
            Some(path) if !path.exists() => Finding::problem(
                "MLX",
                text,
                "the metallib is missing: unpack the archive again, or rebuild",
            ),
            _ => Finding::good("MLX", text),
        }
        .with(details),
    );
    #[cfg(feature = "cuda")]
    found.extend(cuda());
    found.push(blas(&runtime.blas));
    found.push(
        Finding::good(
            "processor",
            format!("{}, {}", cpu::simd(), count(cpu::threads() as u64, "thread")),
        )
        .with(json!({ "simd": cpu::simd(), "threads": cpu::threads() })),
    );
    found.extend(memory(gpu));
    found
}

/// Computes a known result on the selected device.
fn compute(device: &mlx_llamba::Result<DeviceType>) -> Finding {
    let name = match device {
        Ok(DeviceType::Gpu) => "gpu",
        Ok(DeviceType::Cpu) => "cpu",
        Err(error) => return Finding::problem("device", error.to_string(), REINSTALL),
    };
    // (1, 2) x (2, 1)
    let product = || -> mlx_llamba::Result<Vec<f32>> {
        let [a, b] = [([3.0f32, 4.0], [1, 2]), ([5.0f32, 6.0], [2, 1])]
            .map(|(values, shape)| Array::from_slice(&values, &shape));
        mlx_llamba::mlx::floats(&a.matmul(&b)?)
    };
    match product() {
        Ok(values) if values == [39.0] => {
            Finding::good("device", name).with(json!({ "device": name }))
        }
        Ok(values) => Finding::problem(
            "device",
            format!("{name} computes 3 x 5 + 4 x 6 = {values:?}"),
            "MLX does not work here; try --device cpu, and MLX_LLAMBA_SIMD=baseline",
        ),
        Err(error) => Finding::problem("device", format!("{name}: {error}"), REINSTALL),
    }
}

const REINSTALL: &str = "MLX does not work here: unpack the archive again, or rebuild";

fn kernels() -> Finding {
    match Backend::select(Dtype::Float32) {
        Ok(backend) if backend == Backend::PLAIN => Finding::warning(
            "kernels",
            Backend::PLAIN.describe(),
            "these are slow; unset MLX_LLAMBA_KERNELS, or see --log-level info for the reason",
        ),
        Ok(backend) => Finding::good("kernels", backend.describe()),
        Err(error) => Finding::problem(
            "kernels",
            error.to_string(),
            "unset MLX_LLAMBA_KERNELS, or set it to auto",
        ),
    }
}

/// The part of NVIDIA's that is missing: the driver, the GPU or a library.
#[cfg(feature = "cuda")]
fn cuda() -> Option<Finding> {
    use crate::cuda::{Missing, choice};
    Some(match choice()? {
        Ok(library) => Finding::good("CUDA", library.display().to_string()),
        Err(missing @ (Missing::Driver(_) | Missing::Gpu)) => {
            Finding::warning("CUDA", missing.to_string(), missing.help())
        }
        Err(missing) => Finding::problem("CUDA", missing.to_string(), missing.help()),
    })
}

fn blas(blas: &Blas) -> Finding {
    let finding = match blas {
        Blas::Accelerate => Finding::good("BLAS", "Accelerate"),
        Blas::OpenBlas(path) => Finding::good("BLAS", format!("OpenBLAS, {}", path.display())),
        _ => Finding::warning(
            "BLAS",
            "the reference implementation: matrix multiplications are about 35 times slower than \
             with OpenBLAS",
            "apt-get install libopenblas-dev, then cargo clean -p mlx-sys and rebuild",
        ),
    };
    let name = match blas {
        Blas::Accelerate => "accelerate",
        Blas::OpenBlas(_) => "openblas",
        _ => "reference",
    };
    finding.with(json!({ "blas": name }))
}

fn memory(gpu: bool) -> Vec<Finding> {
    let Some(memory) = of_machine() else {
        return vec![Finding::good("memory", "the size of memory is unknown on this system")];
    };
    let mut text = format!("{} of {} available", gib(memory.available), gib(memory.total));
    let allowed = gpu_memory().filter(|_| gpu);
    if let Some(allowed) = allowed {
        text += &format!("; macOS lets the GPU use {}", gib(allowed));
    }
    let details = json!({ "total": memory.total, "available": memory.available, "gpu": allowed });
    let mut found = vec![Finding::good("memory", text).with(details)];
    let Memory { total, available } = memory.within(allowed.unwrap_or(u64::MAX), 0);
    let mut details = Vec::new();
    let mut lines = Vec::new();
    let sizes = [("1B", Preset::Llamba1B), ("3B", Preset::Llamba3B), ("8B", Preset::Llamba8B)];
    for (name, preset) in sizes {
        let config = preset.config();
        let forms = [("4 bit", Some(4), 2), ("bfloat16", None, 2), ("float32", None, 4)];
        let mut words = Vec::new();
        for (form, bits, float_bytes) in forms {
            let needed = config.weight_bytes(bits, float_bytes) + config.working_bytes();
            let fits = match needed {
                n if n <= available => "fits",
                n if n <= total => "fits if other programs free memory",
                _ => "too large",
            };
            words.push(format!("{form} {} {fits}", gib(needed)));
            details.push(json!({ "model": name, "form": form, "bytes": needed, "fits": fits }));
        }
        lines.push(format!("{name}: {}", words.join(", ")));
    }
    let whose = if gpu {
        "approximately; GPU and CPU share memory"
    } else {
        "approximately, with a long prompt"
    };
    let text = format!("Llamba, {whose}\n{}", lines.join("\n"));
    found.push(Finding::good("models", text).with(details.into()));
    found
}
