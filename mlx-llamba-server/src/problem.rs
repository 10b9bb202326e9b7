//! Errors as clients see them: an HTTP status, and a body in the shape that OpenAI's clients read.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use axum::Json;
use axum::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use mlx_llamba_engine::Error;
use schemars::JsonSchema;
use serde::Serialize;

/// A refusal or a failure.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    message: String,
    param: Option<Cow<'static, str>>,
    code: Option<&'static str>,
    retry_after: Option<u64>,
    allow: Option<String>,
}

/// An error, as every endpoint reports it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(crate) struct Body {
    error: Detail,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ErrorDetail")]
struct Detail {
    /// A human-readable message.
    message: String,
    /// `invalid_request_error`, `authentication_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The parameter that was refused.
    param: Option<Cow<'static, str>>,
    /// A code for programs.
    code: Option<&'static str>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, message, param: None, code: None, retry_after: None, allow: None }
    }

    /// 400: a bad request.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 400: a bad value of a parameter.
    pub(crate) fn parameter(
        name: impl Into<Cow<'static, str>>,
        message: impl std::fmt::Display,
    ) -> Self {
        let name = name.into();
        Self::bad(format!("{name}: {message}")).param(name).code("invalid_value")
    }

    /// 400: an unknown parameter.
    pub(crate) fn unknown(name: &str) -> Self {
        let shown: String = name.chars().take(80).collect();
        Self::bad(format!("unknown parameter: {shown:?}")).param(shown).code("unknown_parameter")
    }

    /// 404
    pub(crate) fn not_found(message: impl Into<String>, code: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, message).code(code)
    }

    /// 401
    pub(crate) fn unauthorized() -> Self {
        let message = "a valid API key is needed: Authorization: Bearer KEY";
        Self::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key")
    }

    /// 405
    pub(crate) fn method(allow: String) -> Self {
        let message = format!("this address takes {allow} only");
        let problem = Self::new(StatusCode::METHOD_NOT_ALLOWED, message);
        Self { allow: Some(allow), ..problem.code("method_not_allowed") }
    }

    /// 429, with the time after which to try again.
    fn busy(error: &Error, time: Duration, code: &'static str) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, error.to_string()).code(code);
        Self { retry_after: Some(time.as_secs_f64().ceil().max(1.0) as u64), ..problem }
    }

    /// 413: a request that would take more memory than all requests may together.
    pub(crate) fn too_much_memory(needed: usize, limit: usize) -> Self {
        let message = format!(
            "the request may take {} MiB of memory, more than the {} MiB of all requests",
            needed.div_ceil(1 << 20),
            limit >> 20
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message).code("request_too_large")
    }

    /// 503: other requests take the memory.
    pub(crate) fn no_memory() -> Self {
        let message = "other requests take the memory; try again later";
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code("out_of_memory");
        Self { retry_after: Some(1), ..problem }
    }

    /// 503: the server is shutting down.
    pub(crate) fn closing() -> Self {
        let message = "the server is shutting down";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code("shutting_down")
    }

    /// 500, without details, which are logged.
    pub(crate) fn failure(cause: &dyn std::fmt::Display) -> Self {
        log::error!("internal error: {cause}");
        let message = "the computation failed; the server's log has the details";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message).code("internal_error")
    }

    pub(crate) fn param(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.param = Some(name.into());
        self
    }

    pub(crate) fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    pub(crate) fn body(&self) -> Body {
        let kind = match self.status.as_u16() {
            401 | 403 => "authentication_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let (message, param) = (self.message.clone(), self.param.clone());
        Body { error: Detail { message, kind, param, code: self.code } }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::of(error, "prompt")
    }
}

impl Problem {
    /// Maps an error of the engine; `prompt` is the parameter that holds the prompt.
    pub(crate) fn of(error: Error, prompt: &'static str) -> Self {
        use mlx_llamba::Error as Library;
        let text = match &error {
            Error::Request(cause) | Error::SessionState(cause) | Error::SessionFile(cause) => {
                without_path(cause)
            }
            _ => error.to_string(),
        };
        match &error {
            Error::Request(cause) => match &**cause {
                Library::Argument { name, value, expected } => {
                    Self::parameter(*name, format!("{value} instead of {expected}"))
                }
                Library::Template { .. } => {
                    Self::bad(text).param("messages").code("template_error")
                }
                _ => Self::parameter(prompt, text),
            },
            Error::PromptTooLong { .. } => {
                Self::parameter(prompt, text).code("context_length_exceeded")
            }
            Error::PromptMemory { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, text)
                .param(prompt)
                .code("request_too_large"),
            Error::Unsupported { .. } => Self::bad(text).code("unsupported"),
            Error::NoMessages => Self::parameter("messages", text),
            Error::Choices { .. } => Self::parameter("n", text),
            Error::NoTemplate => {
                Self::bad(format!("{text}; use /v1/completions")).code("no_chat_template")
            }
            Error::QueueFull { retry_after, .. } => Self::busy(&error, *retry_after, "queue_full"),
            Error::SessionTooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, text).code("session_too_large")
            }
            Error::SessionsFull { retry_after, .. } => {
                Self::busy(&error, *retry_after, "too_many_sessions")
            }
            Error::TimedOut { .. } => Self::new(StatusCode::GATEWAY_TIMEOUT, text).code("timeout"),
            Error::Closed => Self::closing(),
            Error::UnknownSession { .. } => Self::not_found(text, "session_not_found").param("id"),
            Error::SessionBusy => Self::new(StatusCode::CONFLICT, text).code("session_busy"),
            Error::SessionState(_) => Self::new(StatusCode::CONFLICT, text).code("impossible"),
            Error::SessionFile(_) | Error::SessionTemplate => Self::bad(text).code("bad_session"),
            _ => Self::failure(&error),
        }
    }
}

/// The message of an error for clients, who need not know where the server has its files.
fn without_path(error: &mlx_llamba::Error) -> String {
    use mlx_llamba::Error as Library;
    match error {
        Library::Template { reason, .. } => format!("chat template: {reason}"),
        Library::Tokenizer { reason, .. } => format!("tokenizer: {reason}"),
        Library::State { reason, .. } => format!("the session that was sent: {reason}"),
        error => error.to_string(),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow.as_deref().and_then(|allow| allow.parse().ok()) {
            headers.insert(ALLOW, allow);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // For the log.
        response.extensions_mut().insert(self);
        response
    }
}

impl fmt::Display for Problem {
    /// Writes the parameter, the code and the reason on one line of a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { param, code, message, .. } = self;
        let (param, code) = (param.as_deref().unwrap_or("-"), code.unwrap_or("-"));
        write!(f, "param={param:?} code={code} reason={message:?}")
    }
}
