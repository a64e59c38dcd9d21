//! Publishing what a fold changed: absolute values, guarded by entry version, so that repeating or reordering
//! publications never shows (fine print 10).

use std::sync::LazyLock;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use redis::Script;

use super::connection::{Ranking, RankingError};
use super::publish_many::MANY;
use super::read::{period_keys, period_name};
use crate::domain::board::Order;
use crate::domain::ids::BoardGenerationId;
use crate::domain::period::Period;
use crate::domain::ranking_key::{Standing, write_place};

static PUBLISH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/publish.lua")));

/// Most entries of one script call: a few milliseconds in a board of a million.
pub(super) const ENTRIES_PER_CALL: usize = 500;

/// Calls of one publication that are under way together, so that Redis has the next one when it has done one. They are
/// shorter for it: whoever else asks Redis waits for both.
const CALLS_AT_ONCE: usize = 2;

/// A standing to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedEntry<'a> {
    /// Whose.
    pub player_id: &'a str,
    /// `None`: the entry was removed.
    pub standing: Option<Standing>,
}

/// Where a publication went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PublishOutcome {
    /// Nowhere: the board is not in Redis and nobody is rebuilding it. A rebuild that begins later reads what was
    /// committed, so nothing is lost by dropping this.
    NotReady,
    /// On the board.
    Live,
    /// Into the shadow of the rebuild that will make the board.
    Shadow,
}

impl Ranking {
    /// Publishes entries of one period, all with the same entry version. Older versions than Redis holds are skipped
    /// entry by entry. Every call that changes something gives the board a greater version and announces it: that of
    /// the fold when all is written, less before that.
    ///
    /// # Errors
    /// [`RankingError`]: it may have happened in part; repeat it.
    pub async fn publish(
        &self,
        generation: BoardGenerationId,
        period: &Period,
        order: Order,
        version: i64,
        entries: &[PublishedEntry<'_>],
    ) -> Result<PublishOutcome, RankingError> {
        self.publish_part(generation, period, order, version, entries, 0).await
    }

    /// As [`publish`](Self::publish) of a fold that changed other periods of this board too: `following` entries of
    /// them are still to come.
    ///
    /// # Errors
    /// [`RankingError`]: it may have happened in part; repeat it.
    pub async fn publish_part(
        &self,
        generation: BoardGenerationId,
        period: &Period,
        order: Order,
        version: i64,
        entries: &[PublishedEntry<'_>],
        following: usize,
    ) -> Result<PublishOutcome, RankingError> {
        let target = Target::new(&self.base(generation), generation, period, order, version, following);
        let mut rest = entries;
        if entries.len() >= MANY && entries.iter().all(|entry| entry.standing.is_some()) {
            rest = &entries[self.publish_many(&target, entries).await?..];
        }
        self.publish_by_script(&target, rest).await
    }

    async fn publish_by_script(
        &self,
        target: &Target,
        entries: &[PublishedEntry<'_>],
    ) -> Result<PublishOutcome, RankingError> {
        let mut outcome = PublishOutcome::Live;
        let mut under_way = FuturesOrdered::new();
        let mut place = Vec::new();
        let mut chunks = entries.chunks(ENTRIES_PER_CALL / CALLS_AT_ONCE);
        let mut left = entries.len();
        loop {
            while under_way.len() < CALLS_AT_ONCE
                && let Some(chunk) = chunks.next()
            {
                left -= chunk.len();
                let mut call = PUBLISH.prepare_invoke();
                call.key(&target.ready).key(&target.version).key(&target.rebuild);
                call.key(&target.periods).key(&target.rank).key(&target.member);
                call.key(&target.shadow_periods).key(&target.shadow_rank).key(&target.shadow_member);
                call.arg(target.generation.0).arg(&target.period).arg(target.entry_version).arg(self.channel());
                call.arg(target.board_version(left)).arg(self.given(target.generation));
                for entry in chunk {
                    place.clear();
                    if let Some(standing) = &entry.standing {
                        write_place(&mut place, standing, target.order);
                    }
                    call.arg(entry.player_id).arg(&place);
                }
                under_way.push_back(async move { self.call::<(i64, i64)>(&call).await });
            }
            outcome = match under_way.next().await {
                None => return Ok(outcome),
                Some(written) => match written? {
                    (1, version) => {
                        self.gave(target.generation, version);
                        PublishOutcome::Live
                    }
                    (2, _) => PublishOutcome::Shadow,
                    _ => return Ok(PublishOutcome::NotReady),
                },
            };
        }
    }
}

/// Where a publication goes: the period, and the names of all keys that it may touch.
pub(super) struct Target {
    pub(super) generation: BoardGenerationId,
    /// What the period is called.
    pub(super) period: String,
    pub(super) order: Order,
    /// What the entries' version becomes.
    pub(super) entry_version: i64,
    /// Entries of other periods that the same fold changed and that are still to come.
    following: usize,
    pub(super) ready: String,
    /// The board's version.
    pub(super) version: String,
    pub(super) rebuild: String,
    pub(super) periods: String,
    pub(super) rank: String,
    pub(super) member: String,
    shadow_periods: String,
    shadow_rank: String,
    shadow_member: String,
}

impl Target {
    fn new(
        base: &str,
        generation: BoardGenerationId,
        period: &Period,
        order: Order,
        entry_version: i64,
        following: usize,
    ) -> Self {
        let period = period_name(period);
        let ((rank, member), (shadow_rank, shadow_member)) = (period_keys(base, &period), shadow_keys(base, &period));
        Self {
            generation,
            period,
            order,
            entry_version,
            following,
            ready: format!("{base}ready"),
            version: format!("{base}version"),
            rebuild: format!("{base}rebuild"),
            periods: format!("{base}periods"),
            rank,
            member,
            shadow_periods: format!("{base}shadow:periods"),
            shadow_rank,
            shadow_member,
        }
    }

    /// The least version that the board has when `left` entries of this period are still to come. What Postgres answers
    /// under the fold's own version has all of them.
    pub(super) fn board_version(&self, left: usize) -> i64 {
        self.entry_version - (left + self.following) as i64
    }
}

/// Names of the sorted set and hash that a rebuild writes.
pub(super) fn shadow_keys(base: &str, period: &str) -> (String, String) {
    (format!("{base}shadow:{period}:rank"), format!("{base}shadow:{period}:member"))
}
