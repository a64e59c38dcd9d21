//! Reading: pages, a standing, around, lookup. Each is one script call, so that its parts agree with each other;
//! standings, and neighbours, that are asked for at the same time share one (`gather`).

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use redis::Script;

use super::connection::Ranking;
use super::error::ReadError;
use super::gather::{self, Asks, Desk};
use super::key::SortKey;
use super::questions::{BoardPeriod, Direction, LookedUp, MAX_LOOKUP, MAX_PAGE, Page, RankedEntry, StandingAnswer};
use crate::domain::board::TiePolicy;
use crate::domain::clock::Micros;
use crate::domain::period::Period;
use crate::domain::ranking_key::Standing;

static PAGE: LazyLock<Script> = LazyLock::new(|| reading(include_str!("scripts/page.lua")));
static LOOKUP: LazyLock<Script> = LazyLock::new(|| reading(include_str!("scripts/lookup.lua")));

/// A script that reads: what all of them need stands before it.
pub(super) fn reading(script: &str) -> Script {
    Script::new(&[include_str!("scripts/reading.lua"), script].concat())
}

/// Whether a script could read the board.
pub(super) fn readable(ready: i64) -> Result<(), ReadError> {
    match ready {
        0 => Err(ReadError::Rebuilding),
        1 => Ok(()),
        _ => Err(ReadError::Damaged),
    }
}

/// ready, version, total, published, before, tied, members
pub(super) type PageReply = (i64, i64, u64, i64, u64, u64, Vec<Vec<u8>>);
/// ready, version, total, published, ranks, members
type LookupReply = (i64, i64, u64, i64, Vec<u64>, Vec<Vec<u8>>);

impl Ranking {
    /// At most `limit` (1 to [`MAX_PAGE`]) entries from the cursor `from`, exclusive; without one from the top
    /// ([`Direction::Forward`]) or the end ([`Direction::Backward`]).
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn page(
        &self,
        board: &BoardPeriod,
        limit: usize,
        from: Option<&SortKey>,
        direction: Direction,
    ) -> Result<Page, ReadError> {
        let base = self.base(board.generation);
        let name = period_name(&board.period);
        let (rank, member) = period_keys(&base, &name);
        let mut call = PAGE.prepare_invoke();
        call.key(format!("{base}ready")).key(format!("{base}version")).key(format!("{base}periods"));
        call.key(rank).key(member);
        call.arg(name).arg(limit.clamp(1, MAX_PAGE));
        call.arg(if direction == Direction::Forward { "f" } else { "b" });
        call.arg(from.map_or(&b""[..], SortKey::as_bytes)).arg(tie_code(board.tie_policy));
        page_of(board, self.call(&call).await?)
    }

    /// One player's standing.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn standing(&self, board: &BoardPeriod, player_id: &str) -> Result<StandingAnswer, ReadError> {
        gather::ask(self, *board, player_id).await
    }

    /// Some players' standings. At most [`MAX_LOOKUP`] are looked up; the caller refuses more. A player named twice
    /// is found once.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn lookup(&self, board: &BoardPeriod, players: &[&str]) -> Result<LookedUp, ReadError> {
        let base = self.base(board.generation);
        let name = period_name(&board.period);
        let (rank, member) = period_keys(&base, &name);
        let mut call = LOOKUP.prepare_invoke();
        call.key(format!("{base}ready")).key(format!("{base}version")).key(format!("{base}periods"));
        call.key(rank).key(member).arg(name).arg(tie_code(board.tie_policy));
        let mut seen = HashSet::with_capacity(players.len());
        for player_id in players.iter().take(MAX_LOOKUP).filter(|p| seen.insert(**p)) {
            call.arg(*player_id);
        }
        if seen.is_empty() {
            // HMGET needs a field; the empty text is no player.
            call.arg("");
        }
        let (ready, version, total, published, ranks, members): LookupReply = self.call(&call).await?;
        readable(ready)?;
        let mut found: Vec<RankedEntry> =
            members.into_iter().zip(ranks).filter_map(|(member, before)| ranked(board, member, before + 1)).collect();
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let mut entries: Vec<(u64, RankedEntry)> = Vec::with_capacity(found.len());
        for (entry, position) in found.into_iter().zip(1..) {
            let previous = entries.last().map(|(rank, entry)| (*rank, entry.standing));
            let among = next_rank(board.tie_policy, previous, &entry.standing, position);
            entries.push((among, entry));
        }
        Ok(LookedUp { version, total, published: published != 0, entries })
    }
}

