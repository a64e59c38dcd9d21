//! The loop: woken, it folds; what it folded is published beside it.

use std::sync::Arc;
use std::time::Duration;

use crate::store::pool::Pool;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bring_back::BringBack;
use super::fold::{FoldError, Folded, fold_once};
use super::fold_health::FoldHealth;
use super::history::History;
use super::observe;
use super::outlook::Outlook;
use super::portion::{Appetite, Portion};
use super::publish::{Committed, Publisher};
use super::rebuild;
use super::refused::{Refused, Unfoldable};
use super::rules::Rules;
use super::settings::AggregatorConfig;
use super::shards::{self, Shards};
use crate::domain::clock::Clock;
use crate::domain::retry::Backoff;
use crate::ranking::{Ranking, subscription};
use crate::runtime::crash_points::crash_point;
use crate::runtime::lifecycle::Lifecycle;
use crate::store::failure::{Failure, classify, is_lock_timeout};
use crate::store::leases::Lease;
use crate::store::outbox::Outbox;
use crate::telemetry::metrics as names;

/// Folds that may wait for Redis while the next ones run. With more of them folds would run ahead and take the cores
/// from Redis, players would see scores later, and at the end of a backlog Redis would be busy alone.
const IN_FLIGHT: usize = 1;
/// How long a fold waits for Redis to catch up before the marker is left in Postgres alone.
const CATCH_UP: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// What the aggregator works with.
#[derive(Debug, Clone)]
pub struct Aggregator {
    /// Sizes and paces.
    pub config: AggregatorConfig,
    /// Postgres.
    pub pool: Pool,
    /// Leaderboards in Redis.
    pub ranking: Ranking,
    /// The queue's Redis and `REDIS_PREFIX`: where committed facts are announced.
    pub queue_url: String,
    /// `REDIS_PREFIX`.
    pub prefix: String,
    /// The time.
    pub clock: Clock,
    /// This process, in lease rows: host, pid and something unique.
    pub holder: String,
    /// Hears what folds met.
    pub health: Arc<FoldHealth>,
}

/// Folds and publishes until a soft stop; then finishes what is in hand and signs off. A hard stop ends it at once:
/// what was committed is published by whoever folds next.
pub async fn run(aggregator: Aggregator, lifecycle: Lifecycle) {
    tokio::select! {
        () = lifecycle.hard.cancelled() => {}
        () = drive(aggregator, lifecycle.soft.clone()) => {}
    }
}

async fn drive(aggregator: Aggregator, stop: CancellationToken) {
    let Aggregator { config, pool, ranking, queue_url, prefix, clock, holder, health } = aggregator;
    let rules = Arc::new(Rules::new(pool.clone()));
    let shards = Arc::new(Shards::new(pool.clone(), holder));
    let (wanted, spilled) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (wake, other_wake) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let publisher = Publisher::new(pool.clone(), ranking.clone(), rules.clone(), shards.clone(), clock, wanted.clone());
    let unfoldable = Arc::new(Unfoldable::default());
    let folder = Folder {
        config,
        pool: pool.clone(),
        rules: rules.clone(),
        shards: shards.clone(),
        spilled: spilled.clone(),
        health,
        unfoldable: unfoldable.clone(),
        lane: 0,
        wake: wake.clone(),
        other_wake: other_wake.clone(),
    };
    // Leases are renewed until the last fold has been published, also while stopping.
    let done = CancellationToken::new();
    let folding = async {
        fold_and_publish(folder, publisher, &stop).await;
        done.cancel();
    };
    let listening = async {
        let channel = format!("{prefix}:q0:facts");
        let listened = subscription::listen(&queue_url, &channel, stop.clone(), |_| {
            wake.notify_one();
            other_wake.notify_one();
        })
        .await;
        if let Err(error) = listened {
            tracing::error!(%error, "committed facts are not announced to this process; it looks for them by itself");
        }
    };
    let (folders, publisher) = ([&*wake, &*other_wake], &*spilled);
    let bring_back =
        BringBack { pool: &pool, rules: &rules, shards: &shards, unfoldable: &unfoldable, folders, publisher };
    tokio::join!(
        folding,
        bring_back.run(&stop),
        listening,
        shards.keep(done.clone()),
        rebuild::keep_boards(&pool, &ranking, &rules, &wanted, &stop),
        History::new(&pool, &ranking, &rules).watch(&shards, &stop),
        observe::run(&pool, &shards, &stop),
    );
    shards.release().await;
}

/// Folds until `stop`, publishing beside it; returns when what was folded is published, or Redis is away.
async fn fold_and_publish(folder: Folder, publisher: Publisher, stop: &CancellationToken) {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let mut publishing = tokio::spawn(publisher.run(receiver, folder.spilled.clone()));
    let other = Folder { lane: 1, wake: folder.other_wake.clone(), ..folder.clone() };
    let both = async {
        tokio::join!(folder.run(sender.clone(), stop), other.run(sender, stop));
    };
    let ended = tokio::select! {
        // The senders are dropped with the future: the publisher ends when it has published what is on its way.
        () = both => publishing.await,
        ended = &mut publishing => ended,
    };
    if let Err(error) = ended
        && error.is_panic()
    {
        // Folding without publishing is half an aggregator: take the process down.
        std::panic::resume_unwind(error.into_panic());
    }
}

