//! What Redis holds, by version: for whoever compares it with Postgres.

use std::sync::LazyLock;

use redis::Script;

use super::connection::Ranking;
use super::error::RankingError;
use super::questions::BoardPeriod;
use super::read::{named_period, period_keys, period_name, reading};
use crate::domain::board::Order;
use crate::domain::ids::BoardGenerationId;
use crate::domain::period::Period;
use crate::domain::ranking_key::{Standing, write_place};

static HELD: LazyLock<Script> = LazyLock::new(|| reading(include_str!("scripts/held.lua")));

/// Most players of one call.
const MAX_PLAYERS: usize = 500;
/// Periods that one pipeline counts.
const PERIODS_PER_CALL: usize = 500;

/// An entry as Redis holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldEntry {
    /// The entry's version; 0 where somebody else wrote something that has none.
    pub version: i64,
    /// Whether the sorted set has it where the hash says.
    pub in_place: bool,
    place: Vec<u8>,
}

impl HeldEntry {
    /// Whether this is that standing, on a board of this order.
    pub fn is(&self, standing: &Standing, order: Order) -> bool {
        let mut place = Vec::with_capacity(24);
        write_place(&mut place, standing, order);
        self.in_place && self.place == place
    }

    fn parse((value, in_place): (Vec<u8>, i64)) -> Option<Self> {
        if value.is_empty() {
            return None;
        }
        let colon = value.iter().position(|byte| *byte == b':');
        let (version, place) = value.split_at(colon.unwrap_or(0));
        let version = std::str::from_utf8(version).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        Some(Self { version, in_place: in_place == 1, place: place.get(1..).unwrap_or_default().to_vec() })
    }
}

/// What Redis holds of some players of a period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Whether no part of the period was lost, as far as one can see.
    pub whole: bool,
    /// In the players' order; `None`: nothing.
    pub entries: Vec<Option<HeldEntry>>,
}

impl Ranking {
    /// What Redis holds of some players' entries, whether the board is ready or not.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn held(&self, board: &BoardPeriod, players: &[&str]) -> Result<Held, RankingError> {
        let base = self.base(board.generation);
        let name = period_name(&board.period);
        let (rank, member) = period_keys(&base, &name);
        let mut held = Held { whole: true, entries: Vec::with_capacity(players.len()) };
        for players in players.chunks(MAX_PLAYERS) {
            let mut call = HELD.prepare_invoke();
            call.key(format!("{base}ready")).key(format!("{base}version")).key(format!("{base}periods"));
            call.key(&rank).key(&member).arg(&name).arg(players);
            let (state, found): (i64, Vec<(Vec<u8>, i64)>) = self.call(&call).await?;
            held.whole &= state != 2;
            held.entries.extend(found.into_iter().map(HeldEntry::parse));
        }
        Ok(held)
    }

    /// Players with an entry in the period, about `most` of them, at random.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn some_players(&self, board: &BoardPeriod, most: usize) -> Result<Vec<String>, RankingError> {
        let (_, member) = period_keys(&self.base(board.generation), &period_name(&board.period));
        let mut pipeline = redis::pipe();
        pipeline.cmd("HRANDFIELD").arg(member).arg(most);
        let (players,): (Vec<Vec<u8>>,) = self.pipe(&pipeline).await?;
        Ok(players.into_iter().filter_map(|player| String::from_utf8(player).ok()).collect())
    }

    /// Players with an entry in the period, about `most` at once: from where the last call stopped (0: from the
    /// beginning) to where the next one goes on (0: that was all). Everybody who is there all the while comes once
    /// or more often.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn players_from(
        &self,
        board: &BoardPeriod,
        cursor: u64,
        most: usize,
    ) -> Result<(u64, Vec<String>), RankingError> {
        let (_, member) = period_keys(&self.base(board.generation), &period_name(&board.period));
        let mut pipeline = redis::pipe();
        pipeline.cmd("HSCAN").arg(member).arg(cursor).arg("COUNT").arg(most);
        let ((next, pairs),): ((u64, Vec<Vec<u8>>),) = self.pipe(&pipeline).await?;
        let players = pairs.into_iter().step_by(2).filter_map(|player| String::from_utf8(player).ok());
        Ok((next, players.collect()))
    }

    /// The periods that Redis holds of a board, in no order.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn held_periods(&self, generation: BoardGenerationId) -> Result<Vec<Period>, RankingError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("SMEMBERS").arg(format!("{}periods", self.base(generation)));
        self.periods(&pipeline).await
    }

    /// Some of them, at random.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn some_periods(&self, generation: BoardGenerationId, most: usize) -> Result<Vec<Period>, RankingError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("SRANDMEMBER").arg(format!("{}periods", self.base(generation))).arg(most);
        self.periods(&pipeline).await
    }

    async fn periods(&self, pipeline: &redis::Pipeline) -> Result<Vec<Period>, RankingError> {
        let (names,): (Vec<String>,) = self.pipe(pipeline).await?;
        // One that is no period stands for the set's being there.
        Ok(names.iter().filter_map(|name| named_period(name)).collect())
    }

    /// How many entries Redis has of each of these periods: ranked, and known by player. They are as many as each other
    /// unless a part was lost.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn count(
        &self,
        generation: BoardGenerationId,
        periods: &[Period],
    ) -> Result<Vec<(u64, u64)>, RankingError> {
        let base = self.base(generation);
        let mut counts = Vec::with_capacity(periods.len());
        for periods in periods.chunks(PERIODS_PER_CALL) {
            let mut pipeline = redis::pipe();
            for period in periods {
                let (rank, member) = period_keys(&base, &period_name(period));
                pipeline.zcard(rank).hlen(member);
            }
            let found: Vec<u64> = self.pipe(&pipeline).await?;
            counts.extend(found.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        }
        Ok(counts)
    }
}
