//! What cron's parts tell each other and the rest of the system, over the queue and the directory.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::context::{Announce, DatabaseClock, QueueLowWater};
use crate::directory::publication::directory_key;
use crate::queue::Queue;
use crate::ranking::subscription;
use crate::redis_connection::Connection;
use crate::services::directory_publication::publish_if_stale;
use crate::store::pool::Pool;
use crate::store::retention;

/// How often the published directory is compared with Postgres, should a notice have been lost.
const COMPARE: Duration = Duration::from_secs(1);

/// What is under way in the queue, and its clock.
pub fn low_water(queue: Queue) -> QueueLowWater {
    Arc::new(move |until| {
        let queue = queue.clone();
        Box::pin(async move { queue.low_water(until).await.map_err(|error| error.to_string()) })
    })
}

/// Postgres's clock.
pub fn database_clock(pool: Pool) -> DatabaseClock {
    Arc::new(move || {
        let pool = pool.clone();
        Box::pin(async move { retention::now(&pool).await })
    })
}

/// Wakes whoever waits for `notify`; never blocks.
pub fn wake(notify: &Arc<Notify>) -> Announce {
    let notify = Arc::clone(notify);
    Arc::new(move || notify.notify_one())
}

/// Publishes the directory when `changed` says so, and looks each second (a lost publication, a flushed Redis).
pub async fn publish_directory(
    pool: Pool,
    mut redis: Connection,
    prefix: String,
    changed: Arc<Notify>,
    stop: CancellationToken,
) {
    let mut away = false;
    while !stop.is_cancelled() {
        match publish_if_stale(&pool, &mut redis, &prefix).await {
            Ok(_) => away = false,
            Err(error) if !std::mem::replace(&mut away, true) => {
                tracing::warn!(%error, "cannot publish the directory; trying again");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed.notified() => {}
            () = tokio::time::sleep(COMPARE) => {}
        }
    }
}

/// Tells the aggregators of every process that facts were committed; a lost notice costs an idle wait of two seconds.
pub fn announce_facts(queue: Queue) -> Announce {
    Arc::new(move || {
        let queue = queue.clone();
        tokio::spawn(async move { queue.announce_facts().await });
    })
}

/// Wakes the recompute whenever the directory was published: who orders one changes the directory too. A lost notice
/// costs a wait until it next looks by itself.
pub async fn follow_definitions(url: String, prefix: String, wanted: Arc<Notify>, stop: CancellationToken) {
    let channel = directory_key(&prefix);
    let listened = subscription::listen(&url, &channel, stop.clone(), |_| wanted.notify_one()).await;
    if let Err(error) = listened {
        tracing::error!(%error, "changed definitions are not announced to this process; it looks for them by itself");
        // Essential tasks do not end before the process does.
        stop.cancelled().await;
    }
}
