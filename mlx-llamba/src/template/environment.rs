//! The environment of chat templates: jinja2 as `transformers` sets it up.

use jiff::ZonedDateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Value};

use super::scan::{self, Refusal};
use super::{json, python, weights};

/// The name of the template in its environment.
pub(super) const NAME: &str = "chat template";
/// The depth of nested macros, loops and blocks.
const RECURSION: usize = 128;

/// Compiles a template.
pub(super) fn compile(source: &str) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_recursion_limit(RECURSION);
    python::add_to_environment(&mut env);
    env.add_test("iterable", is_iterable);
    env.add_test("sequence", is_iterable);
    env.add_filter("tojson", json::tojson);
    env.add_function("raise_exception", |reason: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, reason))
    });
    env.remove_global("debug"); // not one of jinja2's
    weights::add_to_environment(&mut env);
    // As jinja2 does.
    let (source, variadic) = rewritten(&source.replace("\r\n", "\n").replace('\r', "\n"));
    let refused = |reason: &str| Error::new(ErrorKind::SyntaxError, reason.to_owned());
    let weighed = scan::weigh(&source, &variadic);
    if weighed == Err(Refusal::Long) {
        return Err(refused("it has longer expressions or conditions than can be compiled"));
    }
    // Errors are about the source as it is written.
    let weighed = weighed.map_err(|_| {
        let error = env.template_from_str(&source).err();
        error.unwrap_or_else(|| refused("it cannot be split into tokens"))
    })?;
    if let Err(error) = env.add_template_owned(NAME, weighed) {
        return Err(env.template_from_str(&source).err().unwrap_or(error));
    }
    Ok(env)
}

/// The tests `iterable` and `sequence` as jinja2 has them: texts and what is undefined are both.
fn is_iterable(value: &Value) -> bool {
    use ValueKind::{Iterable, Map, Seq, String, Undefined};
    matches!(value.kind(), Iterable | Map | Seq | String | Undefined)
}

/// Adds `strftime_now` with a fixed time.
pub(super) fn set_clock(env: &mut Environment<'static>, now: ZonedDateTime) {
    env.add_function("strftime_now", move |format: &str| -> Result<String, Error> {
        let text = jiff::fmt::strtime::format(format, &now);
        text.map_err(|e| {
            Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {e}"))
        })
    });
}

/// Replaces tags that the engine does not have: `{% generation %}`, which marks the assistant's text
/// for training, does nothing, and `{% block name %}`, which no other template can replace, is a
/// scope. Macros are declared as the engine understands them; returns the names of those that take
/// any arguments, too.
fn rewritten(source: &str) -> (String, Vec<String>) {
    let mut out = String::with_capacity(source.len());
    let mut variadic = Vec::new();
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (text, tag) = rest.split_at(start);
        out.push_str(text);
        let Some((inner, after)) = tag[2..].split_once("%}") else {
            rest = tag;
            break;
        };
        rest = after;
        let word = inner.trim_matches(['-', '+']).trim();
        let replaced = |by: &str| (inner.replace(word, by), String::new());
        let (inner, after) = match word.split_whitespace().next() {
            Some("generation") if word == "generation" => replaced("if true"),
            Some("endgeneration") if word == "endgeneration" => replaced("endif"),
            Some("block") => replaced("with"),
            Some("endblock") => replaced("endwith"),
            Some("macro") => match python::declared(inner, rest) {
                Some(declared) => {
                    variadic.extend(declared.variadic);
                    (declared.tag, declared.after)
                }
                None => (inner.to_owned(), String::new()),
            },
            _ => (inner.to_owned(), String::new()),
        };
        out.extend(["{%", &inner, "%}", &after]);
    }
    (out + rest, variadic)
}
