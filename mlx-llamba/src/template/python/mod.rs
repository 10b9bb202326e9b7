//! Parts of Python and jinja2 that the engine lacks, or has otherwise: methods of texts, filters,
//! the operator `%`, and the text of values.

mod arguments;
mod filters;
mod macros;
mod objects;
mod percent;
mod print;
mod strings;
mod wrap;

use minijinja::{Environment, Error, ErrorKind};

pub(super) use arguments::Arguments;
pub(super) use macros::declared;
pub(super) use print::float;

/// Adds all of it.
pub(super) fn add_to_environment(env: &mut Environment<'static>) {
    env.set_unknown_method_callback(strings::method);
    env.set_formatter(print::format);
    filters::add_to_environment(env);
    objects::add_to_environment(env);
    env.add_filter("modulo", percent::modulo);
    env.add_filter("applied", macros::applied);
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}
