//! Bodies: in time, not too large, and said to be JSON.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;

use crate::api::App;
use crate::problem::Problem;

/// Where saved sessions are sent to.
pub(super) const IMPORT: &str = "/v1/sessions/import";

/// Reads the whole body before anything looks at it.
pub(super) async fn collect(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let limits = &app.options.limits;
    let (parts, body) = request.into_parts();
    // A saved session has states in it, which are larger than any text.
    let largest = match parts.uri.path() {
        IMPORT => limits.body.max(app.engine.session_bytes()),
        _ => limits.body,
    };
    let too_large = || {
        let message = format!("the body is larger than {largest} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, message).code("body_too_large")
    };
    // A length that is said beforehand is enough to refuse it.
    if body.size_hint().lower() > largest as u64 {
        return refuse(too_large());
    }
    let collected = Limited::new(body, largest).collect();
    let problem = match tokio::time::timeout(limits.body_timeout, collected).await {
        Ok(Ok(body)) => {
            return next.run(Request::from_parts(parts, Body::from(body.to_bytes()))).await;
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => too_large(),
        Ok(Err(error)) => Problem::bad(format!("the body cannot be read: {error}")),
        Err(_) => {
            let message = "the body took too long to arrive";
            Problem::new(StatusCode::REQUEST_TIMEOUT, message).code("timeout")
        }
    };
    refuse(problem)
}

/// Answers without waiting for the rest of the body.
fn refuse(problem: Problem) -> Response {
    let mut response = problem.into_response();
    response.headers_mut().insert("connection", HeaderValue::from_static("close"));
    response
}

/// Refuses what is sent as something else than JSON: a browser may send that to any server,
/// without asking it first.
pub(super) async fn check_json(request: Request, next: Next) -> Response {
    check("application/json", request, next).await
}

/// Refuses what is sent as something else than bytes, for the same reason.
pub(super) async fn check_bytes(request: Request, next: Next) -> Response {
    check("application/octet-stream", request, next).await
}

async fn check(expected: &str, request: Request, next: Next) -> Response {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case(expected)) {
        let message = format!("the body must be sent as Content-Type: {expected}");
        let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
        return problem.code("content_type").into_response();
    }
    next.run(request).await
}
