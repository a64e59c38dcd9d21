//! What this program writes and serves, held to golden files: whatever is moved, other versions and clients see the
//! same bytes.
//!
//! A change that is meant rewrites the files with `SCORELINE_WRITE_GOLDEN=1`, and its diff shows what clients will see.
//! `tests/golden/README.md` says what each file is.

mod api;
mod definitions;
mod ingest;
mod metrics;
mod programs;
mod reading;
mod receipts;
mod redis;
mod served;
mod stored;
mod times;

use std::fmt::Write as _;
use std::path::Path;

/// When set, files are written instead of compared.
const WRITE: &str = "SCORELINE_WRITE_GOLDEN";

/// Most lines of a difference that are shown of each side.
const SHOWN: usize = 30;

/// Holds `found` to the file `name` under `tests/golden`.
#[track_caller]
pub fn compare(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os(WRITE).is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, found).unwrap();
        return;
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        golden == found,
        "tests/golden/{name} has other bytes (meant? run with {WRITE}=1):\n{}",
        difference(&golden, found)
    );
}

/// The lines from the first to the last that differ.
fn difference(golden: &str, found: &str) -> String {
    let (golden, found): (Vec<&str>, Vec<&str>) = (golden.lines().collect(), found.lines().collect());
    let before = golden.iter().zip(&found).take_while(|(a, b)| a == b).count();
    let (old, new) = (&golden[before..], &found[before..]);
    let after = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let mut text = format!("from line {}:\n", before + 1);
    for (sign, lines) in [('-', &old[..old.len() - after]), ('+', &new[..new.len() - after])] {
        for line in lines.iter().take(SHOWN) {
            let _ = writeln!(text, "{sign} {line}");
        }
        if lines.len() > SHOWN {
            let _ = writeln!(text, "{sign} … {} more", lines.len() - SHOWN);
        }
    }
    text
}

/// One answer of a server as text: its status, its headers, its body.
pub fn answer_text(request: &str, status: u16, headers: &[(String, String)], body: &str) -> String {
    // What differs from run to run.
    const LEFT_OUT: [&str; 2] = ["date", "x-request-id"];
    let mut headers: Vec<String> = headers
        .iter()
        .filter(|(name, _)| !LEFT_OUT.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    headers.sort();
    format!("## {request}\n{status}\n{}\n\n{body}\n\n", headers.join("\n"))
}

/// A text without what differs from run to run: `<uuid>` for the UUIDs that `differs`, and for a run of so many digits
/// what `mark` says, if it says anything.
pub fn masked(
    text: &str,
    differs: impl Fn(&uuid::Uuid) -> bool,
    is_digit: impl Fn(&u8) -> bool,
    mark: impl Fn(usize) -> Option<String>,
) -> String {
    let mut masked = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let digits = rest.bytes().take_while(|byte| is_digit(byte)).count();
        let uuid = rest.get(..36).filter(|text| uuid::Uuid::parse_str(text).is_ok_and(|uuid| differs(&uuid)));
        let (mark, length) = match (uuid, digits) {
            (Some(_), _) => ("<uuid>".to_owned(), 36),
            (None, 0) => (first.to_string(), first.len_utf8()),
            (None, digits) => (mark(digits).unwrap_or_else(|| rest[..digits].to_owned()), digits),
        };
        masked += &mark;
        rest = &rest[length..];
    }
    masked
}

/// Every code of a refusal that `text` has.
pub fn codes(text: &str) -> std::collections::BTreeSet<String> {
    let after = |part: &str| part.split('"').next().map(str::to_owned);
    text.split("\"code\":\"").skip(1).filter_map(after).collect()
}

#[test]
fn a_difference_shows_the_lines_that_differ_and_no_others() {
    let shown = difference("a\nb\nc\nd\n", "a\nx\nc\nd\n");
    assert_eq!(shown, "from line 2:\n- b\n+ x\n");
    assert_eq!(difference("a\n", "a\nb\n"), "from line 2:\n+ b\n");
}
