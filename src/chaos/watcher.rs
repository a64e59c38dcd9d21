//! A player who looks at a leaderboard all the time: it may be away, it is never wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::bench::load::Connection;

/// Pause between two looks.
const EVERY: Duration = Duration::from_millis(100);
/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most remarks that are kept.
const MAX_REMARKS: usize = 10;

/// Looks until it is stopped.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<AtomicBool>,
    looking: JoinHandle<Seen>,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Looks that were answered with a page.
    pub pages: u64,
    /// What no player should see.
    pub wrong: Vec<String>,
}

impl Watcher {
    /// Looks at the board `best`, on which entries only become more and better, unless it is `excused`.
    pub fn start(api: SocketAddr, key: String, excused: Arc<AtomicBool>) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let looking = tokio::spawn(async move {
            let (mut seen, mut line, mut last) = (Seen::default(), None, (0, i64::MIN));
            while !stopped.load(Ordering::Relaxed) {
                match tokio::time::timeout(PATIENCE, look(api, &key, &mut line)).await {
                    Ok(Some((200, page))) => {
                        seen.pages += 1;
                        let total = page["total"].as_u64().unwrap_or_default();
                        let best = page["entries"][0]["score"].as_i64().unwrap_or(i64::MIN);
                        if excused.load(Ordering::Relaxed) {
                            last = (0, i64::MIN);
                        }
                        if (total < last.0 || best < last.1) && seen.wrong.len() < MAX_REMARKS {
                            seen.wrong.push(format!(
                                "a leaderboard went back from {} entries with {} on top to {total} with {best}",
                                last.0, last.1
                            ));
                        }
                        last = (total.max(last.0), best.max(last.1));
                    }
                    Ok(Some((503, _))) => {}
                    Ok(Some((status, body))) if seen.wrong.len() < MAX_REMARKS => {
                        seen.wrong.push(format!("a look at a leaderboard was answered {status}: {body}"));
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => line = None,
                }
                tokio::time::sleep(EVERY).await;
            }
            seen
        });
        Self { stop, looking }
    }

    /// The end of it.
    pub async fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let died = |error| Seen { pages: 0, wrong: vec![format!("the one who looks died: {error}")] };
        self.looking.await.unwrap_or_else(died)
    }
}

async fn look(api: SocketAddr, key: &str, line: &mut Option<Connection>) -> Option<(u16, Value)> {
    if line.is_none() {
        *line = Connection::open(api).await.ok();
    }
    let open = line.as_mut()?;
    let (status, body) = open.get("/v1/leaderboards/best/entries?limit=3", key).await.ok()?;
    Some((status, serde_json::from_slice(body).unwrap_or_default()))
}
