//! The C layouts of `host/abi.h`.

use std::ffi::{c_char, c_void};

use crate::report::FaultKind;

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Uint3 {
    pub(crate) x: u32,
    pub(crate) y: u32,
    pub(crate) z: u32,
}

impl From<[u32; 3]> for Uint3 {
    fn from([x, y, z]: [u32; 3]) -> Self {
        Uint3 { x, y, z }
    }
}

impl Uint3 {
    pub(crate) fn array(self) -> [u32; 3] {
        [self.x, self.y, self.z]
    }
}

#[repr(C)]
pub(crate) struct RawBuffer {
    pub(crate) data: *mut c_void,
    pub(crate) bytes: u64,
    pub(crate) element: u32,
    pub(crate) output: u32,
    pub(crate) filled: u32,
    pub(crate) offset: u32,
    pub(crate) raw_read: u64,
    pub(crate) raw_written: u64,
    pub(crate) group_read: u64,
    pub(crate) group_written: u64,
    pub(crate) once_read: u64,
    pub(crate) once_written: u64,
    pub(crate) lines_read: u64,
    pub(crate) lines_written: u64,
    pub(crate) unwritten: u64,
    pub(crate) first_unwritten: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RawFault {
    pub(crate) kind: u32,
    pub(crate) write: u32,
    pub(crate) group: Uint3,
    pub(crate) thread: Uint3,
    pub(crate) pc: u64,
    pub(crate) other_pc: u64,
    pub(crate) file: *const c_char,
    pub(crate) line: u64,
    pub(crate) other_file: *const c_char,
    pub(crate) other_line: u64,
    pub(crate) other_group: Uint3,
    pub(crate) other_thread: Uint3,
    pub(crate) buffer: i32,
    pub(crate) size: u32,
    pub(crate) offset: i64,
    pub(crate) count: u64,
    pub(crate) text: [c_char; 96],
}

#[repr(C)]
pub(crate) struct RawVariable {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) guard: u32,
    pub(crate) reserved: u32,
}

#[repr(C)]
pub(crate) struct RawLaunch {
    pub(crate) buffers: *mut RawBuffer,
    pub(crate) buffer_count: u64,
    pub(crate) variables: *const RawVariable,
    pub(crate) variable_count: u64,
    pub(crate) threadgroup_offset: u64,
    pub(crate) threadgroup_bytes: u64,
    pub(crate) grid: Uint3,
    pub(crate) group: Uint3,
    pub(crate) faults: *mut RawFault,
    pub(crate) fault_capacity: u64,
    pub(crate) fault_count: u64,
    pub(crate) barriers: u64,
    pub(crate) simd_ops: u64,
    pub(crate) groups: u64,
}

/// The kinds of faults that the runtime reports, in the order of `EmuFaultKind`.
pub(crate) const KINDS: [FaultKind; 14] = [
    FaultKind::DeviceBounds,
    FaultKind::ThreadgroupBounds,
    FaultKind::WildAddress,
    FaultKind::IndexBounds,
    FaultKind::Misaligned,
    FaultKind::InputWritten,
    FaultKind::ThreadgroupUninitialized,
    FaultKind::OutputUninitialized,
    FaultKind::ThreadgroupRace,
    FaultKind::DeviceRace,
    FaultKind::BarrierDivergence,
    FaultKind::SimdDivergence,
    FaultKind::Arithmetic,
    FaultKind::SimdLane,
];
