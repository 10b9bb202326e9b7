//! Bodies: limits of time and size, and content types.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderName, ORIGIN};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;

use crate::app::App;
use crate::problem::Problem;

/// The address that saved sessions are sent to.
pub(crate) const IMPORT: &str = "/v1/sessions/import";

/// The relation of a page to the address that it sends to, as browsers tell it.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Reads the whole body before anything looks at it.
pub(crate) async fn collect(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let limits = &app.options.limits;
    let (parts, body) = request.into_parts();
    // A saved session contains states, which are larger than any text.
    let largest = match parts.uri.path() {
        IMPORT => limits.body.max(app.engine.session_bytes()),
        _ => limits.body,
    };
    let too_large = || {
        let message = format!("the body is larger than {largest} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, message).code("body_too_large")
    };
    // A declared length is enough to refuse a body.
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
