//! Encoded pages, made once per change of their board (docs/rules.md#notices-drop-cached-pages).
//!
//! A page is kept under the version of its board that this process was last told of, so a notice makes it
//! unfindable at once; one second is only the upper bound should notices fail. Many requests for a page that is not
//! there yet wait for one that makes it. Bounded in bytes.
//!
//! Most requests are for a page that was just made, so the latest ones stand in a few places of their own in front of
//! the cache: they are found by a comparison, without hashing the key or noting who asked.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::http::HeaderValue;
use bytes::Bytes;
use moka::future::Cache;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::error::ApiError;
use super::query::Include;
use crate::domain::ids::GameId;
use crate::domain::period::Period;
use crate::ranking::{BoardPeriod, Direction, SortKey};

/// Most bytes of pages.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// How old a page may be should notices fail.
const MAX_AGE: Duration = Duration::from_secs(1);
/// What an entry of the cache costs beside its page, about.
const OVERHEAD: usize = 512;
/// Shorter pages are not worth compressing.
const MIN_COMPRESSED: usize = 1_024;

/// Places for the latest pages; a board has one of them, by its generation.
const LATEST: usize = 64;
/// Longer pages are only in the cache, so that the places before it hold a few megabytes at most.
const MAX_LATEST_BYTES: usize = 64 * 1024;

/// What a page depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PageKey {
    /// Whose it is.
    pub game: GameId,
    /// Generation, period, order and ties.
    pub board: BoardKey,
    /// What this process was last told of the board ([`super::boards::Boards::seen`]).
    pub seen: (i64, i64),
    /// Entries at most.
    pub limit: usize,
    /// From where.
    pub from: Option<(Direction, SortKey)>,
    /// What is added.
    pub include: Include,
}

/// The parts of a [`BoardPeriod`] that can differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BoardKey(i32, Period, crate::domain::board::TiePolicy);

impl From<&BoardPeriod> for BoardKey {
    fn from(board: &BoardPeriod) -> Self {
        Self(board.generation.0, board.period, board.tie_policy)
    }
}

/// An encoded page.
#[derive(Debug)]
pub struct CachedPage {
    /// JSON.
    pub body: Bytes,
    /// Of the body.
    pub etag: HeaderValue,
    gzip: OnceCell<Bytes>,
}

impl CachedPage {
    /// A page to keep.
    pub fn new(body: Bytes, etag: HeaderValue) -> Self {
        Self { body, etag, gzip: OnceCell::new() }
    }

    /// The page compressed with gzip, made on first demand; `None` where that is not worth it.
    pub async fn gzip(&self) -> Option<Bytes> {
        if self.body.len() < MIN_COMPRESSED {
            return None;
        }
        self.gzip.get_or_try_init(|| super::compression::gzip(&self.body)).await.ok().cloned()
    }
}

/// A page that was made lately.
#[derive(Debug)]
struct Latest {
    key: PageKey,
    page: Arc<CachedPage>,
    made: Instant,
}

/// Encoded pages.
#[derive(Debug)]
pub struct PageCache {
    latest: [ArcSwapOption<Latest>; LATEST],
    pages: Cache<PageKey, Arc<CachedPage>>,
}

impl Default for PageCache {
    fn default() -> Self {
        let weigh = |_: &PageKey, page: &Arc<CachedPage>| {
            // With its compressed form, which is made later.
            u32::try_from(page.body.len() * 5 / 4 + OVERHEAD).unwrap_or(u32::MAX)
        };
        let latest = std::array::from_fn(|_| ArcSwapOption::empty());
        Self { latest, pages: Cache::builder().max_capacity(MAX_BYTES).weigher(weigh).time_to_live(MAX_AGE).build() }
    }
}

impl PageCache {
    /// The page, if it is there.
    pub async fn get(&self, key: &PageKey) -> Option<Arc<CachedPage>> {
        if let Some(latest) = &*self.place(key).load()
            && latest.key == *key
            && latest.made.elapsed() < MAX_AGE
        {
            return Some(Arc::clone(&latest.page));
        }
        Box::pin(self.pages.get(key)).await
    }

    fn place(&self, key: &PageKey) -> &ArcSwapOption<Latest> {
        let BoardKey(generation, ..) = key.board;
        &self.latest[generation.unsigned_abs() as usize % LATEST]
    }

    /// The page, made by `make` unless it is there; concurrent callers share one making.
    ///
    /// # Errors
    /// What `make` says. Failures are not kept.
    pub async fn get_or_make(
        &self,
        key: PageKey,
        make: impl Future<Output = Result<CachedPage, ApiError>>,
    ) -> Result<Arc<CachedPage>, ApiError> {
        let latest = key.clone();
        let make = async {
            let page = Arc::new(make.await?);
            if page.body.len() <= MAX_LATEST_BYTES {
                let made = Latest { key: latest, page: Arc::clone(&page), made: Instant::now() };
                self.place(&made.key).store(Some(Arc::new(made)));
            }
            Ok(page)
        };
        self.pages.try_get_with(key, make).await.map_err(|error: Arc<ApiError>| ApiError::clone(&error))
    }
}
