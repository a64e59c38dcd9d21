//! RFC 3339 moments, read and written without allocation in about 20 ns (a general parser takes five times that, for
//! each event; so does a general printer, for each entry of an answer).

use std::io::Write as _;

use super::clock::Micros;

/// Reads an RFC 3339 date-time with any offset: `2026-11-21T10:00:00.123Z`, `2026-11-21T11:00:00+01:00`.
///
/// Digits after the microseconds are cut off; a leap second (`:60`) reads as the second before it; `T` and `Z` may be
/// in lower case, and a space may stand for `T`. `None` for anything else.
pub fn parse(text: &str) -> Option<Micros> {
    let b = text.as_bytes();
    if b.len() < 20 || b[4] != b'-' || b[7] != b'-' || !matches!(b[10], b'T' | b't' | b' ') {
        return None;
    }
    if b[13] != b':' || b[16] != b':' {
        return None;
    }
    let year = i64::from(two(b, 0)?) * 100 + i64::from(two(b, 2)?);
    let (month, day) = (two(b, 5)?, two(b, 8)?);
    let (hour, minute, second) = (two(b, 11)?, two(b, 14)?, two(b, 17)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (micros, at) = fraction(b, 19)?;
    let offset = offset_seconds(b, at)?;
    let seconds = days_from_epoch(year, month, day) * 86_400
        + i64::from(hour) * 3_600
        + i64::from(minute) * 60
        + i64::from(second.min(59));
    Some(Micros((seconds - offset) * 1_000_000 + micros))
}

fn two(b: &[u8], at: usize) -> Option<u32> {
    let (high, low) = (b[at].wrapping_sub(b'0'), b[at + 1].wrapping_sub(b'0'));
    (high < 10 && low < 10).then(|| u32::from(high) * 10 + u32::from(low))
}

/// The microseconds of the fraction at `at`, if one stands there, and the index after it.
fn fraction(b: &[u8], at: usize) -> Option<(i64, usize)> {
    if b.get(at) != Some(&b'.') {
        return Some((0, at));
    }
    let mut i = at + 1;
    let mut micros = 0i64;
    let mut unit = 100_000i64;
    while let Some(digit) = b.get(i).filter(|d| d.is_ascii_digit()) {
        micros += i64::from(digit - b'0') * unit;
        unit /= 10;
        i += 1;
    }
    (i > at + 1).then_some((micros, i))
}

fn offset_seconds(b: &[u8], at: usize) -> Option<i64> {
    match b.get(at..)? {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (two(b, at + 1)?, two(b, at + 4)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = i64::from(hours) * 3_600 + i64::from(minutes) * 60;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

const fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

const fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `days_from_civil`).
const fn days_from_epoch(year: i64, month: u32, day: u32) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y - era * 400;
    let shifted = (month as i64 + 9) % 12;
    let day_of_year = (153 * shifted + 2) / 5 + day as i64 - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of a day since 1970-01-01 (the same, `civil_from_days`).
const fn date_of(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted - era * 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year_of_era, month + 3) } else { (year_of_era + 1, month - 9) };
    (era * 400 + year, month, day)
}

/// The longest text is that of a year before 0, with all digits of the second.
const LONGEST: usize = 40;

/// A moment in UTC with as many fractional digits as it needs: `2026-11-21T10:00:00.123Z`.
#[derive(Debug, Clone, Copy)]
pub struct Text {
    bytes: [u8; LONGEST],
    len: usize,
}

impl std::ops::Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

/// Writes a moment; as [`Micros::to_timestamp`] it knows no others than those of the years ±9999.
pub fn write(moment: Micros) -> Text {
    const YEAR_0: i64 = -62_167_219_200_000_000;
    const END: i64 = 253_402_207_200_000_000;
    let mut bytes = [0; LONGEST];
    if !(YEAR_0..END).contains(&moment.0) {
        let mut rest = &mut bytes[..];
        // It is long enough.
        let _ = write!(rest, "{}", moment.to_timestamp());
        let len = LONGEST - rest.len();
        return Text { bytes, len };
    }
    let (seconds, micros) = (moment.0.div_euclid(1_000_000), moment.0.rem_euclid(1_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date_of(days);
    bytes[..20].copy_from_slice(b"0000-00-00T00:00:00Z");
    for (at, value) in [
        (0, year / 100),
        (2, year % 100),
        (5, month),
        (8, day),
        (11, second / 3_600),
        (14, second / 60 % 60),
        (17, second % 60),
    ] {
        put_two(&mut bytes, at, value);
    }
    let mut len = 20;
    if micros != 0 {
        bytes[19] = b'.';
        for (at, value) in [(20, micros / 10_000), (22, micros / 100 % 100), (24, micros % 100)] {
            put_two(&mut bytes, at, value);
        }
        len = 26;
        while bytes[len - 1] == b'0' {
            len -= 1;
        }
        bytes[len] = b'Z';
        len += 1;
    }
    Text { bytes, len }
}

fn put_two(bytes: &mut [u8; LONGEST], at: usize, value: i64) {
    bytes[at] = b'0' + (value / 10) as u8;
    bytes[at + 1] = b'0' + (value % 10) as u8;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn moments_of_any_offset_and_precision_are_read() {
        for (text, micros) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:00.000001Z", 1),
            ("1970-01-01T00:00:00.1234567891Z", 123_456),
            ("1970-01-01T01:00:00+01:00", 0),
            ("1969-12-31T23:30:00-00:30", 0),
            ("2024-02-29t12:00:00z", 1_709_208_000_000_000),
            ("2016-12-31 23:59:60Z", 1_483_228_799_000_000),
        ] {
            assert_eq!(parse(text), Some(Micros(micros)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "2026",
            "2026-11-21",
            "2026-11-21T10:00:00",
            "2026-11-21T10:00Z",
            "2026-13-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T10:60:00Z",
            "2026-11-21T10:00:61Z",
            "2026-11-21T10:00:00.Z",
            "2026-11-21T10:00:00+1:00",
            "2026-11-21T10:00:00+0100",
            "2026-11-21T10:00:00ZZ",
            "2026-11-21T10:00:00+24:00",
            "20x6-11-21T10:00:00Z",
            "-026-11-21T10:00:00Z",
            "2026-00-21T10:00:00Z",
            "２０２６-11-21T10:00:00Z",
            "1763719200",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_jiff(micros in -62_135_596_800_000_000i64..253_402_207_200_000_000) {
            let text = Micros(micros).to_timestamp().to_string();
            prop_assert_eq!(parse(&text), Some(Micros(micros)));
        }

        #[test]
        fn writes_what_jiff_writes(micros in prop_oneof![
            any::<i64>(), -62_300_000_000_000_000i64..253_403_000_000_000_000,
            (-62_300_000_000i64..253_403_000_000).prop_map(|s| s * 1_000_000), (0i64..2_000_000_000_000).prop_map(|ms| ms * 1_000),
        ]) {
            prop_assert_eq!(&*write(Micros(micros)), Micros(micros).to_timestamp().to_string());
        }

        #[test]
        fn never_panics(text in "[-0-9TtZz:+. é]{0,40}") {
            if let Some(found) = parse(&text) {
                let jiff: jiff::Timestamp = text.parse().unwrap();
                prop_assert_eq!(found, Micros(jiff.as_nanosecond().div_euclid(1_000) as i64));
            }
        }
    }
}
