//! One fold: facts in, entries and a marker out, in one transaction (ARCHITECTURE.md#invariants). It takes a bounded
//! number of packed facts (docs/rules.md#facts-are-packed).

use std::collections::{BTreeMap, HashSet};

use super::marker::MarkerWriter;
use super::portion::Portion;
use super::rules::Rules;
use super::shards;
use crate::domain::board::GenerationState;
use crate::domain::clock::Micros;
use crate::domain::entry::EntryState;
use crate::domain::fact::Fact;
use crate::domain::packed_facts::{self, FactPacker, PackedFacts};
use crate::domain::period::Period;
use crate::ranking::most_calls;
use crate::store::definitions::Definitions;
use crate::store::entries::{self, FreshEntry};
use crate::store::facts::{self, TakenFacts};
use crate::store::failure::contradiction;
use crate::store::fold_periods::{self, Hold};
use crate::store::leases::{self, Lease};
use crate::store::{Connection, Pool, StoreError, board_versions, markers};

mod resolve;

use resolve::{Attempt, Resolved, Resolving, Rule, resolve};

/// Why a fold did not commit. It changed nothing; the facts are still there.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// A lease was lost: somebody else folds that shard.
    #[error("a lease of a fold shard was lost")]
    LeaseLost,
    /// Postgres failed.
    #[error(transparent)]
    Postgres(#[from] StoreError),
}

/// What a fold committed.
#[derive(Debug, Default)]
pub struct Folded {
    /// Facts consumed.
    pub facts: u64,
    /// Of these, counted as late.
    pub late: u64,
    /// The highest id of a row that was taken.
    pub last: Option<i64>,
    /// Whether more facts waited than one fold takes.
    pub full: bool,
    /// The marker, when a standing changed.
    pub marker: Option<StoredMarker>,
    /// When the facts of live boards were received: a time and how many in a row.
    pub received: Vec<(Micros, u32)>,
}

/// A committed marker: the in-memory copy of one row of `dirty_entries`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMarker {
    /// `dirty_entries.id`.
    pub id: i64,
    /// Its bytes (`marker.rs`).
    pub bytes: Vec<u8>,
}

/// The facts of one entry, merged; and the entry.
struct Merged<'a> {
    /// Index into the resolved periods.
    period: usize,
    period_id: i64,
    rule: Rule,
    player_id: &'a str,
    state: EntryState,
}

impl Merged<'_> {
    fn fresh(&self) -> FreshEntry<'_> {
        let Self { period_id, rule: Rule { operator, order, .. }, player_id, ref state, .. } = *self;
        FreshEntry { period_id, player_id, operator, order, state }
    }
}

/// How often a fold begins again for what it learns under its locks: once for periods that are missing, once for some
/// whose generation is retired, once for late facts, and some more.
const MOST_ATTEMPTS: u32 = 8;

/// How an attempt ended.
enum Ended {
    /// Commit.
    Folded(Folded),
    /// Nothing was written: a rollback costs less than a commit.
    Nothing,
    /// Roll back, see to this, and begin again: locks that are held cannot be put in order.
    Unlocked(Resolving),
    /// Roll back and begin again: a generation was retired meanwhile, and the next look finds no period of it.
    Retired,
}

/// What a fold wrote.
enum Written {
    /// Nothing that players see.
    Unmarked,
    Marked(StoredMarker),
    /// Something of a generation that is retired.
    OfRetired,
}

/// Folds a portion of the waiting facts of the shards that `held` are for; a number is about how many at most.
///
/// # Errors
/// [`FoldError`]: nothing was changed.
pub async fn fold_once(
    pool: &Pool,
    rules: &Rules,
    held: &[Lease],
    portion: impl Into<Portion>,
) -> Result<Folded, FoldError> {
    let portion = portion.into();
    let mut attempt = Attempt { hold: Hold::Shared, created: HashSet::new() };
    for _ in 0..MOST_ATTEMPTS {
        let mut transaction = pool.begin().await?;
        let ended = fold_in(&mut transaction, rules, held, &portion, &attempt).await?;
        if let Ended::Folded(folded) = ended {
            transaction.commit().await?;
            return Ok(folded);
        }
        transaction.rollback().await?;
        match ended {
            Ended::Unlocked(Resolving::Late) => attempt.hold = Hold::Alone,
            Ended::Unlocked(Resolving::Missing(missing)) => {
                let mut transaction = pool.begin().await?;
                fold_periods::create(&mut transaction, &missing).await?;
                transaction.commit().await?;
                attempt.created.extend(missing);
            }
            Ended::Retired => {}
            _ => return Ok(Folded::default()),
        }
    }
    // Nobody removes what counts; if somebody does, the facts wait and a connection is not kept busy with them.
    Err(contradiction("the periods of a fold were gone each time it looked").into())
}

