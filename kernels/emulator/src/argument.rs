//! The buffers of a launch, in the order of the kernel's signature.

use crate::buffer::{Buffer, elements};
use crate::source::{self, Hidden};
use crate::{Kernel, Launch};

/// A buffer of the launch with its bytes, from or to which the runtime copies.
pub(crate) struct Argument {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) element: usize,
    pub(crate) output: bool,
    pub(crate) hidden: bool,
}

/// Returns inputs with their shapes and the like, then outputs, in the order of the signature.
pub(crate) fn arguments(kernel: &Kernel, inputs: &[Buffer], launch: &Launch) -> Vec<Argument> {
    let mut arguments = Vec::new();
    for (name, input) in kernel.inputs.iter().zip(inputs) {
        arguments.push(Argument {
            name: (*name).to_string(),
            bytes: input.bytes.clone(),
            element: input.dtype.bytes(),
            output: false,
            hidden: false,
        });
        for h in source::hidden(kernel, name, input) {
            let (suffix, element, bytes): (_, _, Vec<u8>) = match h {
                Hidden::Shape => {
                    ("_shape", 4, input.shape.iter().flat_map(|d| d.to_ne_bytes()).collect())
                }
                Hidden::Strides => {
                    let strides = (0..input.shape.len())
                        .map(|axis| elements(&input.shape[axis + 1..]) as i64)
                        .flat_map(i64::to_ne_bytes);
                    ("_strides", 8, strides.collect())
                }
                Hidden::Ndim => ("_ndim", 4, (input.shape.len() as i32).to_ne_bytes().to_vec()),
            };
            let name = format!("{name}{suffix}");
            arguments.push(Argument { name, bytes, element, output: false, hidden: true });
        }
    }
    for (name, (shape, dtype)) in kernel.outputs.iter().zip(&launch.outputs) {
        let bytes = match launch.init_value {
            Some(value) => {
                let fill = std::iter::repeat_n(f64::from(value), elements(shape));
                Buffer::new(*dtype, shape, fill).bytes
            }
            None => vec![0; elements(shape) * dtype.bytes()],
        };
        let element = dtype.bytes();
        let name = (*name).to_string();
        arguments.push(Argument { name, bytes, element, output: true, hidden: false });
    }
    arguments
}
