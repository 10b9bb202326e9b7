//! Server-sent events.

use std::convert::Infallible;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, stream};
use serde::Serialize;

use super::App;
use crate::problem::Problem;

/// What makes the chunks of a stream, one call after the other.
pub(crate) trait Chunks: Send + 'static {
    /// The next chunks as JSON; nothing at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Vec<String>>, Problem>> + Send;
}

/// The answer to a request for a stream. A failure on the way becomes its last event, in the
/// shape of any other error; `[DONE]` stands at the end of whole streams only.
pub(crate) fn respond(app: &App, chunks: impl Chunks) -> Response {
    let keep_alive = KeepAlive::new().interval(app.options.limits.keep_alive).text("keep-alive");
    Sse::new(events(chunks)).keep_alive(keep_alive).into_response()
}

fn events(chunks: impl Chunks) -> impl Stream<Item = Result<Event, Infallible>> {
    let batches = stream::unfold(Some(chunks), |chunks| async {
        let mut chunks = chunks?;
        let (texts, rest) = match chunks.next().await {
            Ok(Some(texts)) => (texts, Some(chunks)),
            Ok(None) => (vec!["[DONE]".to_owned()], None),
            Err(problem) => (vec![json(&problem.body())], None),
        };
        let events = texts.into_iter().map(|text| Ok(Event::default().data(text)));
        Some((stream::iter(events), rest))
    });
    futures_util::StreamExt::flatten(batches)
}

/// A value of ours as JSON.
pub(crate) fn json(value: &impl Serialize) -> String {
    // Strings, numbers and lists of them: nothing that could fail.
    serde_json::to_string(value).unwrap_or_default()
}
