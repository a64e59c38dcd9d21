//! Facts as the outbox stores them: packed into rows, each of one fold shard.

use std::collections::HashMap;

use uuid::Uuid;

use super::byte_reader::{ByteReader, DamagedAt};
use super::clock::Micros;
use super::fact::{FOLD_SHARDS, Fact, shard_of};
use super::ids::{BoardGenerationId, GameId};
use super::period::Period;

/// The version byte that begins a row of facts.
const PACKED_VERSION: u8 = 2;
/// The version of earlier programs: `generation:i32 start:i64` stands in each fact for its place, and no end.
const WITHOUT_ENDS: u8 = 1;
/// Most facts of one row, and so of its places. A fold takes whole rows, so this is the least that it can
/// be made to take.
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
    /// `version:u8`, then per fact `place:u16 score:i64 subscore:i64 occurred:i64 event:16 received:i64 player_len:u8
    /// player metadata_len:u16 metadata`, little-endian. A place is a generation and a period. They are numbered as
    /// they come; a new one follows its number: `generation:i32 start:i64 end:i64`. Postgres stores it without looking
    /// inside, which costs it a fraction of eight arrays.
    pub bytes: Vec<u8>,
}

/// Sorts facts by fold shard and packs them into rows of bounded size.
#[derive(Debug, Default)]
pub struct FactPacker {
    full: Vec<PackedFacts>,
    open: [Option<OpenRow>; FOLD_SHARDS as usize],
}

/// A generation and one of its periods.
type Place = (BoardGenerationId, Period);

/// A row that takes more facts.
#[derive(Debug)]
struct OpenRow {
    row: PackedFacts,
    places: HashMap<Place, u16>,
    /// That of the fact before: neighbours mostly share it.
    last: Option<(Place, u16)>,
}

impl FactPacker {
    /// Adds one fact. `holds` is the game whose periods wait for it: `None` when no period does, as with the facts of
    /// a recompute, whose events were counted before.
    ///
    /// Its player id must be a valid identifier and its metadata within [`super::fact::MAX_METADATA_BYTES`].
    pub fn push(&mut self, fact: &Fact<'_>, holds: Option<GameId>) {
        let shard = shard_of(fact.generation, fact.player_id);
        let Some(slot) = self.open.get_mut(usize::from(shard)) else { return };
        let open = slot.get_or_insert_with(|| OpenRow::empty(shard, fact.received_at));
        open.push_place((fact.generation, fact.period));
        open.row.push(fact, holds);
        if open.row.count.unsigned_abs() >= MAX_FACTS_PER_ROW || open.row.bytes.len() >= MAX_ROW_BYTES {
            self.full.extend(slot.take().map(|open| open.row));
        }
    }

    /// The rows; none when nothing was pushed.
    pub fn finish(self) -> Vec<PackedFacts> {
        let mut rows = self.full;
        rows.extend(self.open.into_iter().flatten().map(|open| open.row));
        rows
    }
}

impl OpenRow {
    fn empty(shard: u16, min_received_at: Micros) -> Self {
        let shard = i16::try_from(shard).unwrap_or_default();
        let bytes = vec![PACKED_VERSION];
        let row = PackedFacts { shard, count: 0, min_received_at, games: Vec::new(), bytes };
        Self { row, places: HashMap::new(), last: None }
    }

    fn push_place(&mut self, place: Place) {
        let known = match self.last {
            Some((last, number)) if last == place => Some(number),
            _ => self.places.get(&place).copied(),
        };
        // A row has fewer facts than there are numbers.
        let number = known.unwrap_or(self.places.len() as u16);
        self.row.bytes.extend_from_slice(&number.to_le_bytes());
        if known.is_none() {
            self.row.bytes.extend_from_slice(&place.0.0.to_le_bytes());
            self.row.bytes.extend_from_slice(&place.1.to_bytes());
            self.places.insert(place, number);
        }
        self.last = Some((place, number));
    }
}

