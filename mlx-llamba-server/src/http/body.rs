//! Bodies: limits of time and size, and content types.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderName, ORIGIN};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use hyper::body::Body as _;

use super::budget::Charge;
use crate::app::{App, Client};
use crate::problem::Problem;

/// The address that saved sessions are sent to.
pub(crate) const IMPORT: &str = "/v1/sessions/import";

/// The relation of a page to the address that it sends to, as browsers tell it.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Reads the whole body before anything looks at it.
pub(crate) async fn collect(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let limits = &app.options.limits;
    let (parts, mut body) = request.into_parts();
    let Some(Client { memory, .. }) = parts.extensions.get() else {
        return Problem::failure(&"a request without a client").into_response();
    };
    // A saved session contains states, which are larger than any text.
    let largest = match parts.uri.path() {
        IMPORT => limits.body.max(app.engine.session_bytes()),
        _ => limits.body,
    };
    let read = async {
        let found = gather(&mut body, largest, memory).await;
        if found.as_ref().is_err_and(|problem| problem.status == StatusCode::SERVICE_UNAVAILABLE) {
            // The client comes back, perhaps on the same connection.
            memory.shrink(0);
            while let Some(Ok(_)) = body.frame().await {}
        }
        found
    };
    match tokio::time::timeout(limits.body_timeout, read).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Ok(Err(problem)) => refuse(problem),
        Err(_) => {
            let message = "the body took too long to arrive";
            refuse(Problem::new(StatusCode::REQUEST_TIMEOUT, message).code("timeout"))
        }
    }
}

/// Reads a body of at most `largest` bytes, each counted before it is kept.
async fn gather(body: &mut Body, largest: usize, memory: &Charge) -> Result<Bytes, Problem> {
    let too_large = || {
        let message = format!("the body is larger than {largest} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, message).code("body_too_large")
    };
    let declared = body.size_hint().exact();
    // A declared length is enough to refuse a body.
    if declared.is_some_and(|length| length > largest as u64) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // Memory that nothing is written to takes none.
    let length = declared.map_or(0, |length| length as usize);
    bytes.try_reserve_exact(length).map_err(|_| Problem::no_memory())?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Problem::bad(format!("the body cannot be read: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let sum = bytes.len() + data.len();
        if sum > largest {
            return Err(too_large());
        }
        // A list that grows is moved to one of twice the size.
        memory.set(if sum > length { 3 * sum } else { sum })?;
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.into())
}

/// Answers without waiting for the rest of the body.
fn refuse(problem: Problem) -> Response {
    let mut response = problem.into_response();
    response.headers_mut().insert("connection", HeaderValue::from_static("close"));
    response
}

/// Refuses a body of another content type if a page of another origin may have sent it: a browser
/// sends those to any server without asking it first. Programs may leave the content type out.
///
/// # Errors
/// 415
pub(crate) fn check_type(request: &Request, expected: &str) -> Result<(), Problem> {
    let header = |name| request.headers().get(name).and_then(|text| text.to_str().ok());
    let kind = header(CONTENT_TYPE).and_then(|kind| kind.split(';').next()).map(str::trim);
    let from_page = request.headers().contains_key(ORIGIN)
        || header(FETCH_SITE).is_some_and(|site| site != "none");
    if from_page && !kind.is_some_and(|kind| kind.eq_ignore_ascii_case(expected)) {
        let message = format!("a page must send the body as Content-Type: {expected}");
        let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
        return Err(problem.code("content_type"));
    }
    Ok(())
}
