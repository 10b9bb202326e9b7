//! API keys, host names, and the log of answers.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::{HeaderName, HeaderValue, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::{Choice, ConstantTimeEq};

use crate::app::{App, Client};
use crate::page;
use crate::problem::Problem;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Checks the API key, if the server has keys. Without keys, a server on a loopback address answers
/// to names of this machine only, so that no web page reaches it through a name of its own.
pub(crate) async fn authorize(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Err(problem) = check_host(&request) {
        return problem.into_response();
    }
    let peer = request.extensions().get::<SocketAddr>().map(SocketAddr::ip);
    let path = request.uri().path();
    let open = matches!(path, "/health" | "/openapi.json") || page::is_page(path);
    let keys = &app.options.api_keys;
    let key = find_key(&request, keys);
    if keys.is_empty() {
        if app.options.bind.ip().is_loopback() && !names_this_machine(&request) {
            let message = "this server answers to localhost only; give it an API key, or another \
                           address to listen on";
            return Problem::new(StatusCode::FORBIDDEN, message).code("host").into_response();
        }
    } else if !open && key.is_none() {
        return Problem::unauthorized().into_response();
    }
    // The key itself stays out of the log.
    let (engine, name) = match key {
        Some(index) => (app.engine.tenant(&keys[index]), format!("key-{}", index + 1)),
        None => {
            let name = peer.map_or_else(|| "unknown".to_owned(), |ip: IpAddr| ip.to_string());
            (app.engine.clone(), name)
        }
    };
    let memory = Arc::new(app.budget.charge(&name));
    request.extensions_mut().insert(Client { engine, name, memory });
    next.run(request).await
}

/// Returns the index of the request's key, comparing all keys in constant time.
fn find_key(request: &Request, keys: &[String]) -> Option<usize> {
    let header = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    let bearer = header(AUTHORIZATION).and_then(|header| {
        let (scheme, key) = header.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
    });
    // Anthropic's clients have a header of their own.
    let given = bearer.or_else(|| header(X_API_KEY))?.trim_ascii();
    let equal: Vec<Choice> = keys.iter().map(|key| key.as_bytes().ct_eq(given)).collect();
    equal.into_iter().position(bool::from)
}

/// Refuses a request with no host, two hosts, or one that is not text: a proxy and this server might
/// read different ones.
fn check_host(request: &Request) -> Result<(), Problem> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let needless = request.version() < Version::HTTP_11 || request.uri().host().is_some();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if host.to_str().is_ok() => Ok(()),
        (None, _) if needless => Ok(()),
        _ => Err(Problem::bad("one Host header is needed, of visible characters").code("host")),
    }
}

fn names_this_machine(request: &Request) -> bool {
    let header = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let Some(host) = header.or_else(|| request.uri().host()) else { return true };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    is_this_machine(name.trim_start_matches('[').trim_end_matches(']'))
}

/// True for loopback addresses and for names that lead to this machine on every network: those of
/// `localhost`, of multicast DNS, of Docker's host, and the machine's own.
fn is_this_machine(name: &str) -> bool {
    static OWN: LazyLock<String> =
        LazyLock::new(|| gethostname::gethostname().to_string_lossy().to_ascii_lowercase());
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    let ends = |end| {
        let before = name.strip_suffix(end);
        before.is_some_and(|before: &str| !before.is_empty() && before.bytes().all(plain))
    };
    name == "localhost"
        || ends(".localhost")
        || ends(".local")
        || name == "host.docker.internal"
        || name == *OWN
        || name.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

/// Logs and counts every answer, by the path of its route.
pub(crate) async fn note(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("other", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    let peer = request.extensions().get::<SocketAddr>().map(ToString::to_string);
    let mut response = next.run(request).await;
    let status = response.status().as_u16();
    app.metrics.request(&route, status);
    let id = app.id("req");
    log::info!(
        "answered id={id} method={method} route={route} status={status} client={} ms={}",
        peer.as_deref().unwrap_or("unknown"),
        start.elapsed().as_millis()
    );
    if let Some(problem) = response.extensions().get::<Problem>() {
        log::info!("refused id={id} {problem}");
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}