/// How a fold went.
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    /// The highest id of a row that it took.
    last: Option<i64>,
    /// More facts wait than it took.
    full: bool,
}

/// Folds the shards of one lane that this process holds. Two of them keep two connections busy: one fold waits for
/// Postgres most of the time, and Postgres works on one core for it.
#[derive(Debug, Clone)]
struct Folder {
    config: AggregatorConfig,
    pool: Pool,
    rules: Arc<Rules>,
    shards: Arc<Shards>,
    spilled: Arc<Notify>,
    health: Arc<FoldHealth>,
    unfoldable: Arc<Unfoldable>,
    lane: i16,
    wake: Arc<Notify>,
    other_wake: Arc<Notify>,
}

impl Folder {
    async fn run(&self, committed: mpsc::Sender<Committed>, stop: &CancellationToken) {
        let pace = Duration::from_millis(self.config.fold_pace_millis);
        let mut held = self.shards.subscribe();
        let mut last_began: Option<Instant> = None;
        let mut backoff = Backoff::new(FIRST_BACKOFF, MAX_BACKOFF);
        let mut appetite = Appetite::new(self.config.fold_max_facts);
        let mut refused = Refused::new(self.unfoldable.clone());
        let mut full = false;
        let mut outlook = Outlook::default();
        while !stop.is_cancelled() {
            if !full {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.wake.notified() => {}
                    // Another's rows may be older than what was looked at here.
                    Ok(()) = held.changed() => outlook = Outlook::default(),
                    () = tokio::time::sleep(Duration::from_millis(self.config.fold_idle_millis)) => {
                        if !self.facts_wait(&mut outlook).await {
                            continue;
                        }
                    }
                }
                // The first fold after a pause begins at once; later ones wait for company.
                if let Some(began) = last_began {
                    tokio::time::sleep_until(began + pace).await;
                }
            }
            let began = Instant::now();
            last_began = Some(began);
            let (held, mut portion) = appetite.next(&self.held(), began);
            refused.make_way(&self.pool, &self.rules, &held, &mut portion).await;
            full = match self.fold(&committed, &held, &portion, began).await {
                Ok(done) => {
                    backoff.reset();
                    let narrowed = appetite.succeeded(&held, &portion, done.last);
                    if !narrowed {
                        refused.folded(&portion, done.last, done.full);
                        self.health.worked(self.lane);
                    }
                    narrowed || done.full
                }
                Err(FoldError::LeaseLost) => {
                    // Whoever has it now folds it; find out what is left.
                    if let Err(error) = self.shards.renew().await {
                        tracing::warn!(%error, "leases could not be renewed");
                    }
                    false
                }
                Err(FoldError::Postgres(error)) => {
                    tracing::warn!(%error, "a fold failed; its facts wait");
                    self.health.failed(self.lane, &error.to_string(), Instant::now());
                    metrics::counter!(names::FOLD_FAILURES, "role" => "cron").increment(1);
                    if classify(&error) != Failure::Server || is_lock_timeout(&error) {
                        appetite.failed(&held);
                    }
                    if let Err(error) = refused.met(&self.pool, &self.rules, &held, portion, &error).await {
                        tracing::debug!(%error, "it is not known whether a row of facts is at fault");
                    }
                    // A connection that broke during COMMIT leaves it open whether the fold and its marker are there.
                    self.spilled.notify_one();
                    tokio::time::sleep(backoff.pause()).await;
                    true
                }
            };
        }
    }

    fn held(&self) -> Vec<Lease> {
        shards::of_lane(self.shards.held(), self.lane)
    }

    /// Whether it is worth a fold's transaction to look: asked when nobody gave notice, every two seconds, for ever. If
    /// Postgres does not say, the fold finds out why.
    async fn facts_wait(&self, outlook: &mut Outlook) -> bool {
        let after = outlook.after(Instant::now());
        let looking = async {
            let mut connection = self.pool.acquire().await?;
            Outbox::Facts.any(&mut connection, &shards::numbers(&self.held()), after).await
        };
        looking.await.map_or(true, |glance| {
            outlook.saw(glance);
            glance.count > 0
        })
    }

    /// One fold.
    async fn fold(
        &self,
        committed: &mpsc::Sender<Committed>,
        held: &[Lease],
        portion: &Portion,
        began: Instant,
    ) -> Result<Done, FoldError> {
        if held.is_empty() {
            return Ok(Done::default());
        }
        let Folded { facts, late, last, full, marker, received } =
            fold_once(&self.pool, &self.rules, held, portion.clone()).await?;
        let done = Done { last, full };
        if facts == 0 {
            return Ok(done);
        }
        crash_point("fold::after_commit");
        let at = Instant::now();
        metrics::histogram!(names::FOLD_SECONDS, "role" => "cron").record((at - began).as_secs_f64());
        metrics::counter!(names::FACTS_FOLDED, "role" => "cron").increment(facts);
        metrics::counter!(names::FACTS_LATE, "role" => "cron").increment(late);
        if let Some(marker) = marker
            && committed.send_timeout(Committed { marker, received, at }, CATCH_UP).await.is_err()
        {
            self.spilled.notify_one();
        }
        Ok(done)
    }
}
