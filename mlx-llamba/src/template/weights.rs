//! Charges fuel for the values that a template builds, and limits their depth.
//!
//! The engine charges no fuel for the sum of two lists: one that is doubled in a loop would take all
//! memory. Nor does it charge for a list that holds another one twice, which takes no memory, but
//! doubled sixty times takes forever to print or compare. And it walks values by recursion, which
//! ends the process for a value that is too deep. So [`weigh`](super::scan::weigh) applies these
//! filters to operands of `+`, to literals and to assigned values.

use minijinja::tests::is_sameas;
use minijinja::value::{DynObject, Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};

/// Items of a list per unit of fuel.
const ITEMS_PER_UNIT: u64 = 4;
/// Bytes of text per unit of fuel.
const BYTES_PER_UNIT: u64 = 64;
/// The depth of nested values. A request's values are less deep.
const DEPTH: usize = 160;

/// The number of times that namespaces are part of other values. What is assigned to a namespace
/// later is paid for as often.
#[derive(Default)]
struct Parts(u64);

/// Adds the filters and limits other ways to join lists.
pub(super) fn add_to_environment(env: &mut Environment<'static>) {
    env.add_filter("weighed", weighed);
    env.add_filter("built", |state: &mut State<'_, '_>, value: Value| pay(state, value, None));
    env.add_filter("held", held);
    env.add_filter("kept", |state: &mut State<'_, '_>, value: Value| pay(state, value, None));
    env.add_filter("sum", sum);
    env.remove_filter("chain"); // not one of jinja2's
}

/// True for mappings that are no object of the engine.
pub(super) fn is_data(value: &Value) -> bool {
    let engine = |object: &DynObject| object.type_name().starts_with("minijinja::vm");
    value.kind() == ValueKind::Map && !is_namespace(value) && !value.as_object().is_some_and(engine)
}

pub(super) fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

pub(super) fn is_macro(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Macro"))
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
fn held(state: &mut State<'_, '_>, value: Value, into: Option<Value>) -> Result<Value, Error> {
    let value = match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => listed(state, &value)?,
        _ => value,
    };
    pay(state, value, Some(&into.unwrap_or_default()))
}

/// The items of a value as a list, each charged for.
fn listed(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    let pay = |item| state.consume_fuel(1).map(|()| item);
    value.try_iter()?.map(pay).collect()
}

/// Charges for everything in a value. One that is assigned to a field of a namespace cannot contain
/// that namespace, which would have no end, or any if `into` is not known.
fn pay(state: &mut State<'_, '_>, value: Value, into: Option<&Value>) -> Result<Value, Error> {
    let times = match into {
        Some(_) => 1 + state.get_or_insert_extension(Parts::default()).0,
        None => 1,
    };
    let mut walk = Walk { state, into, times, namespaces: 0 };
    walk.value(&value, 0)?;
    let found = walk.namespaces;
    if found > 0 {
        let parts = state.get_or_insert_extension(Parts::default());
        parts.0 = parts.0.saturating_add(found);
    }
    Ok(value)
}

struct Walk<'w, 's> {
    state: &'w State<'s, 's>,
    into: Option<&'w Value>,
    /// The factor by which the fuel of each unit is multiplied.
    times: u64,
    namespaces: u64,
}

impl Walk<'_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let refused =
            |reason: &str| Err(Error::new(ErrorKind::InvalidOperation, reason.to_owned()));
        if let Some(text) = value.as_str() {
            return self.state.consume_fuel(self.cost(text.len() as u64 / BYTES_PER_UNIT));
        }
        if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) {
            return Ok(());
        }
        if depth > DEPTH {
            return refused("a value is nested too deeply");
        }
        if is_namespace(value) {
            match self.into {
                Some(into) if !is_namespace(into) => {
                    return refused("a namespace cannot be a part of one that is not known");
                }
                Some(into) if is_sameas(into, value) => {
                    return refused("a namespace cannot be a part of itself");
                }
                _ => self.namespaces += 1,
            }
        }
        for item in value.try_iter()? {
            self.state.consume_fuel(self.cost(1))?;
            if value.kind() == ValueKind::Map {
                self.value(&value.get_item(&item)?, depth + 1)?;
            }
            self.value(&item, depth + 1)?;
        }
        Ok(())
    }

    fn cost(&self, units: u64) -> u64 {
        units.saturating_mul(self.times)
    }
}

/// The filter `sum`. Lists are charged for, and nothing else but numbers has a sum.
fn sum(
    state: &State<'_, '_>,
    values: Value,
    attribute: Option<&str>,
    start: Option<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let first = start.clone().or_else(|| options.get("start").ok());
    let attribute = attribute.map(ToOwned::to_owned).or_else(|| options.get("attribute").ok());
    if let Some(first) = first.as_ref().filter(|first| first.kind() == ValueKind::Seq) {
        let mut all: Vec<Value> = first.try_iter()?.collect();
        for item in values.try_iter()? {
            let item = match &attribute {
                Some(name) => item.get_attr(name)?,
                None => item,
            };
            state.consume_fuel(all.len() as u64 / ITEMS_PER_UNIT)?;
            all.extend(listed(state, &item)?.try_iter()?);
        }
        options.assert_all_used()?;
        return Ok(Value::from(all));
    }
    if first.is_some_and(|start| !start.is_number()) {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "sum: start must be a number or a list",
        ));
    }
    filters::sum(state, values, attribute.as_deref(), start, options)
}
