//! The global functions `cycler`, `joiner` and `dict`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use minijinja::value::{Object, ObjectRepr, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::invalid;

pub(super) fn add_to_environment(env: &mut Environment<'static>) {
    env.add_function("cycler", |items: Rest<Value>| {
        // Others could be of any depth, which the engine walks by recursion.
        let simple = |item: &Value| {
            matches!(
                item.kind(),
                ValueKind::String | ValueKind::Number | ValueKind::Bool | ValueKind::None
            )
        };
        if items.0.is_empty() || !items.0.iter().all(simple) {
            return Err(invalid("cycler: expected texts or numbers"));
        }
        Ok(Value::from_object(Cycler { items: items.0, at: AtomicUsize::new(0) }))
    });
    env.add_function("joiner", |text: Option<String>| {
        let text = text.unwrap_or_else(|| ", ".to_owned());
        Value::from_object(Joiner { text, used: AtomicBool::new(false) })
    });
    env.add_function("dict", dict);
}

#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let current = || self.items.get(self.at.load(Ordering::Relaxed)).cloned();
        (key.as_str() == Some("current")).then(current).flatten()
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        let () = from_args(args)?;
        let at = self.at.load(Ordering::Relaxed);
        match method {
            "next" => {
                self.at.store((at + 1) % self.items.len(), Ordering::Relaxed);
                Ok(self.items.get(at).cloned().unwrap_or_default())
            }
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

#[derive(Debug)]
struct Joiner {
    text: String,
    used: AtomicBool,
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State, args: &[Value]) -> Result<Value, Error> {
        let () = from_args(args)?;
        let used = self.used.swap(true, Ordering::Relaxed);
        Ok(Value::from(if used { self.text.as_str() } else { "" }))
    }
}

/// A mapping from another one or from pairs, and from named arguments.
fn dict(state: &mut State, given: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let mut fields: Vec<(Value, Value)> = Vec::new();
    for (i, given) in given.0.into_iter().map(ValueOrKwargs::into_value).enumerate() {
        let mapping = given.is_kwargs() || given.kind() == ValueKind::Map;
        if i > 0 && !given.is_kwargs() {
            return Err(Error::from(ErrorKind::TooManyArguments));
        }
        for item in given.try_iter()? {
            state.consume_fuel(1)?;
            let value = match mapping {
                true => given.get_item(&item)?,
                false => item.get_item(&Value::from(1))?,
            };
            let key = if mapping { item } else { item.get_item(&Value::from(0))? };
            fields.push((key, value));
        }
    }
    Ok(Value::from_pairs(fields))
}
