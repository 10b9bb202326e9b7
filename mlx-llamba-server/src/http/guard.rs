//! Who may ask, and a note of every answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::{Choice, ConstantTimeEq};

use crate::api::{App, Client};
use crate::problem::Problem;

/// Asks for a key, where there are keys; without any, a server for this machine alone answers only
/// to its names, so that no web page reaches it through a name of its own.
pub(super) async fn authorize(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<SocketAddr>().map(SocketAddr::ip);
    let open = matches!(request.uri().path(), "/health" | "/openapi.json");
    let keys = &app.options.api_keys;
    if keys.is_empty() {
        if app.options.bind.ip().is_loopback() && !names_this_machine(&request) {
            let message = "this server answers to localhost only; give it an API key, or another \
                           address to listen on";
            return Problem::new(StatusCode::FORBIDDEN, message).code("host").into_response();
        }
    } else if !open && !has_key(&request, keys) {
        return Problem::unauthorized().into_response();
    }
    let client = peer.map_or_else(|| "unknown".to_owned(), |ip: IpAddr| ip.to_string());
    request.extensions_mut().insert(Client(client));
    next.run(request).await
}

/// Takes as long for a wrong key as for the right one, whichever character is wrong.
fn has_key(request: &Request, keys: &[String]) -> bool {
    let header = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let Some((scheme, given)) = header.and_then(|header| header.split_at_checked(7)) else {
        return false;
    };
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return false;
    }
    let all = keys.iter().map(|key| key.as_bytes().ct_eq(given.trim_ascii()));
    all.fold(Choice::from(0), |found, equal| found | equal).into()
}

fn names_this_machine(request: &Request) -> bool {
    let header = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let Some(host) = header.or_else(|| request.uri().host()) else { return true };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Logs and counts every answer, by the server's own names of addresses.
pub(super) async fn note(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
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
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}
