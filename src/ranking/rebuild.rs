//! Writing a whole board aside and swapping it in; removing what is closed.
//!
//! A rebuild holds a token that expires; every write and the swap check it, so a rebuild that was frozen and
//! overtaken changes nothing (docs/rules.md#boards-are-swapped-whole).

use std::sync::LazyLock;
use std::time::Duration;

use redis::Script;

use super::beacon::ToldBeacon;
use super::connection::Ranking;
use super::error::RankingError;
use super::publish::ENTRIES_PER_CALL;
use super::read::{period_keys, period_name};
use super::target::shadow_keys;
use crate::domain::board::Order;
use crate::domain::ids::BoardGenerationId;
use crate::domain::period::Period;
use crate::domain::ranking_key::{VersionedStanding, write_place};

static BEGIN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/rebuild_begin.lua")));
static WRITE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/rebuild_write.lua")));
static SWAP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/rebuild_swap.lua")));
static RAISE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/raise_version.lua")));
static ABORT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/rebuild_abort.lua")));
static REMOVE_PERIOD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/remove_period.lua")));

/// A rebuild that does not write for this long has lost its token: longer than any statement that fetches its next
/// entries, short enough that the board of a killed rebuilder is soon begun anew.
const TOKEN_TTL: Duration = Duration::from_secs(15);

/// The right to write and swap one board's shadow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuildToken {
    generation: BoardGenerationId,
    token: String,
    run_id: String,
    era: String,
}

/// What a removal depends on that was decided some time ago: whoever was frozen meanwhile must not act on it.
#[derive(Debug, Clone, Copy)]
pub enum Still<'a> {
    /// The board is of this era ([`Ranking::era`]). In another one the period may be open.
    InEra(&'a str),
    /// This rebuild is under way.
    Rebuilding(&'a RebuildToken),
}

/// What Redis holds of a board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BoardStatus {
    /// Nothing to read: it must be rebuilt.
    Missing,
    /// Readable, but built before Redis last restarted, so it may lack what Redis had acknowledged and lost; or before
    /// Postgres went back in time, so it may hold what Postgres has lost.
    Doubtful,
    /// Readable.
    Ready,
}

/// Why a rebuild did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Somebody else is rebuilding this board.
    #[error("another rebuild of this leaderboard is under way")]
    Busy,
    /// The token expired; somebody else may have begun.
    #[error("the rebuild took too long between two writes and lost its turn")]
    Overtaken,
    /// Redis is away.
    #[error(transparent)]
    Ranking(#[from] RankingError),
}

impl Ranking {
    /// Begins a rebuild: from now on every publication of this board also writes the shadow. Whatever is read from
    /// Postgres after this returns, together with those, is complete.
    ///
    /// # Errors
    /// [`RebuildError::Busy`], or Redis is away.
    pub async fn begin_rebuild(&self, generation: BoardGenerationId) -> Result<RebuildToken, RebuildError> {
        let (run_id, era) = self.run_id_and_era().await?;
        let token = RebuildToken { generation, token: uuid::Uuid::new_v4().simple().to_string(), run_id, era };
        let base = self.base(generation);
        let mut call = BEGIN.prepare_invoke();
        call.key(format!("{base}rebuild")).key(format!("{base}shadow:periods"));
        call.arg(&token.token).arg(TOKEN_TTL.as_millis() as u64).arg(&base);
        if self.call::<i64>(&call).await? == 1 { Ok(token) } else { Err(RebuildError::Busy) }
    }

    /// Writes entries of one period into the shadow.
    ///
    /// # Errors
    /// [`RebuildError::Overtaken`], or Redis is away.
    pub async fn write_rebuild(
        &self,
        token: &RebuildToken,
        period: &Period,
        order: Order,
        entries: &[VersionedStanding],
    ) -> Result<(), RebuildError> {
        let base = self.base(token.generation);
        let name = period_name(period);
        let (rank, member) = shadow_keys(&base, &name);
        let mut place = Vec::new();
        for chunk in entries.chunks(ENTRIES_PER_CALL) {
            let mut call = WRITE.prepare_invoke();
            call.key(format!("{base}rebuild")).key(format!("{base}shadow:periods")).key(&rank).key(&member);
            call.arg(&token.token).arg(TOKEN_TTL.as_millis() as u64).arg(&name);
            for entry in chunk {
                place.clear();
                write_place(&mut place, &entry.standing, order);
                call.arg(&entry.player_id).arg(entry.version).arg(&place);
            }
            if self.call::<i64>(&call).await? != 1 {
                return Err(RebuildError::Overtaken);
            }
        }
        Ok(())
    }