impl PackedFacts {
    fn push(&mut self, fact: &Fact<'_>, holds: Option<GameId>) {
        let b = &mut self.bytes;
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

/// Whether a row says when its periods end; those of earlier programs do not.
pub fn says_ends(bytes: &[u8]) -> bool {
    bytes.first() != Some(&WITHOUT_ENDS)
}

/// Reads a row of facts back, borrowing from it. Where it does not say when a period ends, `ends` is asked for the end
/// of the period of this generation that starts then.
///
/// # Errors
/// [`PackedError`] when it was written by a newer program or is damaged.
pub fn unpack(
    bytes: &[u8],
    ends: impl Fn(BoardGenerationId, Micros) -> Option<Micros>,
) -> Result<Vec<Fact<'_>>, PackedError> {
    let mut reader = ByteReader::new(bytes, 0);
    let version = reader.u8()?;
    if !matches!(version, PACKED_VERSION | WITHOUT_ENDS) {
        return Err(PackedError::UnknownVersion(version));
    }
    let mut facts = Vec::with_capacity(bytes.len() / 70);
    let mut places = Vec::new();
    while !reader.is_done() {
        let (generation, period) = if version == PACKED_VERSION {
            read_place(&mut reader, &mut places)?
        } else {
            let (generation, starts_at) = (BoardGenerationId(reader.i32()?), Micros(reader.i64()?));
            (generation, Period { starts_at, ends_at: ends(generation, starts_at) })
        };
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
            period,
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

fn read_place(reader: &mut ByteReader<'_>, places: &mut Vec<Place>) -> Result<Place, PackedError> {
    let at = reader.at();
    let number = usize::from(reader.u16()?);
    if let Some(place) = places.get(number) {
        return Ok(*place);
    }
    if number != places.len() {
        return Err(PackedError::Damaged(at));
    }
    let place = (BoardGenerationId(reader.i32()?), Period::from_bytes(reader.take()?));
    places.push(place);
    Ok(place)
}

impl From<DamagedAt> for PackedError {
    fn from(DamagedAt(at): DamagedAt) -> Self {
        Self::Damaged(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Period = Period { starts_at: Micros(-5), ends_at: Some(Micros(9)) };

    fn unasked(_: BoardGenerationId, _: Micros) -> Option<Micros> {
        panic!("the row says it")
    }

    fn packed(facts: &[Fact<'_>]) -> Vec<u8> {
        let mut packer = FactPacker::default();
        facts.iter().for_each(|fact| packer.push(fact, None));
        packer.finish().remove(0).bytes
    }

    fn fact(generation: i32, player_id: &str) -> Fact<'_> {
        Fact {
            generation: BoardGenerationId(generation),
            period: DAY,
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
        assert_eq!(unpack(&row.bytes, unasked).unwrap(), [fact(7, "p-1"), second]);
        assert!(matches!(unpack(&row.bytes[..row.bytes.len() - 1], unasked), Err(PackedError::Damaged(_))));
        assert_eq!(unpack(&[9], unasked), Err(PackedError::UnknownVersion(9)));
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: String = text.split_whitespace().collect();
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn the_bytes_of_version_one_stay_readable() {
        let golden = hex("01 07000000 fbffffffffffffff 0000000000000080 ffffffffffffff7f 0100000000000000
                          00000000000000000000000000000009 1400000000000000 03 702d31 0700 7b2261223a317d");
        assert!(!says_ends(&golden));
        let ends = |generation, start| {
            assert_eq!((generation, start), (BoardGenerationId(7), Micros(-5)));
            Some(Micros(9))
        };
        assert_eq!(unpack(&golden, ends).unwrap(), [fact(7, "p-1")]);
    }

    #[test]
    fn the_bytes_of_version_two_never_change() {
        let never = Fact { period: Period::WHOLE, ..fact(7, "p-1") };
        let rest =
            "0000000000000080 ffffffffffffff7f 0100000000000000 00000000000000000000000000000009 1400000000000000
                    03 702d31 0700 7b2261223a317d";
        let golden = hex(&format!(
            "02 0000 07000000 fbffffffffffffff 0900000000000000 {rest}
                0100 07000000 0000000000000000 ffffffffffffff7f {rest}
                0000 {rest}"
        ));
        let facts = [fact(7, "p-1"), never, fact(7, "p-1")];
        assert_eq!(packed(&facts), golden);
        assert!(says_ends(&golden));
        assert_eq!(unpack(&golden, unasked).unwrap(), facts);
    }

    #[test]
    fn periods_of_one_start_are_told_apart() {
        let longer = Fact { period: Period { ends_at: Some(Micros(10)), ..DAY }, ..fact(7, "p-1") };
        let facts = [fact(7, "p-1"), longer, fact(7, "p-1"), longer];
        assert_eq!(unpack(&packed(&facts), unasked).unwrap(), facts);
    }

    #[test]
    fn a_place_that_nobody_numbered_is_damage() {
        let mut bytes = packed(&[fact(7, "p-1")]);
        bytes[1] = 1;
        assert_eq!(unpack(&bytes, unasked), Err(PackedError::Damaged(1)));
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
