//! The memory of MLX's arrays on Linux: what does not fit is an error, of MLX's own operations too, and
//! large arrays are in huge pages.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use mlx_llamba_kernels::{Backend, Mode, Quantized, Scheme, Weight, cpu};
use mlx_rs::{Array, Stream, ops, with_stream};

#[test]
fn memory_that_runs_out_is_an_error() {
    let a = Array::from_slice(&[1.0_f32; 64], &[8, 8]);
    with_stream(&Stream::cpu(), || {
        // The allocator comes with the kernels.
        cpu::softmax(&a).unwrap().eval().unwrap();
        let huge = ops::zeros::<f32>(&[1 << 20, 1 << 20, 1 << 10]).unwrap();
        let error = ops::add(&huge, &huge).unwrap().eval().unwrap_err();
        assert!(error.what().contains("no memory for"), "{error}");
        // A size that fits is computed still.
        assert_eq!(a.sum(None).unwrap().item_exact::<f32>(), 64.0);
    });
}

/// Returns true if the system was asked for huge pages for this memory.
fn huge_pages(memory: *const f32) -> bool {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let address = memory as usize;
    let mut inside = false;
    maps.lines().any(|line| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let ends = range.map(|(from, to)| [from, to].map(|end| usize::from_str_radix(end, 16)));
        if let Some([Ok(from), Ok(to)]) = ends {
            inside = (from..to).contains(&address);
        }
        inside && line.starts_with("VmFlags:") && line.split(' ').any(|flag| flag == "hg")
    })
}

#[test]
fn large_arrays_are_in_huge_pages() {
    if !Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        return;
    }
    with_stream(&Stream::cpu(), || {
        let large = ops::zeros::<f32>(&[1 << 20]).unwrap();
        large.eval().unwrap();
        assert!(huge_pages(large.as_slice::<f32>().as_ptr()));
    });
}

#[test]
fn packed_matrices_begin_with_a_cache_line() {
    with_stream(&Stream::cpu(), || {
        let scheme = Scheme::new(64, 4, Mode::Affine).unwrap();
        for out in [16, 40, 3000] {
            let dense = ops::ones::<f32>(&[out, 128]).unwrap();
            let quantized = Weight::Quantized(Quantized::quantize(&dense, scheme).unwrap());
            let packed = Backend::CPU.arrange(quantized).unwrap();
            assert!(matches!(packed, Weight::Packed(_)));
            for part in packed.arrays() {
                part.eval().unwrap();
            }
            let parts = packed.arrays();
            assert_eq!(parts[0].as_slice::<u32>().as_ptr() as usize % 64, 0);
            assert_eq!(parts[1].as_slice::<f32>().as_ptr() as usize % 64, 0);
        }
    });
}