impl Asks<BoardPeriod> for Ranking {
    fn desk(&self) -> &Desk<BoardPeriod> {
        self.standings()
    }

    async fn ask(&self, board: &BoardPeriod, players: &[&str]) -> Result<Vec<StandingAnswer>, ReadError> {
        let LookedUp { version, total, published, entries } = self.lookup(board, players).await?;
        let entry_of: HashMap<&str, &RankedEntry> =
            entries.iter().map(|(_, entry)| (entry.player_id(), entry)).collect();
        let standing = |player: &&str| {
            let entry = entry_of.get(player).map(|entry| (*entry).clone());
            StandingAnswer { version, total, published, entry }
        };
        Ok(players.iter().map(standing).collect())
    }
}

/// What a period is called in keys and among a board's periods: `<start>..<end>` in µs, no end when it never ends.
pub(super) fn period_name(period: &Period) -> String {
    match period.ends_at {
        Some(end) => format!("{}..{}", period.starts_at.0, end.0),
        None => format!("{}..", period.starts_at.0),
    }
}

/// The inverse of [`period_name`]; `None`: it is called otherwise.
pub(super) fn named_period(name: &str) -> Option<Period> {
    let (start, end) = name.split_once("..")?;
    let ends_at = if end.is_empty() { None } else { Some(Micros(end.parse().ok()?)) };
    Some(Period { starts_at: Micros(start.parse().ok()?), ends_at })
}

/// Names of a period's sorted set and hash.
pub(super) fn period_keys(base: &str, period: &str) -> (String, String) {
    (format!("{base}p:{period}:rank"), format!("{base}p:{period}:member"))
}

pub(super) const fn tie_code(policy: TiePolicy) -> &'static str {
    match policy {
        TiePolicy::Ordinal => "o",
        TiePolicy::Competition => "c",
    }
}

fn ranked(board: &BoardPeriod, member: Vec<u8>, rank: u64) -> Option<RankedEntry> {
    let (key, standing) = SortKey::from_member(member, board.order)?;
    Some(RankedEntry { rank, standing, key })
}

/// The rank of an entry that stands at `position` (from 1) right behind `previous` (its rank and standing).
pub fn next_rank(policy: TiePolicy, previous: Option<(u64, Standing)>, standing: &Standing, position: u64) -> u64 {
    match previous {
        Some((rank, before)) if policy == TiePolicy::Competition && before.ties(standing) => rank,
        _ => position,
    }
}

pub(super) fn page_of(board: &BoardPeriod, reply: PageReply) -> Result<Page, ReadError> {
    let (ready, version, total, published, before, tied, members) = reply;
    readable(ready)?;
    let mut entries: Vec<RankedEntry> = Vec::with_capacity(members.len());
    for (member, position) in members.into_iter().zip(before + 1..) {
        let Some(mut entry) = ranked(board, member, position) else { continue };
        entry.rank = match entries.last() {
            None if board.tie_policy == TiePolicy::Competition => tied + 1,
            previous => next_rank(board.tie_policy, previous.map(|p| (p.rank, p.standing)), &entry.standing, position),
        };
        entries.push(entry);
    }
    let end = before + entries.len() as u64;
    let next = entries.last().filter(|_| end < total).map(|e| e.key.clone());
    let previous = entries.first().filter(|_| before > 0).map(|e| e.key.clone());
    Ok(Page { version, total, published: published != 0, entries, next, previous })
}
