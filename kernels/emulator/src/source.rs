//! The C++ around a kernel's body: MLX's signature, and the function that the runtime calls.

use crate::buffer::{Buffer, Dtype, elements};
use crate::spaces::address_spaces;
use crate::{Kernel, Launch, TemplateArg};

/// MLX's attributes, each with its type and the runtime's variable for it.
const ATTRIBUTES: [(&str, &str, &str); 20] = [
    ("dispatch_quadgroups_per_threadgroup", "uint", "i.simdgroups * 8"),
    ("dispatch_simdgroups_per_threadgroup", "uint", "i.simdgroups"),
    ("dispatch_threads_per_threadgroup", "uint3", "i.dispatch_threads_per_group"),
    ("grid_origin", "uint3", "EmuUint3{}"),
    ("grid_size", "uint3", "i.threads_per_grid"),
    ("quadgroup_index_in_threadgroup", "uint", "i.index_in_group / 4"),
    ("quadgroups_per_threadgroup", "uint", "i.simdgroups * 8"),
    ("simdgroup_index_in_threadgroup", "uint", "i.simdgroup"),
    ("simdgroups_per_threadgroup", "uint", "i.simdgroups"),
    ("thread_execution_width", "uint", "i.lanes"),
    ("thread_index_in_quadgroup", "uint", "i.lane % 4"),
    ("thread_index_in_simdgroup", "uint", "i.lane"),
    ("thread_index_in_threadgroup", "uint", "i.index_in_group"),
    ("thread_position_in_grid", "uint3", "i.thread_in_grid"),
    ("thread_position_in_threadgroup", "uint3", "i.thread_in_group"),
    ("threadgroup_position_in_grid", "uint3", "i.group_in_grid"),
    ("threadgroups_per_grid", "uint3", "i.groups_per_grid"),
    ("threads_per_grid", "uint3", "i.threads_per_grid"),
    ("threads_per_simdgroup", "uint", "i.lanes"),
    ("threads_per_threadgroup", "uint3", "i.threads_per_group"),
];

/// Arrays with fewer elements come in the constant address space.
const CONSTANT_BELOW: usize = 8;

/// Arguments passed beside an input, if the source uses them.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Hidden {
    Shape,
    Strides,
    Ndim,
}

/// Returns those that input `name` needs, in the order of the signature.
pub(crate) fn hidden(kernel: &Kernel, name: &str, input: &Buffer) -> Vec<Hidden> {
    if input.shape.is_empty() {
        return Vec::new();
    }
    let all = [(Hidden::Shape, "_shape"), (Hidden::Strides, "_strides"), (Hidden::Ndim, "_ndim")];
    let mentioned = |suffix: &str| kernel.source.contains(&format!("{name}{suffix}"));
    all.into_iter().filter(|(_, suffix)| mentioned(suffix)).map(|(h, _)| h).collect()
}

/// The purpose of the C++.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum For {
    /// g++, to run.
    Running,
    /// clang, to check types: classes cannot be in address spaces there, so half replaces bfloat.
    Checking,
}

/// Returns the C++ of one instantiation.
pub(crate) fn generate(kernel: &Kernel, inputs: &[Buffer], launch: &Launch, how: For) -> String {
    let name_of = |dtype: Dtype| match (how, dtype) {
        (For::Checking, Dtype::BF16) => Dtype::F16.metal_name(),
        _ => dtype.metal_name(),
    };
    let mut parameters = Vec::new();
    let mut arguments = Vec::new();
    let mut pass = |parameter: String, argument_type: String, reference: bool| {
        let star = if reference { "*" } else { "" };
        arguments.push(format!("{star}static_cast<{argument_type}*>(b[{}])", arguments.len()));
        parameters.push(parameter);
    };
    for (name, input) in kernel.inputs.iter().zip(inputs) {
        let dtype = name_of(input.dtype);
        let space = if elements(&input.shape) < CONSTANT_BELOW { "constant" } else { "device" };
        let scalar = input.shape.is_empty();
        let mark = if scalar { "&" } else { "*" };
        pass(format!("const {space} {dtype}{mark} {name}"), format!("const {dtype}"), scalar);
        for h in hidden(kernel, name, input) {
            match h {
                Hidden::Shape => {
                    pass(format!("const constant int* {name}_shape"), "const int".into(), false);
                }
                Hidden::Strides => {
                    let parameter = format!("const constant int64_t* {name}_strides");
                    pass(parameter, "const int64_t".into(), false);
                }
                Hidden::Ndim => {
                    pass(format!("const constant int& {name}_ndim"), "const int".into(), true);
                }
            }
        }
    }
    for (name, (_, dtype)) in kernel.outputs.iter().zip(&launch.outputs) {
        let dtype = name_of(*dtype);
        pass(format!("device {dtype}* {name}"), dtype.into(), false);
    }
    for (name, kind, value) in ATTRIBUTES {
        if kernel.source.contains(name) {
            parameters.push(format!("{kind} {name}"));
            arguments.push(match kind {
                "uint3" => format!("emu_uint3({value})"),
                _ => value.to_string(),
            });
        }
    }

    let (mut template, mut values) = (String::new(), String::new());
    if !launch.template.is_empty() {
        let parameter = |(name, arg): &(&str, TemplateArg)| match arg {
            TemplateArg::Dtype(_) => format!("typename {name}"),
            TemplateArg::Int(_) => format!("int {name}"),
            TemplateArg::Bool(_) => format!("bool {name}"),
        };
        let value = |(_, arg): &(&str, TemplateArg)| match arg {
            TemplateArg::Dtype(d) => name_of(*d).to_string(),
            TemplateArg::Int(i) => i.to_string(),
            TemplateArg::Bool(b) => b.to_string(),
        };
        let list = |items: Vec<String>| items.join(", ");
        template =
            format!("template <{}>\n", list(launch.template.iter().map(parameter).collect()));
        values = format!("<{}>", list(launch.template.iter().map(value).collect()));
    }

    let file = match kernel.path {
        Some(path) => path.display().to_string(),
        None => format!("{}.metal", kernel.name),
    };
    let entry = match how {
        For::Running => format!(
            "static uint3 emu_uint3(EmuUint3 v) {{ return uint3(v.x, v.y, v.z); }}\n\
             void emu_kernel(void** b, const EmuIds* ids) {{\n\
             const EmuIds& i = *ids; (void)i; (void)emu_uint3;\n\
             emu_body{values}({});\n\
             }}",
            arguments.join(", ")
        ),
        For::Checking => format!("void emu_use() {{ (void)&emu_body{values}; }}"),
    };
    let mut guards = 0;
    let header = address_spaces(kernel.header, &mut guards);
    let source = address_spaces(kernel.source, &mut guards);
    format!(
        "#include \"metal_stdlib.h\"\n\
         #line 1 \"{name}.header.metal\"\n\
         {header}\n\
         #line 1 \"signature\"\n\
         {template}static __attribute__((noinline)) void emu_body(\n{parameters}) {{\n\
         EMU_GUARD(first)\n\
         #line 1 {file:?}\n\
         {source}\n\
         }}\n\
         #line 1 \"entry\"\n\
         {entry}\n",
        name = kernel.name,
        parameters = parameters.join(",\n"),
    )
}
