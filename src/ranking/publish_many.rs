//! Publishing what a large fold changed: the guard and the writes of `publish.lua`, but decided here and sent as plain
//! commands in a `MULTI`, which costs Redis a quarter less than the script (ADR 0003).
//!
//! Between reading what Redis holds and writing, anybody else may write: another cron, the swap of a rebuild, a
//! removal. All of them move the board's version, which is watched: then `EXEC` does nothing, and the script has to do
//! it. A rebuild that begins in between reads what was committed before this began. A `WATCH` belongs to its
//! connection, so this has one that nobody else uses and that is never replaced halfway: a `MULTI` on another one
//! would be unguarded.

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisResult, Value};

use super::connection::Ranking;
use super::error::RankingError;
use super::target::{PublishedEntry, Target};
use crate::domain::ranking_key::write_place;

/// From how many entries on a connection is worth it: making one costs a few tens of entries. Under faults and tests
/// both ways shall be taken often.
pub(super) const MANY: usize = if cfg!(feature = "failpoints") { 50 } else { 500 };
/// Entries of one `MULTI`: a millisecond in a board of a million. What reading them brought into the processor's cache
/// is still there when they are written: 9.4 µs an entry with 100, 11.1 with 250.
pub(super) const ENTRIES_PER_EXEC: usize = 100;