async fn fold_in(
    transaction: &mut Connection,
    rules: &Rules,
    held: &[Lease],
    portion: &Portion,
    attempt: &Attempt,
) -> Result<Ended, FoldError> {
    let &Portion { max_facts, after, ref but, looked_at } = portion;
    let shard_numbers = shards::numbers(held);
    if !leases::lock_and_check(transaction, held).await? {
        return Err(FoldError::LeaseLost);
    }
    let most = looked_at.map_or(max_facts, |looked_at| looked_at.min(max_facts));
    let rows = facts::take(transaction, &shard_numbers, i64::from(most), after, but).await?;
    if rows.is_empty() {
        return Ok(Ended::Nothing);
    }
    let mut folded = Folded { last: rows.iter().map(|row| row.id).max(), ..Folded::default() };
    let mut unfolded = Vec::new();
    let mut unreadable = Vec::new();
    let all_say_ends = rows.iter().all(|row| packed_facts::says_ends(&row.facts));
    let definitions = if all_say_ends { rules.current() } else { rules.refresh_on(transaction).await? };
    for row in &rows {
        match packed_facts::unpack(&row.facts, |generation, start| definitions.period_end(generation, start)) {
            Ok(unpacked) if is_kept_whole(&definitions, &row.facts, &unpacked) => {
                unreadable.push((row, "it does not say when its periods end".to_owned()));
            }
            Ok(mut unpacked) => unfolded.append(&mut unpacked),
            Err(error) => unreadable.push((row, error.to_string())),
        }
    }
    folded.facts = unfolded.len() as u64;
    folded.full = folded.facts >= u64::from(max_facts) || rows.len() as i64 >= facts::MAX_ROWS;

    unfolded.sort_unstable_by(|a, b| place(a).cmp(&place(b)));
    let generations: Vec<_> =
        unfolded.chunk_by(|a, b| a.generation == b.generation).map(|of| of[0].generation).collect();
    let definitions = rules.covering(transaction, &generations).await?;
    let kept = take_unreadable(&definitions, &mut unfolded);
    let mut resolved = match resolve(transaction, &definitions, &unfolded, attempt).await? {
        Resolving::Done(resolved) => resolved,
        other => return Ok(Ended::Unlocked(other)),
    };
    for (row, error) in unreadable {
        set_aside(transaction, row, error).await?;
    }
    keep(transaction, kept).await?;
    let merged = merge(&unfolded, &mut resolved, &mut folded);
    count_late(transaction, &resolved, &mut folded).await?;
    let lead = shard_numbers.first().copied().unwrap_or_default();
    match write(transaction, lead, &resolved, merged).await? {
        Written::Unmarked => {}
        Written::Marked(marker) => folded.marker = Some(marker),
        Written::OfRetired => return Ok(Ended::Retired),
    }
    Ok(Ended::Folded(folded))
}

/// Whether a row is kept as it is for who can read all of its leaderboards. One of an earlier program does not say when
/// their periods end, and what is packed anew says it.
pub(super) fn is_kept_whole(definitions: &Definitions, row: &[u8], facts: &[Fact<'_>]) -> bool {
    !packed_facts::says_ends(row) && facts.iter().any(|fact| definitions.unreadable.contains_key(&fact.generation))
}

async fn set_aside(transaction: &mut Connection, row: &TakenFacts, error: String) -> Result<(), StoreError> {
    tracing::error!(shard = row.shard, facts = row.count, %error, "a row of facts cannot be read; put aside");
    metrics::counter!(crate::telemetry::metrics::FACTS_SET_ASIDE, "role" => "cron").increment(1);
    facts::set_aside(transaction, row).await
}

/// Takes the facts out whose leaderboard this program cannot read: an unknown definition is not a retired one.
fn take_unreadable(definitions: &Definitions, facts: &mut Vec<Fact<'_>>) -> Vec<PackedFacts> {
    if definitions.unreadable.is_empty() {
        return Vec::new();
    }
    let mut packer = FactPacker::default();
    facts.retain(|fact| {
        let unreadable = definitions.unreadable.get(&fact.generation);
        unreadable.inspect(|board| packer.push(fact, Some(board.game))).is_none()
    });
    packer.finish()
}

/// Puts facts aside for a program that can read their leaderboard.
async fn keep(transaction: &mut Connection, rows: Vec<PackedFacts>) -> Result<(), StoreError> {
    for PackedFacts { shard, count, min_received_at, games, bytes } in rows {
        tracing::warn!(shard, facts = count, "facts of a leaderboard that this program cannot read; put aside");
        metrics::counter!(crate::telemetry::metrics::FACTS_SET_ASIDE, "role" => "cron").increment(1);
        let games = Some(games.iter().map(|game| game.0).collect());
        let row = TakenFacts { id: 0, first_id: 0, shard, count, min_received_at, games, facts: bytes };
        facts::set_aside(transaction, &row).await?;
    }
    Ok(())
}

/// Facts of one entry stand together, entries in the order of their primary key: the index is walked, not hopped over.
fn place<'a>(fact: &Fact<'a>) -> (i32, Period, &'a str) {
    (fact.generation.0, fact.period, fact.player_id)
}

