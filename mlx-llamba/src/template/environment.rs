//! What chat templates may use: jinja2 as `transformers` sets it up.

use jiff::ZonedDateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind};

use super::{json, sums};

/// The name of the template in its environment.
pub(super) const NAME: &str = "chat template";
/// Nested macros, loops and blocks.
const RECURSION: usize = 128;

/// Compiles a template.
pub(super) fn compile(source: &str) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_recursion_limit(RECURSION);
    minijinja_contrib::add_to_environment(&mut env);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_filter("tojson", json::tojson);
    env.add_function("raise_exception", |reason: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, reason))
    });
    sums::add_to_environment(&mut env);
    let source = without_marks(source);
    env.template_from_str(&source)?; // what is wrong with it is said in its own words
    let Some(weighed) = sums::weigh(&source) else {
        return Err(Error::new(ErrorKind::SyntaxError, "it cannot be cut into tokens"));
    };
    env.add_template_owned(NAME, weighed)?;
    Ok(env)
}

/// Gives the template its clock.
pub(super) fn set_clock(env: &mut Environment<'static>, now: ZonedDateTime) {
    env.add_function("strftime_now", move |format: &str| -> Result<String, Error> {
        let text = jiff::fmt::strtime::format(format, &now);
        text.map_err(|e| {
            Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {e}"))
        })
    });
}

/// Replaces `{% generation %}` and `{% endgeneration %}`, with which templates mark the text of
/// the assistant for training, by blocks that do nothing.
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
