//! A marker: the absolute new values of the entries that one fold changed, packed into one row
//! (docs/rules.md#publications-can-be-repeated).
//!
//! `format:u8 version:i64 length:u32` (of the whole marker, so that a cut is noticed wherever it falls), then groups of
//! one period: `generation:i32 start:i64 end:i64 order:u8 count:u32`, then per entry `player_len:u8 player kind:u8`,
//! and unless it was removed `score:i64 subscore:i64 reached:i64`; little-endian.

use crate::domain::board::Order;
use crate::domain::byte_reader::{ByteReader, DamagedAt};
use crate::domain::clock::Micros;
use crate::domain::ids::BoardGenerationId;
use crate::domain::period::Period;
use crate::domain::ranking_key::Standing;

const FORMAT: u8 = 2;
/// The format of earlier programs, which does not say when a period ends.
const WITHOUT_ENDS: u8 = 1;
/// Formats that this program reads.
pub const READABLE: [u8; 2] = [WITHOUT_ENDS, FORMAT];
const LENGTH_AT: usize = 1 + 8;
const HEADER: usize = LENGTH_AT + 4;
const REMOVED: u8 = 0;
const STANDS: u8 = 1;

/// Why a marker could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MarkerError {
    /// Written by a newer program.
    #[error("marker has the unknown format {0}")]
    UnknownFormat(u8),
    /// Cut short, or not UTF-8 where text must stand.
    #[error("marker is damaged at byte {0}")]
    Damaged(usize),
}

/// Writes a marker.
#[derive(Debug)]
pub struct MarkerWriter {
    bytes: Vec<u8>,
    count_at: Option<usize>,
    entries: u32,
}

impl MarkerWriter {
    /// A marker whose entries all have this version.
    pub fn new(version: i64) -> Self {
        let mut bytes = vec![FORMAT];
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&[0; HEADER - LENGTH_AT]);
        Self { bytes, count_at: None, entries: 0 }
    }

    /// Begins the entries of one period.
    pub fn period(&mut self, generation: BoardGenerationId, period: Period, order: Order) {
        self.close_period();
        self.bytes.extend_from_slice(&generation.0.to_le_bytes());
        self.bytes.extend_from_slice(&period.to_bytes());
        self.bytes.push(u8::from(order == Order::Ascending));
        self.count_at = Some(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 4]);
    }

    /// Appends an entry to the period begun last; `None`: it was removed.
    pub fn push(&mut self, player_id: &str, standing: Option<&Standing>) {
        debug_assert!(self.count_at.is_some(), "a period was begun");
        debug_assert!(player_id.len() <= u8::MAX as usize, "player ids are at most 128 bytes");
        let b = &mut self.bytes;
        b.push(player_id.len() as u8);
        b.extend_from_slice(player_id.as_bytes());
        b.push(if standing.is_some() { STANDS } else { REMOVED });
        if let Some(standing) = standing {
            for value in [standing.score, standing.subscore, standing.reached_at.0] {
                b.extend_from_slice(&value.to_le_bytes());
            }
        }
        self.entries += 1;
    }

    fn close_period(&mut self) {
        if let Some(slot) = self.count_at.take().and_then(|at| self.bytes.get_mut(at..at + 4)) {
            slot.copy_from_slice(&self.entries.to_le_bytes());
        }
        self.entries = 0;
    }

    /// The row's bytes; `None` when no period was begun.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        self.close_period();
        // Postgres keeps at most 1 GB in a value, so the length fits.
        let length = u32::try_from(self.bytes.len()).ok()?;
        self.bytes.get_mut(LENGTH_AT..HEADER)?.copy_from_slice(&length.to_le_bytes());
        (self.bytes.len() > HEADER).then_some(self.bytes)
    }
}

/// The entries of one period in a marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkedPeriod<'a> {
    /// Whose.
    pub generation: BoardGenerationId,
    /// Which.
    pub period: Period,
    /// How it ranks.
    pub order: Order,
    /// Player and standing; `None`: removed.
    pub entries: Vec<(&'a str, Option<Standing>)>,
}

/// Whether a marker says when its periods end; those of earlier programs do not.
pub fn says_ends(bytes: &[u8]) -> bool {
    bytes.first() != Some(&WITHOUT_ENDS)
}

