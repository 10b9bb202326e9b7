//! A client's socket: it notices that the client sends no more, explains refusals of hyper, and lets a
//! client that still sends read its answer.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::StatusCode;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::api::stream::json;
use crate::problem::Problem;

/// The time between two looks at a client that sends no more.
const LOOK: Duration = Duration::from_millis(200);

/// A client's socket.
pub(crate) struct Socket {
    stream: TcpStream,
    state: Arc<State>,
    /// The bytes that are written in place of an answer without a body, and the number of
    /// them that have been.
    instead: Option<(Vec<u8>, usize)>,
    rest: Rest,
}

/// Bytes that a client sends after it was answered. A socket that is closed with bytes that nobody read takes
/// back the answer: the client finds its connection broken while it sends. So they are read and thrown
/// away, up to a number of bytes and a time.
struct Rest {
    bytes: usize,
    /// Ends the wait for the next bytes.
    pause: Option<Pin<Box<Sleep>>>,
    end: Option<Instant>,
}

impl Rest {
    /// Bytes that are thrown away: more than the body of any ordinary request.
    const BYTES: usize = 64 << 20;
    const PAUSE: Duration = Duration::from_secs(10);
    const TIME: Duration = Duration::from_secs(60);

    const fn new() -> Self {
        Self { bytes: 0, pause: None, end: None }
    }

    /// Waits until the client has sent everything, or has had its chance.
    fn poll(&mut self, stream: &mut TcpStream, context: &mut Context<'_>) -> Poll<()> {
        let end = *self.end.get_or_insert_with(|| Instant::now() + Self::TIME);
        let mut bytes = [0; 16 << 10];
        while self.bytes < Self::BYTES {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.bytes += buffer.filled().len();
                    self.pause = None;
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    let until = (Instant::now() + Self::PAUSE).min(end);
                    let pause = self.pause.get_or_insert_with(|| Box::pin(sleep_until(until)));
                    return pause.as_mut().poll(context);
                }
            }
        }
        Poll::Ready(())
    }
}

/// Writes a last answer to a client that may still be sending.
///
/// # Errors
/// Those of the system.
pub(crate) async fn answer_and_close(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    stream.write_all(answer).await?;
    stream.shutdown().await?;
    let mut rest = Rest::new();
    std::future::poll_fn(|context| rest.poll(&mut stream, context)).await;
    Ok(())
}

/// A request's body. It tells its socket when it was read to its end.
pub(crate) struct Tracked {
    body: Incoming,
    state: Arc<State>,
}

impl Tracked {
    pub(crate) fn new(body: Incoming, state: Arc<State>) -> Self {
        state.sends.store(!body.is_end_stream(), Ordering::Relaxed);
        Self { body, state }
    }
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if self.body.is_end_stream() || frame.is_none() {
            self.state.sends.store(false, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Facts about a client.
#[derive(Default)]
pub(crate) struct State {
    /// It has sent something that nothing was answered to.
    waits: AtomicBool,
    /// It has not sent all of what it was answered to.
    sends: AtomicBool,
    /// Its last request was of HTTP/1.0.
    pub(crate) is_old: AtomicBool,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> (Self, Arc<State>) {
        let state = Arc::new(State::default());
        (Self { stream, state: state.clone(), instead: None, rest: Rest::new() }, state)
    }

    /// Another handle of the connection.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn handle(&self) -> io::Result<std::net::TcpStream> {
        Ok(self.stream.as_fd().try_clone_to_owned()?.into())
    }
}

/// Waits until a client that sends no more, and waits for an answer, is gone.
///
/// One that has closed its side only, as HTTP allows, looks the same until something is sent to it: an
/// interim response, which clients ignore, and which the system of one that is gone refuses.
pub(crate) async fn gone(handle: std::net::TcpStream, state: Arc<State>) {
    let Ok(handle) = TcpStream::from_std(handle) else { return std::future::pending().await };
    // hyper does not read while it answers.
    loop {
        match handle.peek(&mut [0]).await {
            Ok(0) | Err(_) => break,
            Ok(_) => tokio::time::sleep(LOOK).await,
        }
    }
    let waits = || state.waits.load(Ordering::Relaxed);
    if waits() && !state.is_old.load(Ordering::Relaxed) {
        let sent = handle.try_write(b"HTTP/1.1 100 Continue\r\n\r\n");
        while waits() {
            if sent.is_err() || !matches!(handle.take_error(), Ok(None)) {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    std::future::pending().await
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.state.waits.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.state.waits.store(false, Ordering::Relaxed);
        let this = &mut *self;
        if this.instead.is_none() {
            match explained(bytes) {
                Some(text) => {
                    this.state.sends.store(true, Ordering::Relaxed);
                    this.instead = Some((text, 0));
                }
                None => return Pin::new(&mut this.stream).poll_write(context, bytes),
            }
        }
        while let Some((text, done)) =
            this.instead.as_mut().filter(|(text, done)| *done < text.len())
        {
            *done += ready!(Pin::new(&mut this.stream).poll_write(context, &text[*done..]))?;
        }
        this.instead = None;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
        if this.state.sends.load(Ordering::Relaxed) {
            ready!(this.rest.poll(&mut this.stream, context));
        }
        Poll::Ready(Ok(()))
    }
}

/// The answer with a JSON error in place of one of hyper's own, to a head that is no HTTP or too long:
/// they are the only errors without a body.
fn explained(answer: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(answer).ok()?.strip_suffix("\r\n\r\n")?;
    let status = text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let status = StatusCode::from_u16(status).ok().filter(StatusCode::is_client_error)?;
    let (before, after) = text.split_once("\r\ncontent-length: 0\r\n")?;
    let message = match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "the head of the request is too large",
        StatusCode::URI_TOO_LONG => "the address is too long",
        _ => "the request is not HTTP/1.1",
    };
    let body = json(&Problem::new(status, message).code("bad_request").body());
    let length = body.len();
    let head = format!(
        "{before}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{after}"
    );
    Some(format!("{head}\r\n\r\n{body}").into_bytes())
}
