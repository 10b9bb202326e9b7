//! The operator `%`: the rest of a division, or a text with values in its places.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, State, Value};

use super::{invalid, print};

/// Applies the operator. The template's source calls this as a filter.
pub(super) fn modulo(state: &mut State, left: Value, right: Value) -> Result<Value, Error> {
    let Some(text) = left.as_str() else {
        return rest(&left, &right).ok_or_else(|| {
            let kinds = (left.kind(), right.kind());
            invalid(format!("cannot divide a value of type {} by one of type {}", kinds.0, kinds.1))
        });
    };
    if super::strings::is_wide(text) {
        return Err(invalid("%: a width is too large"));
    }
    let arguments = if right.is_tuple() {
        right.try_iter()?.collect()
    } else if right.kind() == ValueKind::Map {
        let fields = right.try_iter()?.filter_map(|key| {
            let value = right.get_item(&key).ok()?;
            Some((key.as_str()?.to_owned(), value))
        });
        vec![Value::from(Kwargs::from_iter(fields))]
    } else {
        vec![right]
    };
    let (text, arguments) = fitted(state, text, arguments)?;
    format(FormatStyle::Printf, &text, &arguments).map(Value::from)
}

/// A format and its arguments without conversions that the engine does not have: `%r`, values that
/// are neither texts nor numbers, and whole numbers of others.
fn fitted(
    state: &State<'_, '_>,
    text: &str,
    mut arguments: Vec<Value>,
) -> Result<(String, Vec<Value>), Error> {
    let named = arguments.first().is_some_and(Value::is_kwargs);
    let (mut out, mut rest, mut at) = (String::new(), text, 0);
    while let Some(start) = rest.find('%') {
        let length = rest[start + 1..].find(|c: char| !"#0- +.123456789".contains(c)).unwrap_or(0);
        let conversion = rest[start + 1 + length..].chars().next().unwrap_or('%');
        let end = (start + 1 + length + conversion.len_utf8()).min(rest.len());
        if named || matches!(conversion, '%' | '(' | '*') {
            out.push_str(&rest[..end]);
        } else {
            out.push_str(&rest[..start + 1 + length]);
            out.push(if conversion == 'r' { 's' } else { conversion });
            if let Some(value) = arguments.get_mut(at) {
                let number = f64::try_from(value.clone()).ok().filter(|_| !value.is_integer());
                *value = match (conversion, number) {
                    ('r', _) => Value::from(print::repr(state, value)?),
                    ('s', _) => Value::from(print::text(state, value)?),
                    ('d' | 'i' | 'u', Some(number)) if value.is_number() => {
                        Value::from(number.trunc() as i128)
                    }
                    _ => value.clone(),
                };
            }
            at += 1;
        }
        rest = &rest[end..];
    }
    Ok((out + rest, arguments))
}

/// The rest of a division with the sign of the divisor; `None` if there is none.
fn rest(left: &Value, right: &Value) -> Option<Value> {
    let whole = |value: &Value| match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    };
    if let (Some(left), Some(right)) = (whole(left), whole(right)) {
        let rest = left.checked_rem(right)?;
        return Some(Value::from(if rest != 0 && (rest < 0) != (right < 0) {
            rest + right
        } else {
            rest
        }));
    }
    let number = |value: &Value| {
        let number = matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
        f64::try_from(value.clone()).ok().filter(|_| number)
    };
    let (left, right) = (number(left)?, number(right).filter(|&right| right != 0.0)?);
    let rest = left % right;
    Some(Value::from(if rest != 0.0 && (rest < 0.0) != (right < 0.0) {
        rest + right
    } else {
        rest
    }))
}
