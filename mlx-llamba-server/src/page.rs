//! The chat page at `/`: plain HTML, CSS and JavaScript, without libraries or a build step.

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS,
};
use axum::routing::get;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Paths, content types and contents.
const FILES: [(&str, &str, &str); 10] = [
    ("/", HTML, include_str!("../web/index.html")),
    ("/style.css", CSS, include_str!("../web/style.css")),
    ("/main.js", SCRIPT, include_str!("../web/main.js")),
    ("/branch.js", SCRIPT, include_str!("../web/branch.js")),
    ("/element.js", SCRIPT, include_str!("../web/element.js")),
    ("/events.js", SCRIPT, include_str!("../web/events.js")),
    ("/markdown.js", SCRIPT, include_str!("../web/markdown.js")),
    ("/server.js", SCRIPT, include_str!("../web/server.js")),
    ("/settings.js", SCRIPT, include_str!("../web/settings.js")),
    ("/view.js", SCRIPT, include_str!("../web/view.js")),
];
/// Only the page's own files are loaded and run, and no other page shows it in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src http: https:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// True for the files of the page, which need no API key: they are in every copy of this program.
pub(crate) fn is_page(path: &str) -> bool {
    FILES.iter().any(|(own, ..)| *own == path)
}

/// Adds the files to a router.
pub(crate) fn add_to<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    FILES.iter().fold(router, |router, &(path, kind, content)| {
        let headers = [
            (CONTENT_TYPE, kind),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (CACHE_CONTROL, "no-cache"),
        ];
        router.route(path, get(async move || (headers, content)))
    })
}
