//! The endpoints.

pub(crate) mod answer;
pub(crate) mod call;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod constraints;
pub(crate) mod embeddings;
pub(crate) mod messages;
pub(crate) mod models;
pub(crate) mod responses;
pub(crate) mod sessions;
pub(crate) mod stream;
pub(crate) mod tokenize;
pub(crate) mod tokens;
pub(crate) mod usage;

use mlx_llamba::Reason;

pub(crate) use crate::app::{App, Client, now};
pub(crate) use call::Call;

/// OpenAI's word for the end of a text.
pub(crate) fn finish(reason: &Reason) -> &'static str {
    match reason {
        Reason::Length | Reason::Constraint(_) => "length",
        _ => "stop",
    }
}
