//! Calls of endpoints that take a JSON body.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};

use super::{App, Client};
use crate::problem::Problem;
use crate::request::body::{Body, parse};
use crate::request::cost;

/// The header that names parameters which were ignored.
pub(crate) const IGNORED: &str = "x-ignored-parameters";

/// A call with its body.
pub(crate) struct Call<T> {
    pub(crate) client: Client,
    /// The session in the path.
    pub(crate) id: Option<String>,
    pub(crate) body: T,
}

/// Makes an endpoint of a function that takes a body. The answer names parameters that were
/// ignored.
pub(crate) fn with_body<T, F, A>(function: F) -> MethodRouter<Arc<App>>
where
    T: Body,
    F: Fn(Arc<App>, Call<T>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Result<Response, Problem>> + Send,
{
    post(
        async move |State(app): State<Arc<App>>,
                    Extension(client): Extension<Client>,
                    id: Option<Path<String>>,
                    bytes: Bytes| {
            let read = || {
                client.memory.set(cost::memory(&bytes))?;
                read::<T>(&app, &bytes)
            };
            let (body, ignored) = match read() {
                Ok(read) => read,
                Err(problem) => return problem.into_response(),
            };
            drop(bytes);
            let call = Call { client, id: id.map(|Path(id)| id), body };
            let mut response = function(app, call).await.into_response();
            if let Some(names) = names(&ignored) {
                log::info!("ignored parameters={names:?}");
                response.headers_mut().insert(IGNORED, names);
            }
            response
        },
    )
}

fn read<T: Body>(app: &App, bytes: &[u8]) -> Result<(T, Vec<String>), Problem> {
    let strict = app.options.strict;
    let (body, mut ignored) = parse::<T>(app.schemas(), strict, bytes)?;
    if let Some(problem) = body.model().and_then(|name| app.check_model(name).err()) {
        if strict {
            return Err(problem);
        }
        ignored.push("model".to_owned());
    }
    Ok((body, ignored))
}

/// A header of the first names, without the characters that a header cannot have.
fn names(ignored: &[String]) -> Option<HeaderValue> {
    let plain = |name: &String| {
        let visible = name.chars().map(|c| if c.is_ascii_graphic() && c != ',' { c } else { '?' });
        visible.take(80).collect::<String>()
    };
    let names: Vec<String> = ignored.iter().take(20).map(plain).collect();
    HeaderValue::from_str(&names.join(", ")).ok().filter(|header| !header.is_empty())
}
