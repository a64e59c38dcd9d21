//! What makes an idle worker look at the queue at once: a subscription to the wake channel, settled jobs, the lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::task::AtomicWaker;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::client::Queue;

/// A silent subscription is asked whether it still lives after this long.
const SILENCE: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Wakes the backend's poll.
#[derive(Debug, Default)]
pub(super) struct Wake {
    waker: AtomicWaker,
    announced: AtomicBool,
    subscribed: AtomicBool,
}

impl Wake {
    /// Polls the backend again: something it waits for in this process may have changed.
    pub fn poll_again(&self) {
        self.waker.wake();
    }

    /// Redis said that there may be jobs: polls the backend and makes it fetch.
    pub fn announce(&self) {
        self.announced.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether jobs were announced since [`Wake::forget`] was last called.
    pub fn announced(&self) -> bool {
        self.announced.load(Ordering::Acquire)
    }

    /// A fetch begins: what was announced so far it will find.
    pub fn forget(&self) {
        self.announced.store(false, Ordering::Release);
    }

    /// Whether announcements arrive; while they do not, the backend polls more often.
    pub fn subscribed(&self) -> bool {
        self.subscribed.load(Ordering::Relaxed)
    }

    /// Whom to wake.
    pub fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }
}

/// Listens for announcements until `stop`, reconnecting for ever.
pub(super) async fn listen(queue: Queue, wake: Arc<Wake>, stop: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    for attempt in 0usize.. {
        let listening = async {
            let heard = listen_once(&queue, &wake, attempt).await;
            wake.subscribed.store(false, Ordering::Relaxed);
            wake.announce();
            heard
        };
        let heard = tokio::select! {
            heard = listening => heard,
            () = stop.cancelled() => return,
        };
        match heard {
            Ok(()) => pause = FIRST_PAUSE,
            Err(error) => tracing::debug!(%error, "no subscription to the queue; polling until there is one"),
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Subscribes and listens until the subscription breaks. `Ok` when there was one.
async fn listen_once(queue: &Queue, wake: &Wake, attempt: usize) -> redis::RedisResult<()> {
    let subscriber = queue.connection().subscriber(attempt, &queue.keys().wake_channel()).await?;
    let (mut sink, mut messages) = subscriber.split();
    wake.subscribed.store(true, Ordering::Relaxed);
    wake.announce(); // whatever was announced before the subscription stood
    loop {
        match timeout(SILENCE, messages.next()).await {
            Ok(Some(_)) => wake.announce(),
            Ok(None) => return Ok(()),
            Err(_) => match timeout(PING_TIMEOUT, sink.ping::<redis::Value>()).await {
                Ok(Ok(_)) => {}
                _ => return Ok(()),
            },
        }
    }
}
