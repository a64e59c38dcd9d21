//! What every request of the api has at hand.

use std::sync::Arc;

use crate::store::pool::Pool;
use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

use super::boards::Boards;
use super::cache::PageCache;
use super::change::Places;
use super::history::History;
use super::public_reads::PublicReads;
use super::settings::ApiConfig;
use super::source::Sources;
use crate::directory::{KeyHash, SharedDirectory, hash_key};
use crate::domain::clock::Clock;
use crate::domain::game_bounds::GameBounds;
use crate::http::failed_guesses::FailedGuesses;
use crate::http::settings::HttpConfig;
use crate::queue::Queue;
use crate::ranking::Ranking;
use crate::ranking::subscription::BoardNotice;
use crate::redis_connection::Connection;
use crate::services::directory_publication::publish_if_stale;

/// The admin token is too easy to guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("ADMIN_TOKEN must have at least 24 characters")]
pub struct WeakAdminToken;

const MIN_ADMIN_TOKEN: usize = 24;

/// What the api is made from.
pub struct ApiSettings {
    /// Snapshot of games, keys and leaderboards; somebody follows Redis ([`crate::directory::DirectorySource`]).
    pub directory: SharedDirectory,
    /// Postgres, the primary.
    pub pool: Pool,
    /// A replica for history, where there is one.
    pub replica: Option<Pool>,
    /// Published leaderboards.
    pub ranking: Ranking,
    /// The job queue, for its status, pausing and replays.
    pub queue: Queue,
    /// The queue's name.
    pub queue_name: String,
    /// The directory's Redis (`REDIS_CACHE_URL`).
    pub cache_redis: Connection,
    /// `REDIS_PREFIX`.
    pub redis_prefix: String,
    /// Where the time comes from.
    pub clock: Clock,
    /// Admin token and caching.
    pub config: ApiConfig,
    /// CORS and trusted proxies.
    pub http: HttpConfig,
}

/// What every request has at hand; cheap to clone.
#[derive(Clone)]
pub struct ApiState(Arc<Shared>);

/// What [`ApiState`] shares between requests; its parts are the api's own.
pub struct Shared {
    pub(super) directory: SharedDirectory,
    pub(super) pool: Pool,
    pub(super) history: Arc<History>,
    pub(super) ranking: Ranking,
    pub(super) queue: Queue,
    pub(super) queue_name: String,
    pub(super) cache_redis: Connection,
    pub(super) redis_prefix: String,
    pub(super) clock: Clock,
    pub(super) admin_token: Option<KeyHash>,
    pub(super) guesses: FailedGuesses,
    pub(super) public_reads: PublicReads,
    pub(super) places: Places,
    pub(super) boards: Arc<Boards>,
    pub(super) pages: PageCache,
    pub(super) sources: Sources,
    pub(super) public_cache_control: axum::http::HeaderValue,
    pub(super) http: HttpConfig,
    pub(super) bounds: GameBounds,
}

impl std::ops::Deref for ApiState {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl std::fmt::Debug for ApiState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiState")
    }
}

impl ApiState {
    /// Prepares the api.
    ///
    /// # Errors
    /// [`WeakAdminToken`].
    pub fn new(settings: ApiSettings) -> Result<Self, WeakAdminToken> {
        let admin_token = settings.config.admin_token.as_ref().map(check_admin_token).transpose()?;
        let max_age = settings.config.public_max_age;
        let public = format!("public, max-age={max_age}, stale-while-revalidate=5");
        let (directory, ranking, pool, clock) = (settings.directory, settings.ranking, settings.pool, settings.clock);
        let history = Arc::new(History::new(pool.clone(), settings.replica, clock.clone()));
        let boards = Arc::new(Boards::new(Arc::clone(&directory), pool.clone(), clock.clone()));
        let (shown_to, read_from) = (Arc::clone(&boards), Arc::clone(&history));
        let sources = Sources::new(ranking.clone(), pool.clone(), shown_to, read_from);
        Ok(Self(Arc::new(Shared {
            directory,
            history,
            pool,
            ranking,
            queue: settings.queue,
            queue_name: settings.queue_name,
            cache_redis: settings.cache_redis,
            redis_prefix: settings.redis_prefix,
            clock,
            admin_token,
            guesses: FailedGuesses::default(),
            public_reads: PublicReads::new(settings.config.rate_limit_public_reads),
            places: Places::default(),
            boards,
            pages: PageCache::default(),
            sources,
            public_cache_control: axum::http::HeaderValue::try_from(public)
                .unwrap_or(axum::http::HeaderValue::from_static("public, max-age=1")),
            http: settings.http,
            bounds: settings.config.bounds.into(),
        })))
    }

    /// Drops cached pages when their board changes; runs until `stop`. Without it pages are up to a second old.
    pub async fn follow_boards(self, stop: CancellationToken) {
        let state = self.clone();
        let changed = move |notice: BoardNotice| match notice {
            BoardNotice::Changed(generation, version) => state.boards.shown(generation, version),
            BoardNotice::Unknown => state.boards.all_may_have_changed(),
            BoardNotice::Era => {
                // First, so that whatever is asked from now on is asked of the server that is there now.
                state.pool.renew_connections();
                state.boards.new_era();
                state.history.forget();
            }
        };
        self.ranking.listen(stop, changed).await;
    }

    /// After a change of games, keys or leaderboards: this replica knows it before the answer is sent, the others
    /// through Redis. Should Redis be away, cron publishes later.
    pub(super) async fn directory_changed(&self) {
        match crate::store::directory::snapshot(&self.pool).await {
            Ok(snapshot) => {
                let fresh = Arc::new(self.directory.load().next(snapshot));
                self.directory.rcu(|current| {
                    if current.version < fresh.version { Arc::clone(&fresh) } else { Arc::clone(current) }
                });
            }
            Err(error) => tracing::warn!(%error, "could not read the directory after a change"),
        }
        let mut redis = self.cache_redis.clone();
        if let Err(error) = publish_if_stale(&self.pool, &mut redis, &self.redis_prefix).await {
            tracing::warn!(%error, "could not publish the directory; cron will");
        }
    }
}

fn check_admin_token(token: &SecretString) -> Result<KeyHash, WeakAdminToken> {
    let token = token.expose_secret();
    if token.chars().count() < MIN_ADMIN_TOKEN { Err(WeakAdminToken) } else { Ok(hash_key(token)) }
}
