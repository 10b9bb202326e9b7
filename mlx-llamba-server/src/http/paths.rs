//! Paths as clients write them.

use axum::http::Uri;
use axum::http::uri::PathAndQuery;

/// The first segments of the API's paths, below `/v1`.
const API: [&str; 9] = [
    "chat",
    "completions",
    "detokenize",
    "embeddings",
    "messages",
    "models",
    "responses",
    "sessions",
    "tokenize",
];

/// Writes a path as the routes have it: without doubled and trailing slashes, and with one `/v1`
/// before the API's paths.
pub(crate) fn normalize(uri: &Uri) -> Option<Uri> {
    let mut segments: Vec<&str> = uri.path().split('/').filter(|s| !s.is_empty()).collect();
    while segments.starts_with(&["v1", "v1"]) {
        segments.remove(0);
    }
    if segments.first().is_some_and(|first| API.contains(first)) {
        segments.insert(0, "v1");
    }
    let path = format!("/{}", segments.join("/"));
    if path == uri.path() {
        return None;
    }
    let whole = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(whole.parse::<PathAndQuery>().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::normalize;

    #[test]
    fn paths_are_written_as_the_routes_have_them() {
        for (given, expected) in [
            ("/v1/models/", "/v1/models"),
            ("//v1//chat/completions", "/v1/chat/completions"),
            ("/chat/completions?x=/", "/v1/chat/completions?x=/"),
            ("/v1/v1/completions", "/v1/completions"),
            ("/sessions/a/fork/", "/v1/sessions/a/fork"),
            ("/models/org/name", "/v1/models/org/name"),
            ("/health/", "/health"),
            ("/nothing//here", "/nothing/here"),
        ] {
            assert_eq!(normalize(&given.parse().unwrap()).unwrap(), expected);
        }
        for path in ["/", "/v1/models", "/health", "/metrics", "/nothing?a//b"] {
            assert_eq!(normalize(&path.parse().unwrap()), None, "{path}");
        }
    }
}
