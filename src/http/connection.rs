//! One connection's deadlines. hyper's own header timeout also ends idle connections, so that it can be either short
//! enough for slow headers or long enough for a load balancer's kept connections; this wrapper tells the two apart.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long a peer may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// From a request's first byte to the end of its headers.
    pub header: Duration,
    /// Between two requests, and from accepting to the first byte.
    pub idle: Duration,
    /// For taking any part of an answer.
    pub write: Duration,
}

const IDLE: u8 = 0;
const HEADER: u8 = 1;
const REQUEST: u8 = 2;

/// Where a connection is in its life; shared by its two halves, the bytes and the requests.
#[derive(Debug)]
pub struct Phase {
    now: AtomicU8,
    /// Until when, and how long that was in all.
    deadline: Mutex<(Instant, Duration)>,
    /// Wakes who reads: its timer is set to a later time.
    reader: AtomicWaker,
}

impl Phase {
    /// A connection that was just accepted.
    pub fn idle(time: Duration) -> Arc<Self> {
        Arc::new(Self {
            now: AtomicU8::new(IDLE),
            deadline: Mutex::new((Instant::now() + time, time)),
            reader: AtomicWaker::new(),
        })
    }

    fn enter(&self, phase: u8, time: Duration) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now() + time, time);
        self.now.store(phase, Ordering::Release);
    }

    fn is(&self, phase: u8) -> bool {
        self.now.load(Ordering::Acquire) == phase
    }

    /// The first bytes of a request are here; says whether the connection was idle.
    fn begin_header(&self) -> bool {
        self.is(IDLE) && {
            self.now.store(HEADER, Ordering::Release);
            true
        }
    }

    fn deadline(&self) -> Instant {
        self.deadline.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// What was handed over has only now been taken: an idle connection is idle from here on.
    fn was_writing(&self) {
        let mut deadline = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is(IDLE) {
            deadline.0 = Instant::now() + deadline.1;
        }
    }

    /// A request's headers are complete.
    pub fn begin_request(&self) {
        self.now.store(REQUEST, Ordering::Release);
    }

    /// Its answer was handed over: wait for the next, this long.
    pub fn end_request(&self, idle: Duration) {
        self.enter(IDLE, idle);
    }

    /// As [`Phase::end_request`], for less time than other connections have: who reads must hear of it, because it
    /// may not look again before the time that it knows of.
    pub fn end_request_soon(&self, idle: Duration) {
        self.enter(IDLE, idle);
        self.reader.wake();
    }
}

/// A stream that ends with an error when its peer takes too long.
pub struct Timed<S> {
    stream: S,
    phase: Arc<Phase>,
    deadlines: Deadlines,
    reading: Pin<Box<Sleep>>,
    /// A request has begun since its deadline was last set.
    begun: bool,
    /// Set while an answer waits for a peer that does not read.
    writing: Option<Pin<Box<Sleep>>>,
}

impl<S> Timed<S> {
    /// Wraps a freshly accepted stream.
    pub fn new(stream: S, phase: Arc<Phase>, deadlines: Deadlines) -> Self {
        let reading = Box::pin(tokio::time::sleep_until(phase.deadline()));
        Self { stream, phase, deadlines, reading, begun: false, writing: None }
    }

    /// Whether the peer had its time. The timer is moved only when it fires or comes too late, not with each
    /// request, and it always runs: hyper need not read again when a request ends.
    fn poll_read_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            // An answer that was handed over in full may still be on its way: then its own deadline counts.
            let in_request = self.phase.is(REQUEST) || self.writing.is_some();
            let deadline = self.phase.deadline();
            if !in_request && self.reading.deadline() > deadline {
                self.reading.as_mut().reset(deadline);
            }
            ready!(self.reading.as_mut().poll(cx));
            if in_request {
                self.reading.as_mut().reset(Instant::now() + self.deadlines.header);
            } else if deadline <= Instant::now() {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            } else {
                self.reading.as_mut().reset(deadline);
            }
        }
    }

    fn written<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            if self.writing.take().is_some() {
                self.phase.was_writing();
            }
            return result;
        }
        let time = self.deadlines.write;
        let timer = self.writing.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
        timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(result) => {
                if buf.filled().len() > before && this.phase.begin_header() {
                    this.begun = true;
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                // Most requests come in one piece and never need the deadline of their headers.
                if std::mem::take(&mut this.begun) && this.phase.is(HEADER) {
                    this.phase.enter(HEADER, this.deadlines.header);
                }
                this.phase.reader.register(cx.waker());
                this.poll_read_deadline(cx).map(Err)
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.written(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_flush(cx);
        this.written(cx, result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.written(cx, result)
    }
}