impl Ranking {
    /// Publishes entries from the front of `entries`. Returns how many were written before the script was
    /// needed: somebody else writes this board, it is not ready or being rebuilt, one is to be removed, or Redis
    /// refuses this way.
    ///
    /// # Errors
    /// [`RankingError`]: it may have happened in part; repeat it.
    pub(super) async fn publish_many(
        &self,
        target: &Target,
        entries: &[PublishedEntry<'_>],
    ) -> Result<usize, RankingError> {
        let mut chunks = entries.chunks(ENTRIES_PER_EXEC);
        let mut written = 0;
        let Some(mut chunk) = chunks.next() else { return Ok(written) };
        let mut pipeline = redis::pipe();
        // Who may not do this must find out before there is something between the two: it would be written at once.
        pipeline.cmd("MULTI").ignore().cmd("EXEC").ignore();
        look(&mut pipeline, target, chunk);
        let begun = async {
            let mut connection = self.bounded(self.connection().alone()).await?;
            let replies = self.send(&mut connection, &pipeline).await?;
            Ok((connection, replies.into_iter()))
        };
        let (mut connection, mut replies) = match begun.await {
            Ok(begun) => begun,
            // No more connections, or a user who may not do this: the script needs neither.
            Err(RankingError::Redis(error)) if !error.is_timeout() => return Ok(written),
            Err(error) => return Err(error),
        };
        // What cannot be read (somebody else wrote it) is for the script to judge.
        while let Ok(Some((version, held))) = seen(&mut replies)
            && version >= self.given(target.generation)
            && let Some(changes) = Changes::of(target, chunk, &held)
        {
            pipeline.clear();
            let board = target.board_version(chunks.len()).max(version + 1);
            // Nothing is written where nothing changes.
            let given = if changes.changed == 0 { version } else { board };
            changes.write(&mut pipeline, target, self.channel(), board);
            let next = chunks.next();
            if let Some(next) = next {
                // Travels with the write, so that Redis is not waiting while this process reads its answer.
                look(&mut pipeline, target, next);
            }
            replies = match self.send(&mut connection, &pipeline).await {
                Ok(replies) => replies.into_iter(),
                // Memory is full: nothing was written, but the script may move entries within what it frees.
                Err(RankingError::Redis(error)) if !error.is_io_error() => break,
                Err(error) => return Err(error),
            };
            if replies.next().is_none_or(|done| done == Value::Nil) {
                break;
            }
            self.gave(target.generation, given);
            written += chunk.len();
            let Some(next) = next else { break };
            chunk = next;
        }
        Ok(written)
    }

    async fn send(
        &self,
        connection: &mut MultiplexedConnection,
        pipeline: &Pipeline,
    ) -> Result<Vec<Value>, RankingError> {
        self.bounded(pipeline.query_async(connection)).await
    }
}

/// Asks for what Redis holds; the next `EXEC` does nothing if the board has changed by then.
fn look(pipeline: &mut Pipeline, target: &Target, chunk: &[PublishedEntry<'_>]) {
    let Target { ready, rebuild, version, periods, rank, member, .. } = target;
    pipeline.cmd("WATCH").arg(version).ignore();
    pipeline.cmd("MGET").arg(&[ready, rebuild, version]);
    pipeline.cmd("ZCARD").arg(rank).cmd("HLEN").arg(member);
    pipeline.cmd("SISMEMBER").arg(periods).arg(&target.period).cmd("EXISTS").arg(periods);
    pipeline.cmd("HMGET").arg(member);
    for entry in chunk {
        pipeline.arg(entry.player_id);
    }
}

type Held = Vec<Option<Vec<u8>>>;

/// Reads the answer to [`look`]: the board's version, and what the hash holds of each player. `None`: the board is not
/// ready, it is being rebuilt, or a part of the period was lost, which the script sees to.
fn seen(replies: &mut impl Iterator<Item = Value>) -> RedisResult<Option<(i64, Held)>> {
    let mut reply = || replies.next().unwrap_or(Value::Nil);
    let board = reply();
    let [ranked, known, listed, kept] = [reply(), reply(), reply(), reply()];
    let held = reply();
    let (ready, rebuild, version): (Option<String>, Option<String>, Option<i64>) = redis::from_redis_value(board)?;
    let empty = ranked == Value::Int(0);
    let lost = ranked != known || (empty && (listed != Value::Int(0) || kept == Value::Int(0)));
    if ready.is_none() || rebuild.is_some() || lost {
        return Ok(None);
    }
    Ok(Some((version.unwrap_or(0), redis::from_redis_value(held)?)))
}

/// What one `MULTI` writes.
struct Changes {
    leaving: Cmd,
    joining: Cmd,
    values: Cmd,
    left: usize,
    joined: usize,
    changed: usize,
}

impl Changes {
    /// Decides as `publish.lua` does. `None`: the hash holds what is no entry, or an entry is to be removed.
    fn of(target: &Target, chunk: &[PublishedEntry<'_>], held: &Held) -> Option<Self> {
        let command = |name: &str, key: &str| {
            let mut command = Cmd::with_capacity(2 * chunk.len() + 2, 64 * chunk.len());
            command.arg(name).arg(key);
            command
        };
        let mut changes = Self {
            leaving: command("ZREM", &target.rank),
            joining: command("ZADD", &target.rank),
            values: command("HSET", &target.member),
            left: 0,
            joined: 0,
            changed: 0,
        };
        if held.len() != chunk.len() {
            return None;
        }
        let (mut place, mut text) = (Vec::new(), Vec::new());
        let prefix = format!("{}:", target.entry_version);
        for (entry, held) in chunk.iter().zip(held) {
            let player = entry.player_id.as_bytes();
            place.clear();
            write_place(&mut place, entry.standing.as_ref()?, target.order);
            let (version, was) = match held {
                None => (None, &[][..]),
                Some(value) => {
                    let (version, was) = value.split_at(value.iter().position(|byte| *byte == b':')?);
                    (Some(std::str::from_utf8(version).ok()?.parse::<i64>().ok()?), &was[1..])
                }
            };
            if version.is_some_and(|version| version >= target.entry_version) {
                continue;
            }
            if was != place {
                if !was.is_empty() {
                    changes.leaving.arg(joined(&mut text, was, player));
                    changes.left += 1;
                }
                changes.joining.arg(0).arg(joined(&mut text, &place, player));
                changes.joined += 1;
            }
            changes.values.arg(player).arg(joined(&mut text, prefix.as_bytes(), &place));
            changes.changed += 1;
        }
        Some(changes)
    }

    /// One reply: not nil when the board is as it should be.
    fn write(self, pipeline: &mut Pipeline, target: &Target, channel: &str, version: i64) {
        if self.changed == 0 {
            pipeline.cmd("UNWATCH");
            return;
        }
        pipeline.cmd("MULTI").ignore();
        for (command, count) in [(self.leaving, self.left), (self.joining, self.joined), (self.values, self.changed)] {
            if count > 0 {
                pipeline.add_command(command).ignore();
            }
        }
        pipeline.cmd("SADD").arg(&target.periods).arg(&target.period).ignore();
        pipeline.cmd("SET").arg(&target.version).arg(version).ignore();
        pipeline.cmd("PUBLISH").arg(channel).arg(format!("{} {version}", target.generation)).ignore();
        pipeline.cmd("EXEC");
    }
}

/// Both in one text, in a buffer that is used again.
fn joined<'a>(text: &'a mut Vec<u8>, first: &[u8], second: &[u8]) -> &'a [u8] {
    text.clear();
    text.extend_from_slice(first);
    text.extend_from_slice(second);
    text
}