fn merge<'a>(facts: &[Fact<'a>], resolved: &mut [Resolved], folded: &mut Folded) -> Vec<Merged<'a>> {
    let mut merged: Vec<Merged<'a>> = Vec::with_capacity(facts.len());
    let mut at = 0;
    for fact in facts {
        // Both are sorted alike, and every fact has its period.
        while resolved.get(at).is_some_and(|r| r.place() != (fact.generation, fact.period)) {
            at += 1;
        }
        let Some(period) = resolved.get_mut(at) else { break };
        let Some((period_id, rule)) = period.counts() else { continue };
        if rule.state == GenerationState::Live {
            match folded.received.last_mut() {
                Some((received, count)) if *received == fact.received_at => *count += 1,
                _ => folded.received.push((fact.received_at, 1)),
            }
        }
        if period.is_late(fact.received_at) {
            period.note_late();
            continue;
        }
        let state = EntryState::from_fact(rule.operator, fact);
        match merged.last_mut() {
            Some(last) if last.period == at && last.player_id == fact.player_id => {
                last.state.merge(rule.operator, rule.order, state);
            }
            _ => merged.push(Merged { period: at, period_id, rule, player_id: fact.player_id, state }),
        }
    }
    if resolved.iter().any(Resolved::is_instead) { unite(merged) } else { merged }
}

/// Facts that name two periods of one start may be counted in the same one; an entry is written once.
fn unite(mut merged: Vec<Merged<'_>>) -> Vec<Merged<'_>> {
    merged.sort_by(|a, b| (a.period_id, a.player_id).cmp(&(b.period_id, b.player_id)));
    let mut united: Vec<Merged<'_>> = Vec::with_capacity(merged.len());
    for entry in merged {
        match united.last_mut() {
            Some(last) if (last.period_id, last.player_id) == (entry.period_id, entry.player_id) => {
                last.state.merge(entry.rule.operator, entry.rule.order, entry.state);
            }
            _ => united.push(entry),
        }
    }
    united
}

async fn count_late(
    transaction: &mut Connection,
    resolved: &[Resolved],
    folded: &mut Folded,
) -> Result<(), StoreError> {
    let (ids, counts): (Vec<i64>, Vec<i64>) =
        resolved.iter().filter(|r| r.late > 0).filter_map(|r| Some((r.found?.id, r.late))).unzip();
    folded.late = counts.iter().sum::<i64>() as u64;
    if ids.is_empty() { Ok(()) } else { fold_periods::count_late(transaction, &ids, &counts).await }
}

/// Merges with what is stored, stores what changed, and marks the standings that changed.
async fn write(
    transaction: &mut Connection,
    lead: i16,
    resolved: &[Resolved],
    merged: Vec<Merged<'_>>,
) -> Result<Written, StoreError> {
    if merged.is_empty() {
        return Ok(Written::Unmarked);
    }
    let version = markers::next_version(transaction).await?;
    let fresh: Vec<FreshEntry<'_>> = merged.iter().map(Merged::fresh).collect();
    let changed = entries::merge(transaction, version, &fresh).await?;
    let mut marker = MarkerWriter::new(version);
    let mut marked_period = None;
    let mut periods: Vec<(i32, usize)> = Vec::new();
    for (entry, standing) in merged.iter().zip(&changed) {
        // A play that improves nothing is counted and not published (docs/rules.md#no-change-no-publication).
        let Some(standing) = standing else { continue };
        if marked_period.replace(entry.period) != Some(entry.period) {
            let (generation, period) = resolved[entry.period].written();
            marker.period(generation, period, entry.rule.order);
            periods.push((generation.0, 0));
        }
        marker.push(entry.player_id, Some(standing));
        if let Some((_, entries)) = periods.last_mut() {
            *entries += 1;
        }
    }
    // Entries that were united stand in the order of their periods, so a board may come more than once.
    let mut boards: BTreeMap<i32, i64> = BTreeMap::new();
    for (generation, entries) in periods {
        *boards.entry(generation).or_default() += most_calls(entries) as i64;
    }
    let Some(bytes) = marker.finish() else { return Ok(Written::Unmarked) };
    let id = markers::insert(transaction, lead, &bytes).await?;
    let counts = board_versions::note(transaction, &boards, version).await?;
    Ok(if counts { Written::Marked(StoredMarker { id, bytes }) } else { Written::OfRetired })
}
