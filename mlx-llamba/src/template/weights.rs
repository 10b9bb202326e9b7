//! Charges fuel for the values that a template builds, and limits their depth.
//!
//! The engine charges no fuel for the sum of two lists: one that is doubled in a loop would take all
//! memory. Nor does it charge for a list that holds another one twice, which takes no memory, but
//! doubled sixty times takes forever to print or compare. And it walks values by recursion, which
//! ends the process for a value that is too deep. So [`weigh`](super::scan::weigh) applies these
//! filters to operands of `+`, to literals and to assigned values.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};

/// Items of a list per unit of fuel.
const ITEMS_PER_UNIT: u64 = 4;
/// Bytes of text per unit of fuel.
const BYTES_PER_UNIT: u64 = 64;
/// The depth of nested values. A request's values are less deep.
const DEPTH: usize = 160;

/// Adds the filters and limits other ways to join lists.
pub(super) fn add_to_environment(env: &mut Environment<'static>) {
    env.add_filter("weighed", weighed);
    env.add_filter("built", |state: &State<'_, '_>, value: Value| pay(state, value, false));
    env.add_filter("held", held);
    env.add_filter("kept", |state: &State<'_, '_>, value: Value| pay(state, value, true));
    env.add_filter("sum", sum);
    env.remove_filter("chain"); // not one of jinja2's
    env.remove_global("cycler"); // they can hold values of any depth
    env.remove_global("joiner");
}

/// Charges for an operand of a sum.
fn weighed(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return Ok(value);
    }
    if let Some(items) = value.len() {
        state.consume_fuel(items as u64 / ITEMS_PER_UNIT)?;
        return Ok(value);
    }
    listed(state, &value)
}

/// Charges for a value that a namespace keeps between iterations of a loop. A lazy view of a list
/// becomes a list: otherwise reading it would take longer with every iteration.
fn held(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    let value = match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => listed(state, &value)?,
        _ => value,
    };
    pay(state, value, false)
}

/// The items of a value as a list, each charged for.
fn listed(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    let pay = |item| state.consume_fuel(1).map(|()| item);
    value.try_iter()?.map(pay).collect()
}

/// Charges for everything in a value. With `namespace` it can be a namespace itself, but none can be
/// inside it: one that holds itself has no end.
fn pay(state: &State<'_, '_>, value: Value, namespace: bool) -> Result<Value, Error> {
    walk(state, &value, if namespace { 0 } else { 1 })?;
    Ok(value)
}

fn walk(state: &State<'_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
    let refused = |reason: &str| Err(Error::new(ErrorKind::InvalidOperation, reason.to_owned()));
    let kind = value.kind();
    if let Some(text) = value.as_str() {
        return state.consume_fuel(text.len() as u64 / BYTES_PER_UNIT);
    }
    if !matches!(kind, ValueKind::Seq | ValueKind::Map) {
        return Ok(());
    }
    if depth > DEPTH {
        return refused("a value is nested too deeply");
    }
    let namespace = value.as_object().is_some_and(|o| o.type_name().ends_with("::Namespace"));
    if namespace && depth > 0 {
        return refused("a namespace cannot be part of another value");
    }
    for item in value.try_iter()? {
        state.consume_fuel(1)?;
        match kind {
            ValueKind::Map => {
                walk(state, &value.get_item(&item)?, depth + 1)?;
                walk(state, &item, depth + 1)?;
            }
            _ => walk(state, &item, depth + 1)?,
        }
    }
    Ok(())
}

/// The filter `sum`, of numbers alone.
fn sum(
    state: &State<'_, '_>,
    values: Value,
    attribute: Option<&str>,
    start: Option<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let first = start.clone().or_else(|| options.peek("start").ok());
    if first.is_some_and(|start| !start.is_number()) {
        return Err(Error::new(ErrorKind::InvalidOperation, "sum: start must be a number"));
    }
    filters::sum(state, values, attribute, start, options)
}
