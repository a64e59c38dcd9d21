//! Moments as texts: how they are read from clients, and how they are written.

use std::fmt::Write as _;

use scoreline::domain::clock::Micros;
use scoreline::domain::rfc3339;
use serde_json::Value;

use super::compare;

const YEARS: [u32; 24] = [
    0, 1, 4, 100, 400, 1000, 1582, 1600, 1899, 1900, 1969, 1970, 1971, 1999, 2000, 2016, 2024, 2026, 2037, 2038, 2100,
    2400, 9998, 9999,
];

const DAYS: [&str; 7] = [
    "01-01T00:00:00",
    "02-28T23:59:59",
    "02-29T12:00:00",
    "03-01T00:00:00",
    "04-31T00:00:00",
    "12-31T23:59:59",
    "12-31T23:59:60",
];

const OFFSETS: [&str; 20] = [
    "Z", "z", "+00:00", "-00:00", "+01:00", "-00:30", "+05:45", "+14:00", "-12:00", "+23:59", "-23:59", "+24:00",
    "+00:60", "+1:00", "+0100", "+01", "", " Z", "Zx", "UTC",
];

const SHAPES: [&str; 30] = [
    "2016-12-31T23:59:60.5Z",
    "2016-12-31T12:00:60Z",
    "2016-12-31T23:59:61Z",
    "2017-01-01T00:59:60+01:00",
    "2026-11-21t10:00:00z",
    "2026-11-21 10:00:00Z",
    "2026-11-21_10:00:00Z",
    "2026-11-21T10:00Z",
    "2026-11-21T10Z",
    "2026-11-21",
    "20261121T100000Z",
    "2026-11-21T24:00:00Z",
    "2026-11-21T23:60:00Z",
    "2026-00-21T10:00:00Z",
    "2026-13-21T10:00:00Z",
    "2026-11-00T10:00:00Z",
    "2026-11-31T10:00:00Z",
    "2026-11-21T10:00:00.Z",
    "2026-11-21T10:00:00,5Z",
    "2026-11-21T10:00:00.5",
    "+2026-11-21T10:00:00Z",
    "-2026-11-21T10:00:00Z",
    "002026-11-21T10:00:00Z",
    "10000-01-01T00:00:00Z",
    "2026-W47-6T10:00:00Z",
    " 2026-11-21T10:00:00Z",
    "2026-11-21T10:00:00Z ",
    "2026-11-21T10:00:00[UTC]",
    "1795255200",
    "",
];

/// Numbers that are the same on every machine.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn texts() -> Vec<String> {
    let mut texts: Vec<String> = YEARS.iter().flat_map(|year| DAYS.map(|day| format!("{year:04}-{day}Z"))).collect();
    for base in ["0001-01-01T00:00:00", "2026-11-21T10:00:00", "9999-12-31T23:59:59"] {
        texts.extend(OFFSETS.map(|offset| format!("{base}{offset}")));
        for digits in 0..=9 {
            texts.push(format!("{base}.{}Z", &"987654321"[..digits]));
            texts.push(format!("{base}.{}-03:30", &"000000000"[..digits]));
        }
    }
    texts.extend(SHAPES.map(str::to_owned));
    let mut numbers = Numbers(1);
    for _ in 0..150 {
        let [year, month, day] = [9_999, 12, 28].map(|bound| numbers.below(bound) + 1);
        let [hour, minute, second] = [24, 60, 60].map(|bound| numbers.below(bound));
        let fraction = numbers.below(1_000_000_000);
        let digits = numbers.below(10) as usize;
        let fraction = &format!(".{fraction:09}")[..if digits == 0 { 0 } else { digits + 1 }];
        let offset = OFFSETS[numbers.below(11) as usize];
        texts.push(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{offset}"));
    }
    texts
}

#[test]
fn moments_are_read_as_they_always_were() {
    let mut found = String::from("# text | as an event's time, in µs | as a field of other JSON | written back\n");
    let shown = |moment: Option<Micros>| moment.map_or_else(|| "-".to_owned(), |moment| moment.0.to_string());
    let texts = texts();
    assert!(texts.len() > 450, "{}", texts.len());
    for text in texts {
        let read = rfc3339::parse(&text);
        let elsewhere = serde_json::from_value::<Micros>(Value::from(text.as_str())).ok();
        let back = read.or(elsewhere).map_or_else(|| "-".to_owned(), |moment| moment.to_string());
        writeln!(found, "{text} | {} | {} | {back}", shown(read), shown(elsewhere)).unwrap();
    }
    compare("times-read.txt", &found);
}

#[test]
fn moments_are_written_as_they_always_were() {
    const YEAR_1: i64 = -62_135_596_800_000_000;
    const YEAR_10_000: i64 = 253_402_300_800_000_000;
    let mut moments: Vec<i64> = vec![i64::MIN, i64::MAX];
    for around in [YEAR_1, YEAR_10_000, YEAR_10_000 - 93_600_000_000, -62_167_219_200_000_000, 0, 1_795_255_200_000_000]
    {
        let unit = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 86_400_000_000];
        moments.push(around);
        moments.extend(unit.iter().flat_map(|unit| [around - unit, around + unit]));
    }
    let mut numbers = Numbers(2);
    moments.extend((0..100).map(|_| YEAR_1 + numbers.below(315_000_000_000) as i64 * 1_000_003));
    let mut found = String::from("# µs since 1970 | text | as JSON | from outside\n");
    for moment in moments.into_iter().map(Micros) {
        let json = serde_json::to_string(&moment).unwrap();
        let known = if Micros::from_outside(moment.0).is_some() { "taken" } else { "refused" };
        writeln!(found, "{} | {moment} | {json} | {known}", moment.0).unwrap();
    }
    compare("times-written.txt", &found);
}
