//! Bodies that nobody reads to their end. hyper closes a connection whose request was not read whole, and says so to
//! nobody; the client's next request on it then dies. So what a handler leaves of a body comes back here: it is read
//! off, within bounds, or the answer says that the connection closes.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use axum::http::{Request, header};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::{Instant, timeout, timeout_at};

/// How much of a body is read only to keep its connection, and how much more of one whose connection closes.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// How long that may take in all.
const MAX_TIME: Duration = Duration::from_secs(2);
/// How long its next piece may take: the answer waits meanwhile.
const MAX_GAP: Duration = Duration::from_millis(500);

/// What is left of the body of a connection's present request.
#[derive(Debug, Default)]
pub struct Unread(Mutex<Option<Rest>>);

#[derive(Debug)]
struct Rest {
    body: Incoming,
    /// The client may be waiting for `100 Continue`, which reading would send.
    uninvited: bool,
}

impl Unread {
    /// Lends a request's body to its handler.
    pub fn lend(self: &Arc<Self>, request: Request<Incoming>) -> Request<Lent> {
        let expects = request.headers().get(header::EXPECT);
        let uninvited = expects.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        request.map(|body| {
            let ended = body.is_end_stream();
            Lent { rest: Some(Rest { body, uninvited }), ended, unread: Arc::clone(self) }
        })
    }

    /// Forgets what is left; says whether anything was.
    pub fn forget(&self) -> bool {
        self.take().is_some()
    }

    /// Reads off what is left, within bounds. Whether all of it came, so that the next request can be read.
    pub async fn read_off(&self) -> bool {
        let Some(Rest { mut body, uninvited }) = self.take() else { return true };
        if uninvited || body.size_hint().lower() > MAX_BYTES as u64 {
            return false;
        }
        let (deadline, mut seen) = (Instant::now() + MAX_TIME, 0);
        while seen <= MAX_BYTES {
            match timeout_at(deadline.min(Instant::now() + MAX_GAP), body.frame()).await {
                Ok(None) => return true,
                Ok(Some(Ok(frame))) => seen += frame.data_ref().map_or(0, Bytes::len),
                Ok(Some(Err(_))) | Err(_) => return false,
            }
        }
        false
    }

    fn take(&self) -> Option<Rest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A body on loan: dropped before its end it goes back.
#[derive(Debug)]
pub struct Lent {
    rest: Option<Rest>,
    ended: bool,
    unread: Arc<Unread>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        rest.uninvited = false;
        let polled = Pin::new(&mut rest.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.ended = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.as_ref().is_none_or(|rest| rest.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.rest.as_ref().map_or_else(SizeHint::default, |rest| rest.body.size_hint())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(rest) = self.rest.take().filter(|rest| !self.ended && !rest.body.is_end_stream()) else { return };
        *self.unread.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(rest);
    }
}

/// Reads on, for a while, from a connection that is closed for writing: closing it with bytes unread would reset it,
/// and a client that is still sending might never see its answer.
pub async fn linger(mut stream: impl AsyncRead + Unpin) {
    let mut buffer = vec![0; 16 * 1024];
    let reading = async {
        let mut seen = 0;
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            seen += read;
            if seen > MAX_BYTES {
                break;
            }
        }
    };
    // However it ends, the connection is closed now.
    let _ = timeout(MAX_TIME, reading).await;
}
