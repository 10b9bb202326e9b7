//! Checks launches, hands them to the runtime and reads the results back.

use std::ffi::c_int;

use crate::abi::{RawBuffer, RawFault, RawLaunch, RawVariable};
use crate::argument::arguments;
use crate::buffer::{Buffer, elements};
use crate::compile;
use crate::describe::{describe, ends_run, general};
use crate::report::{FaultKind, Report, Traffic};
use crate::source::{self, For};
use crate::{Error, Kernel, Launch, Run};

/// Largest number of threads of a threadgroup.
const MAX_THREADS: u32 = 1024;
/// Threadgroup memory of every device.
const MAX_THREADGROUP_BYTES: u64 = 32 << 10;
/// Positions in the source with faults after which a run stops.
const MAX_FAULTS: usize = 64;

pub(crate) fn check(kernel: &Kernel, inputs: &[Buffer], launch: &Launch) -> Result<(), Error> {
    let count = |what: &str, expected: usize, found: usize| match expected == found {
        true => Ok(()),
        false => Err(Error::Launch(format!("{expected} {what} declared, {found} given"))),
    };
    count("inputs", kernel.inputs.len(), inputs.len())?;
    count("outputs", kernel.outputs.len(), launch.outputs.len())?;
    for (name, input) in kernel.inputs.iter().zip(inputs) {
        let expected = elements(&input.shape) * input.dtype.bytes();
        if input.bytes.len() != expected {
            let found = input.bytes.len();
            return Err(Error::Launch(format!(
                "input `{name}`: {expected} bytes expected, {found} found"
            )));
        }
    }
    if launch.grid.contains(&0) || launch.threadgroup.contains(&0) {
        return Err(Error::Launch("an empty grid or threadgroup".into()));
    }
    let threads = launch.threadgroup.iter().fold(1u32, |a, &b| a.saturating_mul(b));
    if threads > MAX_THREADS {
        return Err(Error::TooManyThreads { threads, most: MAX_THREADS });
    }
    Ok(())
}

/// Compiles the kernel for these inputs, unless it is in the cache, and runs it.
pub(crate) fn run(
    kernel: &Kernel,
    inputs: &[Buffer],
    launch: &Launch,
    offset: u32,
) -> Result<Run, Error> {
    check(kernel, inputs, launch)?;
    let library =
        compile::library(kernel.name, &source::generate(kernel, inputs, launch, For::Running))?;
    let mut arguments = arguments(kernel, inputs, launch);
    let mut buffers: Vec<RawBuffer> = arguments
        .iter_mut()
        .map(|a| RawBuffer {
            data: a.bytes.as_mut_ptr().cast(),
            bytes: a.bytes.len() as u64,
            element: a.element as u32,
            output: a.output.into(),
            filled: (a.output && launch.init_value.is_some()).into(),
            offset: if a.output || a.hidden { 0 } else { offset },
            raw_read: 0,
            raw_written: 0,
            group_read: 0,
            group_written: 0,
            once_read: 0,
            once_written: 0,
            lines_read: 0,
            lines_written: 0,
            unwritten: 0,
            first_unwritten: 0,
        })
        .collect();
    let variables: Vec<RawVariable> = library
        .variables
        .iter()
        .map(|v| RawVariable {
            offset: v.offset,
            bytes: v.bytes,
            guard: v.guard.into(),
            reserved: 0,
        })
        .collect();
    let mut faults: Vec<RawFault> = Vec::with_capacity(MAX_FAULTS);
    // MLX takes the smaller of the threadgroup and the grid along each axis.
    let group = [0, 1, 2].map(|i| launch.threadgroup[i].min(launch.grid[i]));
    let mut raw = RawLaunch {
        buffers: buffers.as_mut_ptr(),
        buffer_count: buffers.len() as u64,
        variables: variables.as_ptr(),
        variable_count: variables.len() as u64,
        threadgroup_offset: library.threadgroup,
        threadgroup_bytes: variables.last().map_or(0, |v| v.offset + v.bytes),
        grid: launch.grid.into(),
        group: group.into(),
        faults: faults.as_mut_ptr(),
        fault_capacity: MAX_FAULTS as u64,
        fault_count: 0,
        barriers: 0,
        simd_ops: 0,
        groups: 0,
    };
    let status = {
        let code = library.lock();
        // SAFETY: the type is that of `emu_run` in host/abi.h, whose layouts are those above.
        let run: libloading::Symbol<unsafe extern "C" fn(*mut RawLaunch) -> c_int> =
            unsafe { code.get(b"emu_run\0") }
                .map_err(|e| Error::Tool { tool: "dlsym".into(), message: e.to_string() })?;
        // SAFETY: every pointer in `raw` is to a live allocation of the size beside it, and the
        // lock gives this library's state to this launch alone.
        unsafe { run(&raw mut raw) }
    };
    if status != 0 {
        let message = std::io::Error::from_raw_os_error(status).to_string();
        return Err(Error::Launch(format!("memory for the run: {message}")));
    }
    // SAFETY: the runtime filled the first `fault_count`, at most the capacity, entries; its
    // fields have no invalid values.
    unsafe { faults.set_len(raw.fault_count as usize) };

    let mut report = Report {
        threadgroup_bytes: library.variables.iter().filter(|v| !v.guard).map(|v| v.bytes).sum(),
        threadgroups: raw.groups,
        barriers: raw.barriers,
        simd_ops: raw.simd_ops,
        ..Report::default()
    };
    report.faults = describe(&library, &arguments, &faults);
    let stopped = faults.len() == MAX_FAULTS || report.faults.iter().any(|f| ends_run(f.kind));
    for (a, b) in arguments.iter().zip(&buffers).filter(|(a, _)| !a.hidden) {
        report.buffers.push(Traffic {
            name: a.name.clone(),
            read: b.group_read,
            written: b.group_written,
            read_once: b.once_read,
            written_once: b.once_written,
            raw_read: b.raw_read,
            raw_written: b.raw_written,
            lines_read: b.lines_read,
            lines_written: b.lines_written,
        });
        // After a run that ended early, missing elements mean nothing.
        if b.unwritten > 0 && !stopped {
            let (n, first) = (b.unwritten, b.first_unwritten);
            let detail = format!("{n} elements never written, the first at index {first}");
            report.faults.push(general(FaultKind::Unwritten, Some(a.name.clone()), detail));
        }
    }
    if report.threadgroup_bytes > MAX_THREADGROUP_BYTES {
        let bytes = report.threadgroup_bytes;
        let detail = format!("{bytes} bytes, {MAX_THREADGROUP_BYTES} at most");
        report.faults.push(general(FaultKind::ThreadgroupMemory, None, detail));
    }
    let outputs = arguments
        .into_iter()
        .filter(|a| a.output)
        .zip(&launch.outputs)
        .map(|(a, (shape, dtype))| Buffer { dtype: *dtype, shape: shape.clone(), bytes: a.bytes })
        .collect();
    let run = Run { outputs, report };
    if run.report.faults.is_empty() { Ok(run) } else { Err(Error::Faults(Box::new(run))) }
}
