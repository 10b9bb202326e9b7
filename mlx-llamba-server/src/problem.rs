//! What a client is told when something is wrong: one status, in the shape that OpenAI's clients
//! read.

use std::borrow::Cow;

use axum::Json;
use axum::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use mlx_llamba::Error;
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
    allow: Option<&'static str>,
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
    /// What is wrong, for people.
    message: String,
    /// `invalid_request_error`, `authentication_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The parameter that is wrong.
    param: Option<Cow<'static, str>>,
    /// What is wrong, for programs.
    code: Option<&'static str>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, message, param: None, code: None, retry_after: None, allow: None }
    }

    /// 400: the request makes no sense.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 400: this parameter makes no sense.
    pub(crate) fn parameter(
        name: impl Into<Cow<'static, str>>,
        message: impl std::fmt::Display,
    ) -> Self {
        let name = name.into();
        Self::bad(format!("{name}: {message}")).param(name).code("invalid_value")
    }

    /// 400: this parameter exists elsewhere.
    pub(crate) fn unsupported(name: &str) -> Self {
        Self::bad(format!("{name} is not supported by this server"))
            .param(name.to_owned())
            .code("unsupported_parameter")
    }

    /// 400: this parameter exists nowhere.
    pub(crate) fn unknown(name: &str) -> Self {
        let shown: String = name.chars().take(80).collect();
        Self::bad(format!("unknown parameter: {shown:?}")).param(shown).code("unknown_parameter")
    }

    /// 404
    pub(crate) fn not_found(message: impl Into<String>, code: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, message).code(code)
    }

    /// 400: the model was never taught to chat.
    pub(crate) fn no_template() -> Self {
        let message = "this model has no chat template; use /v1/completions";
        Self::bad(message).code("no_chat_template")
    }

    /// 400: a file is no session, or none of this model.
    pub(crate) fn session(error: &Error) -> Self {
        Self::bad(error.to_string()).code("bad_session")
    }

    /// 401
    pub(crate) fn unauthorized() -> Self {
        let message = "a valid API key is needed: Authorization: Bearer KEY";
        Self::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key")
    }

    /// 405
    pub(crate) fn method(allow: &'static str) -> Self {
        let message = format!("this address takes {allow} only");
        let problem = Self::new(StatusCode::METHOD_NOT_ALLOWED, message);
        Self { allow: Some(allow), ..problem.code("method_not_allowed") }
    }

    /// 429: later there may be room.
    pub(crate) fn busy(message: impl Into<String>, seconds: u64) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, message).code("queue_full");
        Self { retry_after: Some(seconds.max(1)), ..problem }
    }

    /// 503: the server ends.
    pub(crate) fn closing() -> Self {
        let message = "the server is shutting down";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code("shutting_down")
    }

    /// 504: it took too long.
    pub(crate) fn late(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, message).code("timeout")
    }

    /// 500, without the particulars: they are logged.
    pub(crate) fn failure(cause: &dyn std::fmt::Display) -> Self {
        log::error!("internal error: {cause}");
        let message = "the computation failed; the server's log has the particulars";
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
    /// What the library says of a request: the client's fault where it is about input.
    fn from(error: Error) -> Self {
        match &error {
            Error::Option { option, value, expected } => {
                Self::parameter(*option, format!("{value} instead of {expected}"))
            }
            Error::TokenOutOfRange { .. } | Error::EmptyPrompt | Error::Tokenizer { .. } => {
                Self::bad(error.to_string()).param("prompt")
            }
            Error::Template { .. } => {
                Self::bad(error.to_string()).param("messages").code("template_error")
            }
            _ => Self::failure(&error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
