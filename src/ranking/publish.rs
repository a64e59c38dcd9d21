//! Publishing what a fold changed: absolute values, guarded by entry version, so that repeating or reordering
//! publications never shows (docs/rules.md#publications-can-be-repeated).

use std::sync::LazyLock;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use redis::Script;

use super::connection::Ranking;
use super::error::RankingError;
use super::publish_many::{ENTRIES_PER_EXEC, MANY};
use super::target::{PublishedEntry, Target};
use crate::domain::board::Order;
use crate::domain::ids::BoardGenerationId;
use crate::domain::period::Period;
use crate::domain::ranking_key::write_place;

static PUBLISH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/publish.lua")));

/// Most entries of one script call: a few milliseconds in a board of a million.
pub(super) const ENTRIES_PER_CALL: usize = 500;

/// Calls of one publication that are under way together, so that Redis has the next one when it has done one. They are
/// shorter for it: whoever else asks Redis waits for both.
const CALLS_AT_ONCE: usize = 2;

/// Entries of one call of a publication by script.
const ENTRIES_AT_ONCE: usize = ENTRIES_PER_CALL / CALLS_AT_ONCE;

/// How many calls it takes at most to publish so many entries of one period. Each may move the board's version.
pub fn most_calls(entries: usize) -> usize {
    entries.div_ceil(if entries >= MANY { ENTRIES_PER_EXEC } else { ENTRIES_AT_ONCE })
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
    /// the fold when all is written, less before that ([`board_version`](crate::domain::board_version)).
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

    /// As [`publish`](Self::publish) of a fold that changed other periods of this board too: `following`
    /// [calls](most_calls) for them are still to come.
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
        let mut chunks = entries.chunks(ENTRIES_AT_ONCE);
        // The last one goes when all before it were answered: it gives the board the version of a whole fold. One that
        // moves entries may pass where Redis has no memory for new ones, which the call before it had.
        let at_once = |to_come: usize| if to_come > 1 { CALLS_AT_ONCE } else { 1 };
        loop {
            while under_way.len() < at_once(chunks.len())
                && let Some(chunk) = chunks.next()
            {
                let mut call = PUBLISH.prepare_invoke();
                call.key(&target.ready).key(&target.version).key(&target.rebuild);
                call.key(&target.periods).key(&target.rank).key(&target.member);
                call.key(&target.shadow_periods).key(&target.shadow_rank).key(&target.shadow_member);
                call.arg(target.generation.0).arg(&target.period).arg(target.entry_version).arg(self.channel());
                call.arg(target.board_version(chunks.len())).arg(self.given(target.generation));
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