    /// Swaps the shadow in, makes the board ready and announces it. Returns the board's version: `version`, or more
    /// when Redis had more.
    ///
    /// # Errors
    /// [`RebuildError::Overtaken`], or Redis is away.
    pub async fn finish_rebuild(&self, token: &RebuildToken, version: i64) -> Result<i64, RebuildError> {
        let base = self.base(token.generation);
        let mut call = SWAP.prepare_invoke();
        call.key(format!("{base}ready")).key(format!("{base}version")).key(format!("{base}rebuild"));
        call.key(format!("{base}periods")).key(format!("{base}shadow:periods")).key(format!("{base}era"));
        call.arg(&token.token).arg(&base).arg(token.generation.0).arg(&token.run_id).arg(self.channel());
        call.arg(version).arg(&token.era);
        match self.call::<i64>(&call).await? {
            0 => Err(RebuildError::Overtaken),
            version => {
                self.gave(token.generation, version);
                Ok(version)
            }
        }
    }

    /// Gives a board this version, or more when Redis has more, and announces it. `false`: it is not there, or Redis
    /// has lost a part of it; a rebuild gives it a later one.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn raise_version(&self, generation: BoardGenerationId, version: i64) -> Result<bool, RankingError> {
        let base = self.base(generation);
        let mut call = RAISE.prepare_invoke();
        call.key(format!("{base}ready")).key(format!("{base}version"));
        call.arg(version).arg(generation.0).arg(self.channel()).arg(self.given(generation));
        let raised: i64 = self.call(&call).await?;
        self.gave(generation, raised);
        Ok(raised > 0)
    }

    /// Gives a rebuild up, so that the next need not wait for its token to expire.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn abort_rebuild(&self, token: &RebuildToken) -> Result<(), RankingError> {
        let base = self.base(token.generation);
        let mut call = ABORT.prepare_invoke();
        call.key(format!("{base}rebuild")).key(format!("{base}shadow:periods")).arg(&token.token).arg(&base);
        self.call::<i64>(&call).await.map(drop)
    }

    /// What Redis holds of each of these boards, in their order.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn status(&self, boards: &[BoardGenerationId]) -> Result<Vec<BoardStatus>, RankingError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("INFO").arg("server");
        pipeline.get(self.beacon_key());
        for generation in boards {
            let base = self.base(*generation);
            pipeline.cmd("MGET").arg(format!("{base}ready")).arg(format!("{base}era"));
        }
        let mut replies = self.pipe::<Vec<redis::Value>>(&pipeline).await?.into_iter();
        let mut text = || parsed::<Option<String>>(replies.next().unwrap_or(redis::Value::Nil));
        let (run_id, era) = (run_id_of(&text()?.unwrap_or_default()), era_of(text()?));
        let status = |board: redis::Value| {
            let (built_on, built_in): (Option<String>, Option<String>) = parsed(board)?;
            Ok(match built_on {
                None => BoardStatus::Missing,
                Some(id) if id == run_id && built_in.unwrap_or_default() == era => BoardStatus::Ready,
                Some(_) => BoardStatus::Doubtful,
            })
        };
        replies.map(status).collect()
    }

    /// Marks a board as doubtful, so that it is rebuilt; it stays readable. A rebuild that is under way loses its turn:
    /// it may have read before what is doubted was committed.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn doubt(&self, generation: BoardGenerationId) -> Result<(), RankingError> {
        let base = self.base(generation);
        let mut pipeline = redis::pipe();
        // The turn goes first: a swap between the two would leave the board as ready as if nobody had doubted it.
        pipeline.cmd("UNLINK").arg(format!("{base}rebuild")).ignore();
        pipeline.cmd("SET").arg(format!("{base}ready")).arg("doubtful").arg("XX").ignore();
        self.pipe(&pipeline).await
    }

    /// Marks a board of which Redis has lost a part as doubtful, so that it is rebuilt. A rebuild under way goes on:
    /// what it swaps in is made of Postgres's entries and owes nothing to the lost part.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn mark_damaged(&self, generation: BoardGenerationId) -> Result<(), RankingError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("SET").arg(format!("{}ready", self.base(generation))).arg("doubtful").arg("XX").ignore();
        self.pipe(&pipeline).await
    }

    /// Takes a board away to which nothing can be published, so that it is rebuilt. Unlike one that is
    /// [doubted](Self::doubt) it takes no publication until then, and so no failing one costs the rebuild its turn.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn give_up(&self, generation: BoardGenerationId) -> Result<(), RankingError> {
        let base = self.base(generation);
        let mut pipeline = redis::pipe();
        pipeline.cmd("UNLINK").arg(format!("{base}rebuild")).arg(format!("{base}ready")).ignore();
        self.pipe(&pipeline).await
    }

    /// Whether a publication of this board would go anywhere: it is ready or being rebuilt.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn takes_publications(&self, generation: BoardGenerationId) -> Result<bool, RankingError> {
        let base = self.base(generation);
        let mut pipeline = redis::pipe();
        pipeline.exists(&[format!("{base}ready"), format!("{base}rebuild")]);
        let (held,): (i64,) = self.pipe(&pipeline).await?;
        Ok(held > 0)
    }

    /// The board's version if it is ready.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn version(&self, generation: BoardGenerationId) -> Result<Option<i64>, RankingError> {
        let base = self.base(generation);
        let mut pipeline = redis::pipe();
        pipeline.cmd("MGET").arg(&[format!("{base}ready"), format!("{base}version")]);
        let ((ready, version),): ((Option<String>, Option<i64>),) = self.pipe(&pipeline).await?;
        Ok(version.filter(|_| ready.is_some()))
    }

    /// Removes the keys of a closed period that Postgres answers for from now on. Says whether there were any: none is
    /// touched if what this was decided on does not stand any more.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn remove_period(
        &self,
        generation: BoardGenerationId,
        period: &Period,
        still: Still<'_>,
    ) -> Result<bool, RankingError> {
        let base = self.base(generation);
        let name = period_name(period);
        let (rank, member) = period_keys(&base, &name);
        let (shadow_rank, shadow_member) = shadow_keys(&base, &name);
        let removed = format!("{shadow_member}:removed");
        let mut call = REMOVE_PERIOD.prepare_invoke();
        call.key(format!("{base}version")).key(format!("{base}periods")).key(rank).key(member);
        call.key(format!("{base}shadow:periods")).key(shadow_rank).key(shadow_member).key(removed);
        // A board that is not there has no era; what a rebuild has written of it may go.
        let (what, stands, or_nothing) = match still {
            Still::InEra(era) => ("era", era, 1),
            Still::Rebuilding(token) => ("rebuild", token.token.as_str(), 0),
        };
        call.key(format!("{base}{what}")).key(format!("{base}ready"));
        call.arg(name).arg(generation.0).arg(self.channel()).arg(stands).arg(or_nothing).arg(self.given(generation));
        let (removed, version): (i64, i64) = self.call(&call).await?;
        self.gave(generation, version);
        Ok(removed == 1)
    }

    /// Identifies this run of the Redis server (another value means it restarted or another server took over), and the
    /// database's era.
    async fn run_id_and_era(&self) -> Result<(String, String), RankingError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("INFO").arg("server").get(self.beacon_key());
        let (info, told): (String, Option<String>) = self.pipe(&pipeline).await?;
        Ok((run_id_of(&info), era_of(told)))
    }

    /// The database's era: since when it has not gone back, as far as Redis knows. To be asked before what is
    /// decided in it.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn era(&self) -> Result<String, RankingError> {
        Ok(era_of(Some(self.beacon_text().await?)))
    }
}

fn parsed<T: redis::FromRedisValue>(value: redis::Value) -> redis::RedisResult<T> {
    Ok(redis::from_redis_value(value)?)
}

fn run_id_of(info: &str) -> String {
    let run_id = info.lines().find_map(|line| line.strip_prefix("run_id:"));
    run_id.unwrap_or_default().trim().to_owned()
}

/// Empty as long as Redis was told of no beacon.
fn era_of(told: Option<String>) -> String {
    told.as_deref().and_then(ToldBeacon::parse).map(|told| told.era).unwrap_or_default()
}
