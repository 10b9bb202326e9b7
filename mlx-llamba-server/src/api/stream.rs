//! Server-sent events.

use std::convert::Infallible;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, stream};
use serde::Serialize;

use super::App;
use crate::problem::Problem;

/// A source of a stream's chunks.
pub(crate) trait Chunks: Send + 'static {
    /// The events of a stream: named by the `type` of their data, or without names and with
    /// `[DONE]` at the end.
    const NAMED: bool;

    /// Returns the next chunks as JSON; `None` at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Vec<String>>, Problem>> + Send;
}

/// Makes the answer of a stream. An error becomes the last event, in the shape of any other error;
/// only a complete stream ends with `[DONE]` or with the event that its form ends with.
pub(crate) fn respond(app: &App, chunks: impl Chunks) -> Response {
    let keep_alive = KeepAlive::new().interval(app.options.limits.keep_alive).text("keep-alive");
    Sse::new(events(chunks)).keep_alive(keep_alive).into_response()
}

fn events<C: Chunks>(chunks: C) -> impl Stream<Item = Result<Event, Infallible>> {
    let batches = stream::unfold(Some(chunks), |chunks| async {
        let mut chunks = chunks?;
        let (texts, rest) = match chunks.next().await {
            Ok(Some(texts)) => (texts, Some(chunks)),
            Ok(None) if C::NAMED => (Vec::new(), None),
            Ok(None) => (vec!["[DONE]".to_owned()], None),
            Err(problem) => (vec![json(&problem.body())], None),
        };
        let event = |text: String| match C::NAMED {
            true => Event::default().event(name(&text)).data(text),
            false => Event::default().data(text),
        };
        let events: Vec<_> = texts.into_iter().map(|text| Ok(event(text))).collect();
        Some((stream::iter(events), rest))
    });
    futures_util::StreamExt::flatten(batches)
}

/// The type of an event's data. Errors have no type of their own.
fn name(data: &str) -> String {
    let data: serde_json::Value = serde_json::from_str(data).unwrap_or_default();
    data["type"].as_str().unwrap_or("error").to_owned()
}

/// Writes a value as JSON.
pub(crate) fn json(value: &impl Serialize) -> String {
    // Strings, numbers and lists of them cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}
