//! The environment of chat templates: jinja2 as `transformers` sets it up.

use jiff::ZonedDateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Value};

use super::scan::{self, Refusal};
use super::{json, weights};

/// The name of the template in its environment.
pub(super) const NAME: &str = "chat template";
/// The depth of nested macros, loops and blocks.
const RECURSION: usize = 128;

/// Compiles a template.
pub(super) fn compile(source: &str) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_recursion_limit(RECURSION);
    minijinja_contrib::add_to_environment(&mut env);
    env.set_unknown_method_callback(|state, value, method, arguments| {
        // The engine charges fuel for a padded text only after making it.
        if method == "format" && value.as_str().is_some_and(is_wide) {
            return Err(Error::new(ErrorKind::InvalidOperation, "format: a width is too large"));
        }
        minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)
    });
    env.add_test("iterable", is_iterable);
    env.add_test("sequence", is_iterable);
    env.add_filter("tojson", json::tojson);
    env.add_function("raise_exception", |reason: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, reason))
    });
    weights::add_to_environment(&mut env);
    // As jinja2 does.
    let source = without_marks(&source.replace("\r\n", "\n").replace('\r', "\n"));
    let refused = |reason: &str| Error::new(ErrorKind::SyntaxError, reason.to_owned());
    let weighed = scan::weigh(&source);
    if weighed == Err(Refusal::Long) {
        return Err(refused("it has longer expressions or conditions than can be compiled"));
    }
    env.template_from_str(&source)?; // for errors about the source as it is written
    let weighed = weighed.map_err(|_| refused("it cannot be split into tokens"))?;
    env.add_template_owned(NAME, weighed)?;
    Ok(env)
}

/// The tests `iterable` and `sequence` as jinja2 has them: texts and what is undefined are both.
fn is_iterable(value: &Value) -> bool {
    use ValueKind::{Iterable, Map, Seq, String, Undefined};
    matches!(value.kind(), Iterable | Map | Seq | String | Undefined)
}

/// True if a format has a number of more than four digits.
fn is_wide(format: &str) -> bool {
    format.as_bytes().windows(5).any(|digits| digits.iter().all(u8::is_ascii_digit))
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

/// Replaces `{% generation %}` and `{% endgeneration %}`, which mark the assistant's text for
/// training, by blocks that do nothing.
fn without_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (text, tag) = rest.split_at(start);
        out.push_str(text);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let inner = &tag[2..end];
        let word = inner.trim_matches(['-', '+']).trim();
        out.push_str("{%");
        out.push_str(&match word {
            "generation" => inner.replace(word, "if true"),
            "endgeneration" => inner.replace(word, "endif"),
            _ => inner.to_owned(),
        });
        out.push_str("%}");
        rest = &tag[end + 2..];
    }
    out + rest
}
