//! Arguments by position and by name, as Python's functions take them.

use minijinja::value::{Kwargs, Rest, ValueOrKwargs};
use minijinja::{Error, ErrorKind, Value};

/// The arguments of one call, in the order of their names.
pub(in super::super) struct Arguments(Vec<Option<Value>>);

impl Arguments {
    /// Assigns arguments to the parameters `names`.
    pub(in super::super) fn bind(
        given: impl IntoIterator<Item = Value>,
        names: &[&str],
    ) -> Result<Self, Error> {
        let (mut found, mut at) = (vec![None; names.len()], 0);
        for value in given {
            if !value.is_kwargs() {
                *found.get_mut(at).ok_or_else(|| Error::from(ErrorKind::TooManyArguments))? =
                    Some(value);
                at += 1;
                continue;
            }
            let kwargs = Kwargs::try_from(value)?;
            for (place, name) in found.iter_mut().zip(names) {
                if place.is_none() && kwargs.has(name) {
                    *place = Some(kwargs.get(name)?);
                }
            }
            kwargs.assert_all_used()?;
        }
        Ok(Self(found))
    }

    /// Takes the value that a filter is applied to and its arguments.
    pub(in super::super) fn of_filter(
        given: Rest<ValueOrKwargs>,
        names: &[&str],
    ) -> Result<(Value, Self), Error> {
        let mut given = given.0.into_iter().map(ValueOrKwargs::into_value);
        let value = given.next().unwrap_or_default();
        Ok((value, Self::bind(given, names)?))
    }

    /// Takes an argument; `None` if it is absent.
    pub(in super::super) fn take(&mut self, at: usize) -> Option<Value> {
        self.0.get_mut(at).and_then(Option::take)
    }

    /// Takes a whole number.
    pub(in super::super) fn integer(&mut self, at: usize, default: i64) -> Result<i64, Error> {
        self.take(at).map_or(Ok(default), i64::try_from)
    }

    /// Takes a number of characters, which is at least 0.
    pub(in super::super) fn width(&mut self, at: usize, default: usize) -> Result<usize, Error> {
        let width = self.integer(at, i64::try_from(default).unwrap_or(i64::MAX))?;
        Ok(usize::try_from(width).unwrap_or(0))
    }

    /// Takes a text.
    pub(in super::super) fn text(&mut self, at: usize, default: &str) -> Result<String, Error> {
        self.take(at).map_or(Ok(default.to_owned()), text)
    }

    /// Takes a text; `None` if it is absent or none.
    pub(in super::super) fn optional(&mut self, at: usize) -> Result<Option<String>, Error> {
        self.take(at).filter(|value| !value.is_none()).map(text).transpose()
    }

    /// Takes a value that is true or false.
    pub(in super::super) fn flag(&mut self, at: usize, default: bool) -> bool {
        self.take(at).map_or(default, |value| value.is_true())
    }
}

fn text(value: Value) -> Result<String, Error> {
    let text = value.as_str().map(ToOwned::to_owned);
    text.ok_or_else(|| super::invalid(format!("expected a text, found {}", value.kind())))
}
