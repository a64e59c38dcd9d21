//! Facts as the outbox stores them: packed into rows, each of one fold shard.

use uuid::Uuid;

use super::byte_reader::{ByteReader, DamagedAt};
use super::clock::Micros;
use super::fact::{FOLD_SHARDS, Fact, shard_of};
use super::ids::{BoardGenerationId, GameId};

/// The version byte that begins a row of facts.
const PACKED_VERSION: u8 = 1;
/// Most facts of one row. A fold takes whole rows, so this is the least that it can be made to take.
pub const MAX_FACTS_PER_ROW: u32 = 5_000;
/// A row that has reached this size takes no more facts, in bytes.
pub const MAX_ROW_BYTES: usize = 1 << 20;

/// One row of `score_facts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedFacts {
    /// The fold shard of all its facts.
    pub shard: i16,
    /// How many facts it holds.
    pub count: i32,
    /// The smallest `received_at` among them.
    pub min_received_at: Micros,
    /// The games whose periods must not close before it is folded, each once; empty for a recompute.
    pub games: Vec<GameId>,
    /// `version:u8`, then per fact `generation:i32 period:i64 score:i64 subscore:i64 occurred:i64 event:16 received:i64
    /// player_len:u8 player metadata_len:u16 metadata`, little-endian. Postgres stores it without looking inside, which
    /// costs it a fraction of eight arrays.
    pub bytes: Vec<u8>,
}

/// Sorts facts by fold shard and packs them into rows of bounded size.
#[derive(Debug, Default)]
pub struct FactPacker {
    full: Vec<PackedFacts>,
    open: [Option<PackedFacts>; FOLD_SHARDS as usize],
}

impl FactPacker {
    /// Adds one fact. `holds` is the game whose periods wait for it: `None` when no period does, as with the facts of
    /// a recompute, whose events were counted before.
    ///
    /// Its player id must be a valid identifier and its metadata within [`super::fact::MAX_METADATA_BYTES`].
    pub fn push(&mut self, fact: &Fact<'_>, holds: Option<GameId>) {
        let shard = shard_of(fact.generation, fact.player_id);
        let Some(slot) = self.open.get_mut(usize::from(shard)) else { return };
        let row = slot.get_or_insert_with(|| PackedFacts::empty(shard, fact.received_at));
        row.push(fact, holds);
        if row.count.unsigned_abs() >= MAX_FACTS_PER_ROW || row.bytes.len() >= MAX_ROW_BYTES {
            self.full.extend(slot.take());
        }
    }

    /// The rows; none when nothing was pushed.
    pub fn finish(self) -> Vec<PackedFacts> {
        let mut rows = self.full;
        rows.extend(self.open.into_iter().flatten());
        rows
    }
}

impl PackedFacts {
    fn empty(shard: u16, received_at: Micros) -> Self {
        let shard = i16::try_from(shard).unwrap_or_default();
        Self { shard, count: 0, min_received_at: received_at, games: Vec::new(), bytes: vec![PACKED_VERSION] }
    }

    fn push(&mut self, fact: &Fact<'_>, holds: Option<GameId>) {
        let b = &mut self.bytes;
        b.extend_from_slice(&fact.generation.0.to_le_bytes());
        b.extend_from_slice(&fact.period_start.0.to_le_bytes());
        b.extend_from_slice(&fact.score.to_le_bytes());
        b.extend_from_slice(&fact.subscore.to_le_bytes());
        b.extend_from_slice(&fact.occurred_at.0.to_le_bytes());
        b.extend_from_slice(fact.event_id.as_bytes());
        b.extend_from_slice(&fact.received_at.0.to_le_bytes());
        debug_assert!(fact.player_id.len() <= u8::MAX as usize, "player ids are at most 128 bytes");
        b.push(fact.player_id.len() as u8);
        b.extend_from_slice(fact.player_id.as_bytes());
        let metadata = fact.metadata.unwrap_or_default();
        b.extend_from_slice(&(metadata.len() as u16).to_le_bytes());
        b.extend_from_slice(metadata.as_bytes());
        self.count += 1;
        self.min_received_at = self.min_received_at.min(fact.received_at);
        // Events come sorted by game, so the last one mostly is the one.
        if let Some(game) = holds
            && self.games.last() != Some(&game)
            && !self.games.contains(&game)
        {
            self.games.push(game);
        }
    }
}

/// Why a row of facts could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PackedError {
    /// Written by a newer program.
    #[error("packed facts have the unknown version {0}")]
    UnknownVersion(u8),
    /// Cut short, or not UTF-8 where text must stand.
    #[error("packed facts are damaged at byte {0}")]
    Damaged(usize),
}

