//! Connections: a bounded number, each with time limits.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

use super::addresses::Addresses;
use super::paths::normalize;
use super::socket::{Socket, Tracked, answer_and_close, gone};
use crate::api::stream::json;
use crate::app::App;
use crate::problem::Problem;

/// The maximum size of a request's head, in bytes.
const HEAD: usize = 64 << 10;

/// Connections too many that are told so at once.
const REFUSALS: usize = 128;

/// Serves until `stop` is ready. Running requests then have the grace period to end, and get an
/// error after it.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    router: Router,
    stop: impl Future<Output = ()>,
) {
    let limits = app.options.limits.clone();
    let room = Arc::new(Semaphore::new(limits.connections));
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    let addresses = Addresses::default();
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, for example: connections that end make room.
                log::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let place = room.clone().try_acquire_owned().ok();
        let seat = addresses.enter(peer.ip(), limits.connections_per_address);
        let (Some(place), Some(seat)) = (place, seat) else {
            log::warn!("refused client={peer}: too many connections");
            // Without a turn, the client finds its connection closed.
            if let Ok(turn) = refusals.clone().try_acquire_owned() {
                tokio::spawn(async move {
                    refuse(stream).await;
                    drop(turn);
                });
            }
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (socket, state) = Socket::new(stream);
        let Ok(handle) = socket.handle() else { continue };
        let mut stream = TimeoutStream::new(socket);
        stream.set_write_timeout(Some(limits.write_timeout));
        let router = router.clone();
        let version = state.clone();
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            version.is_old.store(request.version() < Version::HTTP_11, Ordering::Relaxed);
            request.extensions_mut().insert(peer);
            if let Some(uri) = normalize(request.uri()) {
                *request.uri_mut() = uri;
            }
            let request: Request =
                request.map(|body| Body::new(Tracked::new(body, version.clone())));
            router.clone().oneshot(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_buf_size(HEAD)
            // A client may end its side and still wait for an answer.
            .half_close(true)
            .serve_connection(TokioIo::new(Box::pin(stream)), service);
        let connection = graceful.watch(connection);
        let app = app.clone();
        tokio::spawn(async move {
            app.metrics.connections.inc();
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    log::debug!("connection client={peer} ended: {error}");
                },
                () = gone(handle, state) => log::debug!("connection client={peer}: it is gone"),
            }
            app.metrics.connections.dec();
            drop((place, seat));
        });
    }
    drop(listener);
    log::info!("shutting down: {} connections open", graceful.count());
    app.engine.close();
    let end = graceful.shutdown();
    let mut end = std::pin::pin!(end);
    if tokio::time::timeout(limits.grace, &mut end).await.is_err() {
        log::warn!("running requests are cut off after {} s", limits.grace.as_secs());
        app.engine.abort();
        // Time for the errors to be sent; a client that does not read them is not waited for.
        let _ = tokio::time::timeout(Duration::from_secs(2), &mut end).await;
    }
}

/// Answers a connection too many, whatever it asks for.
async fn refuse(stream: TcpStream) {
    let message = "too many connections; try again later";
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, message);
    let body = json(&problem.code("too_many_connections").body());
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = answer_and_close(stream, answer.as_bytes());
    let _ = tokio::time::timeout(Duration::from_secs(5), answer).await;
}