/// Reads a marker: the version of its entries, and the periods. Where it does not say when a period ends, `ends` is
/// asked for the end of the period of this generation that starts then.
///
/// # Errors
/// [`MarkerError`].
pub fn read(
    bytes: &[u8],
    ends: impl Fn(BoardGenerationId, Micros) -> Option<Micros>,
) -> Result<(i64, Vec<MarkedPeriod<'_>>), MarkerError> {
    let mut reader = ByteReader::new(bytes, 0);
    let format = reader.u8()?;
    if !READABLE.contains(&format) {
        return Err(MarkerError::UnknownFormat(format));
    }
    let version = reader.i64()?;
    if u32::from_le_bytes(reader.take()?) as usize != bytes.len() {
        return Err(MarkerError::Damaged(bytes.len()));
    }
    let mut periods = Vec::new();
    while !reader.is_done() {
        let generation = BoardGenerationId(reader.i32()?);
        let period = if format == FORMAT {
            Period::from_bytes(reader.take()?)
        } else {
            let starts_at = Micros(reader.i64()?);
            Period { starts_at, ends_at: ends(generation, starts_at) }
        };
        let order = if reader.u8()? == 1 { Order::Ascending } else { Order::Descending };
        let count = u32::from_le_bytes(reader.take()?) as usize;
        // A damaged count must not reserve memory that the bytes cannot fill.
        let mut entries = Vec::with_capacity(count.min(bytes.len() / 2));
        for _ in 0..count {
            let player_id = reader.short_text()?;
            let standing = match reader.u8()? {
                REMOVED => None,
                _ => {
                    Some(Standing { score: reader.i64()?, subscore: reader.i64()?, reached_at: Micros(reader.i64()?) })
                }
            };
            entries.push((player_id, standing));
        }
        periods.push(MarkedPeriod { generation, period, order, entries });
    }
    Ok((version, periods))
}

impl From<DamagedAt> for MarkerError {
    fn from(DamagedAt(at): DamagedAt) -> Self {
        Self::Damaged(at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn never(_: BoardGenerationId, _: Micros) -> Option<Micros> {
        None
    }

    #[test]
    fn a_marker_reads_back_as_it_was() {
        let standing = Standing { score: i64::MIN, subscore: i64::MAX, reached_at: Micros(-3) };
        let mut writer = MarkerWriter::new(42);
        writer.period(BoardGenerationId(7), Period::WHOLE, Order::Descending);
        writer.push("p-1", Some(&standing));
        writer.push("p-2", None);
        let day = Period { starts_at: Micros(9), ends_at: Some(Micros(10)) };
        writer.period(BoardGenerationId(8), day, Order::Ascending);
        writer.push("p-3", Some(&standing));
        let bytes = writer.finish().unwrap();
        let (version, periods) = read(&bytes, never).unwrap();
        assert_eq!(version, 42);
        assert_eq!(periods[0].entries, [("p-1", Some(standing)), ("p-2", None)]);
        assert_eq!((periods[0].period, periods[1].period), (Period::WHOLE, day));
        assert_eq!((periods[1].generation, periods[1].order), (BoardGenerationId(8), Order::Ascending));
        assert_eq!(periods[1].entries, [("p-3", Some(standing))]);
        assert_eq!(read(&[9], never), Err(MarkerError::UnknownFormat(9)));
        assert_eq!(MarkerWriter::new(1).finish(), None);
    }

    #[test]
    fn a_marker_that_was_cut_or_grew_is_damaged() {
        let mut writer = MarkerWriter::new(42);
        for start in 0..2 {
            let period = Period { starts_at: Micros(start), ends_at: None };
            writer.period(BoardGenerationId(7), period, Order::Descending);
            writer.push("p-1", Some(&Standing { score: 1, subscore: 2, reached_at: Micros(3) }));
            writer.push("p-2", None);
        }
        let mut bytes = writer.finish().unwrap();
        for cut in 0..bytes.len() {
            assert!(matches!(read(&bytes[..cut], never), Err(MarkerError::Damaged(_))), "cut at {cut}");
        }
        bytes.push(0);
        assert!(matches!(read(&bytes, never), Err(MarkerError::Damaged(_))));
    }

    #[test]
    fn a_marker_of_earlier_programs_gets_its_end_from_the_schedule() {
        let mut bytes = vec![WITHOUT_ENDS];
        bytes.extend(42i64.to_le_bytes());
        bytes.extend((HEADER as u32 + 17 + 5).to_le_bytes());
        bytes.extend(7i32.to_le_bytes());
        bytes.extend(100i64.to_le_bytes());
        bytes.push(0);
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(b"\x03p-2\x00");
        let (version, periods) = read(&bytes, |_, start| Some(start.plus_seconds(1))).unwrap();
        let period = Period { starts_at: Micros(100), ends_at: Some(Micros(1_000_100)) };
        let entries = vec![("p-2", None)];
        let expected = MarkedPeriod { generation: BoardGenerationId(7), period, order: Order::Descending, entries };
        assert_eq!((version, periods), (42, vec![expected]));
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = read(&bytes, never);
            for format in [FORMAT, WITHOUT_ENDS] {
                let mut framed = vec![format];
                framed.extend([0; 8]);
                framed.extend((HEADER as u32 + bytes.len() as u32).to_le_bytes());
                framed.extend(&bytes);
                let _ = read(&framed, never);
            }
        }
    }
}
