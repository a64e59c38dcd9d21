//! Score facts: what one event means to one leaderboard.

use uuid::Uuid;

use super::byte_reader::{ByteReader, DamagedAt};
use super::clock::Micros;
use super::ids::BoardGenerationId;

/// How many fold shards there are. A shard is folded by one cron at a time; the number is part of the stored
/// data (`score_facts.shard`), so changing it needs a migration that re-shards waiting facts.
pub const FOLD_SHARDS: u16 = 4;

/// The longest metadata that an entry keeps, in bytes of JSON text.
pub const MAX_METADATA_BYTES: usize = 1024;

/// What one event means to one leaderboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fact<'a> {
    /// The leaderboard generation it counts for.
    pub generation: BoardGenerationId,
    /// The start of the period it falls in, by `occurred_at` (invariant 6).
    pub period_start: Micros,
    /// Who scored.
    pub player_id: &'a str,
    /// The score, as sent (an `incr` or `decr` board sums it).
    pub score: i64,
    /// The subscore, 0 when the definition has none.
    pub subscore: i64,
    /// When it happened.
    pub occurred_at: Micros,
    /// Which event said so; breaks ties of `occurred_at`.
    pub event_id: Uuid,
    /// When ingest enqueued it (Redis time).
    pub received_at: Micros,
    /// JSON text kept with the entry if this fact decides it.
    pub metadata: Option<&'a str>,
}

/// The shard of an entry: FNV-1a over generation and player, so that it is the same in every process and version.
pub fn shard_of(generation: BoardGenerationId, player_id: &str) -> u16 {
    let mut hash: u32 = 0x811c_9dc5;
    for &byte in generation.0.to_le_bytes().iter().chain(player_id.as_bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    // The low bits of FNV-1a over short inputs are weak; mix the high half in.
    ((hash ^ (hash >> 16)) % u32::from(FOLD_SHARDS)) as u16
}

/// The version byte that begins a packed group of facts.
const PACKED_VERSION: u8 = 1;

/// Why a packed group could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PackedError {
    /// Written by a newer program.
    #[error("packed facts have the unknown version {0}")]
    UnknownVersion(u8),
    /// Cut short, or not UTF-8 where text must stand.
    #[error("packed facts are damaged at byte {0}")]
    Damaged(usize),
}

/// Appends facts to a packed group: `version:u8`, then per fact `generation:i32 period:i64 score:i64 subscore:i64
/// occurred:i64 event:16 received:i64 player_len:u8 player metadata_len:u16 metadata`, little-endian. A group is one
/// row of `score_facts` (fine print 9): Postgres stores it without looking inside, which costs it a fraction of
/// eight arrays.
#[derive(Debug, Default)]
pub struct FactPacker {
    bytes: Vec<u8>,
    count: u32,
    oldest: Option<Micros>,
}

impl FactPacker {
    /// Appends one fact. Its player id must be a valid identifier and its metadata within [`MAX_METADATA_BYTES`].
    pub fn push(&mut self, fact: &Fact<'_>) {
        if self.bytes.is_empty() {
            self.bytes.push(PACKED_VERSION);
        }
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
        self.oldest = Some(self.oldest.map_or(fact.received_at, |o| o.min(fact.received_at)));
    }

    /// How many facts it holds.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The packed bytes and the smallest `received_at`, or `None` when nothing was pushed.
    pub fn finish(self) -> Option<(Vec<u8>, u32, Micros)> {
        self.oldest.map(|oldest| (self.bytes, self.count, oldest))
    }
}

/// Reads a packed group back, borrowing from it.
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

    #[test]
    fn packed_facts_read_back_as_they_were() {
        let facts = [
            Fact {
                generation: BoardGenerationId(7),
                period_start: Micros(-5),
                player_id: "p-1",
                score: i64::MIN,
                subscore: i64::MAX,
                occurred_at: Micros(1),
                event_id: Uuid::from_u128(9),
                received_at: Micros(20),
                metadata: Some("{\"a\":1}"),
            },
            Fact {
                generation: BoardGenerationId(8),
                period_start: Micros(0),
                player_id: "p-2",
                score: 0,
                subscore: 0,
                occurred_at: Micros(2),
                event_id: Uuid::from_u128(10),
                received_at: Micros(10),
                metadata: None,
            },
        ];
        let mut packer = FactPacker::default();
        for fact in &facts {
            packer.push(fact);
        }
        let (bytes, count, oldest) = packer.finish().unwrap();
        assert_eq!((count, oldest), (2, Micros(10)));
        assert_eq!(unpack(&bytes).unwrap(), facts);
        assert!(matches!(unpack(&bytes[..bytes.len() - 1]), Err(PackedError::Damaged(_))));
        assert_eq!(unpack(&[9]), Err(PackedError::UnknownVersion(9)));
    }

    #[test]
    fn shards_are_spread_evenly_and_never_change() {
        let mut counts = [0u32; FOLD_SHARDS as usize];
        for i in 0..40_000 {
            counts[usize::from(shard_of(BoardGenerationId(1), &format!("p-{i}")))] += 1;
        }
        for count in counts {
            assert!((9_000..11_000).contains(&count), "{counts:?}");
        }
        // Stored data depends on this value.
        assert_eq!(shard_of(BoardGenerationId(1), "p-1"), shard_of(BoardGenerationId(1), "p-1"));
    }
}