/// Reads a row of facts back, borrowing from it.
///
/// # Errors
/// [`PackedError`] when it was written by a newer program or is damaged.
pub fn unpack(bytes: &[u8]) -> Result<Vec<Fact<'_>>, PackedError> {
    let mut reader = ByteReader::new(bytes, 0);
    let version = reader.u8()?;
    if version != PACKED_VERSION {
        return Err(PackedError::UnknownVersion(version));
    }
    let mut facts = Vec::with_capacity(bytes.len() / 80);
    while !reader.is_done() {
        let generation = BoardGenerationId(reader.i32()?);
        let period_start = Micros(reader.i64()?);
        let score = reader.i64()?;
        let subscore = reader.i64()?;
        let occurred_at = Micros(reader.i64()?);
        let event_id = Uuid::from_bytes(reader.take()?);
        let received_at = Micros(reader.i64()?);
        let player_id = reader.short_text()?;
        let metadata_len = usize::from(u16::from_le_bytes(reader.take()?));
        let metadata = reader.text(metadata_len)?;
        facts.push(Fact {
            generation,
            period_start,
            player_id,
            score,
            subscore,
            occurred_at,
            event_id,
            received_at,
            metadata: (!metadata.is_empty()).then_some(metadata),
        });
    }
    Ok(facts)
}

impl From<DamagedAt> for PackedError {
    fn from(DamagedAt(at): DamagedAt) -> Self {
        Self::Damaged(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(generation: i32, player_id: &str) -> Fact<'_> {
        Fact {
            generation: BoardGenerationId(generation),
            period_start: Micros(-5),
            player_id,
            score: i64::MIN,
            subscore: i64::MAX,
            occurred_at: Micros(1),
            event_id: Uuid::from_u128(9),
            received_at: Micros(20),
            metadata: Some("{\"a\":1}"),
        }
    }

    #[test]
    fn packed_facts_read_back_as_they_were() {
        // Both players stand in one shard.
        let other = (0..).map(|n| format!("q-{n}"));
        let other = other
            .into_iter()
            .find(|p| shard_of(BoardGenerationId(8), p) == shard_of(BoardGenerationId(7), "p-1"))
            .unwrap();
        let second = Fact { received_at: Micros(10), score: 0, subscore: 0, metadata: None, ..fact(8, &other) };
        let mut packer = FactPacker::default();
        packer.push(&fact(7, "p-1"), Some(GameId(3)));
        packer.push(&second, Some(GameId(3)));
        let rows = packer.finish();
        let [row] = rows.as_slice() else { panic!("one shard, one row: {rows:?}") };
        assert_eq!((row.count, row.min_received_at, row.games.as_slice()), (2, Micros(10), [GameId(3)].as_slice()));
        assert_eq!(unpack(&row.bytes).unwrap(), [fact(7, "p-1"), second]);
        assert!(matches!(unpack(&row.bytes[..row.bytes.len() - 1]), Err(PackedError::Damaged(_))));
        assert_eq!(unpack(&[9]), Err(PackedError::UnknownVersion(9)));
    }

    #[test]
    fn the_bytes_of_version_one_never_change() {
        let mut packer = FactPacker::default();
        packer.push(&fact(7, "p-1"), None);
        let golden = "0107000000fbffffffffffffff0000000000000080ffffffffffffff7f0100000000000000\
                      0000000000000000000000000000000914000000000000000370\
                      2d3107007b2261223a317d";
        let bytes: String = packer.finish()[0].bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(bytes, golden);
    }

    #[test]
    fn a_row_never_holds_more_than_its_bound() {
        let mut packer = FactPacker::default();
        let facts = 2 * MAX_FACTS_PER_ROW + 1;
        for _ in 0..facts {
            packer.push(&fact(7, "p-1"), None);
        }
        let counts: Vec<u32> = packer.finish().iter().map(|row| row.count.unsigned_abs()).collect();
        assert_eq!(counts, [MAX_FACTS_PER_ROW, MAX_FACTS_PER_ROW, 1]);

        let long = "m".repeat(1024);
        let heavy = Fact { metadata: Some(&long), ..fact(7, "p-1") };
        let mut packer = FactPacker::default();
        for _ in 0..MAX_FACTS_PER_ROW {
            packer.push(&heavy, None);
        }
        let rows = packer.finish();
        assert!(rows.len() > 4, "{} rows", rows.len());
        assert!(rows.iter().all(|row| row.bytes.len() < MAX_ROW_BYTES + 2048));
    }
}
