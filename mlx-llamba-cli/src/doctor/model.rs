//! The check of a model's files: headers, tokenizer, and the memory that it needs.

use anyhow::Result;
use mlx_llamba::inspect::Summary;
use mlx_llamba::units::bytes;
use mlx_llamba_teacher::{TeacherSummary, is_teacher, tokenizer_of};
use serde_json::json;

use super::Finding;
use super::memory::of_machine;
use crate::model::builder;

/// Checks the model of this name; `online` permits downloads.
pub(super) fn look(name: &str, online: bool) -> Vec<Finding> {
    let of_hub = "see its message; --hub permits downloads";
    let sizes = memory_of(name, !online);
    let (text, needed) = match sizes {
        Ok(found) => found,
        Err(error) => {
            let text = format!("{name}: {}", crate::output::describe(&error));
            return vec![Finding::problem("model", text, of_hub)];
        }
    };
    let details = json!({ "model": name, "bytes": needed });
    let total = of_machine().map_or(u64::MAX, |memory| memory.total);
    let model = if needed > total {
        let text = format!("{text}, more than the {} of this machine", bytes(total));
        Finding::problem("model", text, "use a smaller model, or one in 4 bits")
    } else {
        Finding::good("model", text)
    };
    let tokenizer = match tokenizer(name, !online) {
        Ok(()) => Finding::good("tokenizer", "the model's own"),
        Err(error) => Finding::warning(
            "tokenizer",
            crate::output::describe(&error),
            "name one with --tokenizer where the model reads text",
        ),
    };
    vec![model.with(details), tokenizer]
}

/// Reads the headers. Returns a description, and the bytes of memory that the model needs.
fn memory_of(name: &str, offline: bool) -> Result<(String, u64)> {
    let builder = builder(Some(name).filter(|name| *name != mlx_llamba::EMBEDDED_MODEL), offline);
    let (layout, needed) = match builder.path()?.filter(|path| is_teacher(path)) {
        Some(path) => {
            let summary = TeacherSummary::of(&path)?;
            (format!("a Transformer, {}", summary.layout), summary.tensor_bytes)
        }
        None => {
            let summary = Summary::of(&builder.checkpoint()?)?;
            (format!("a Llamba, {}", summary.layout), summary.memory_bytes)
        }
    };
    Ok((format!("{name}: {layout}; needs about {}", bytes(needed)), needed))
}

fn tokenizer(name: &str, offline: bool) -> Result<()> {
    let builder = builder(Some(name).filter(|name| *name != mlx_llamba::EMBEDDED_MODEL), offline);
    match builder.path()?.filter(|path| is_teacher(path)) {
        Some(path) => tokenizer_of(&path).map(drop)?,
        None => builder.load_tokenizer().map(drop)?,
    }
    Ok(())
}
