//! Parameters of macros as jinja2 has them: defaults that use earlier parameters, and `varargs` and
//! `kwargs` for all other arguments.

use minijinja::value::{Kwargs, Rest, Tuple, ValueOrKwargs};
use minijinja::{Error, State, Value};

use super::invalid;

/// A macro's declaration in a form that the engine evaluates as jinja2 does.
pub(in super::super) struct Declared {
    /// The inside of the tag.
    pub(in super::super) tag: String,
    /// Tags behind it.
    pub(in super::super) after: String,
    /// The name, if it takes all other arguments.
    pub(in super::super) variadic: Option<String>,
}

/// Rewrites the inside of a tag `{% macro name(parameters) %}`, if it has to be; `body` comes behind
/// the tag.
pub(in super::super) fn declared(tag: &str, body: &str) -> Option<Declared> {
    let body = body.find("endmacro").map_or(body, |end| &body[..end]);
    let (open, close) = (tag.find('(')?, tag.rfind(')')?);
    let name = tag[..open].trim_start_matches(['-', '+']).trim().strip_prefix("macro")?.trim();
    let list = tag.get(open + 1..close)?;
    let mut known: Vec<&str> = Vec::new();
    let (mut parameters, mut after) = (Vec::new(), String::new());
    for parameter in split(list).into_iter().map(str::trim).filter(|p| !p.is_empty()) {
        let (name, default) = parameter.split_once('=').unwrap_or((parameter, ""));
        let name = name.trim();
        if words(default).any(|word| known.contains(&word)) {
            // A name that nothing has.
            parameters.push(format!("{name}=undefined__"));
            let end = if tag.ends_with('-') { "-" } else { "" };
            after += &format!(
                "{{% set {name} = ({default}) if {name} is undefined else {name} {end}%}}"
            );
        } else {
            parameters.push(parameter.to_owned());
        }
        known.push(name);
    }
    let variadic = words(body).any(|word| matches!(word, "varargs" | "kwargs"));
    if after.is_empty() && !variadic {
        return None;
    }
    if variadic {
        // Behind parameters with defaults, those have to have some, too.
        parameters.extend(["varargs=none".to_owned(), "kwargs=none".to_owned()]);
    }
    let tag = [&tag[..=open], &parameters.join(", "), &tag[close..]].concat();
    Some(Declared { tag, after, variadic: variadic.then(|| name.to_owned()) })
}

/// Calls a macro that takes all other arguments. The template's source calls this as a filter.
pub(super) fn applied(state: &mut State, given: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let mut given = given.0.into_iter().map(ValueOrKwargs::into_value);
    let callee = given.next().unwrap_or_default();
    let names: Vec<String> =
        callee.get_attr("arguments")?.try_iter()?.map(|n| n.to_string()).collect();
    let count = names.len().checked_sub(2).ok_or_else(|| invalid("a macro was replaced"))?;
    let (mut own, mut more, mut named) = (vec![Value::UNDEFINED; count], Vec::new(), Vec::new());
    let mut at = 0;
    for value in given {
        state.consume_fuel(1)?;
        if value.is_kwargs() {
            let kwargs = Kwargs::try_from(value)?;
            for key in kwargs.args() {
                let value: Value = kwargs.peek(key)?;
                match names[..count].iter().position(|name| name == key) {
                    Some(at) => own[at] = value,
                    None => named.push((key.to_owned(), value)),
                }
            }
        } else if at < count {
            own[at] = value;
            at += 1;
        } else {
            more.push(value);
        }
    }
    own.push(Value::from(Tuple::from(more)));
    own.push(Value::from_pairs(named));
    callee.call(state, &own)
}

/// Parts between commas that are in no brackets and no text.
fn split(list: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut quote) = (Vec::new(), 0, 0usize, None);
    let mut escaped = false;
    for (at, byte) in list.bytes().enumerate() {
        match (byte, quote) {
            _ if escaped => escaped = false,
            (b'\\', Some(_)) => escaped = true,
            (b'"' | b'\'', None) => quote = Some(byte),
            (_, Some(open)) if byte == open => quote = None,
            (_, Some(_)) => {}
            (b'(' | b'[' | b'{', None) => depth += 1,
            (b')' | b']' | b'}', None) => depth = depth.saturating_sub(1),
            (b',', None) if depth == 0 => {
                parts.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[start..]);
    parts
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
}
