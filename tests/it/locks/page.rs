//! docs/locks.md names every statement of the store that locks more than one row.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::stack::rules::{literals, sources};

/// Columns of which one value names one row.
const KEYS: [&str; 5] = ["id", "name", "partition_name", "job", "slug"];
/// Words that lock what a SELECT finds.
const LOCKS: [&str; 4] = ["FOR UPDATE", "FOR NO KEY UPDATE", "FOR SHARE", "FOR KEY SHARE"];

/// Whether a statement locks rows, and more than one of them as far as one can read.
fn locks_several(statement: &str) -> bool {
    let words = statement.split_whitespace().collect::<Vec<_>>().join(" ");
    let writes = words.contains("UPDATE ") && words.contains(" SET ")
        || words.contains("DELETE FROM ")
        || words.contains("INSERT INTO ") && words.contains("ON CONFLICT") && !words.contains("VALUES (");
    let locks = writes || LOCKS.iter().any(|lock| words.contains(lock));
    let one = words.contains("UPDATE directory_version")
        || words.contains("VALUES ($1")
        || KEYS.iter().any(|key| {
            words.match_indices(&format!("{key} = $")).any(|(at, _)| {
                let before = words[..at].chars().next_back().unwrap_or(' ');
                before == ' ' || before == '.' || before == '('
            })
        });
    locks && (!one || words.contains("= $1 OR "))
}

/// The function, or the constant beside it, in which each such statement of a file stands.
fn statements_of(file: &str, text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let (mut item, mut part) = (String::new(), String::new());
    let mut close = |item: &str, part: &str| {
        if literals(part).iter().any(|literal| locks_several(literal)) {
            found.insert(format!("{file}::{item}"));
        }
    };
    for line in text.lines() {
        let bare = line.trim_start_matches("pub").trim_start_matches("(super)").trim_start();
        let begins = ["async fn ", "fn ", "const ", "macro_rules! "].iter().find_map(|word| bare.strip_prefix(word));
        if let Some(rest) = begins.filter(|_| !line.starts_with("     ")) {
            let named = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
            // A constant within a function is the function's.
            if !line.starts_with(' ') {
                close(&item, &part);
                (item, part) = (named.to_owned(), String::new());
            }
        }
        part.push_str(line);
        part.push('\n');
    }
    close(&item, &part);
    found
}

#[test]
fn the_page_on_locks_names_every_statement_that_locks_several_rows() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/locks.md");
    let page = std::fs::read_to_string(page).unwrap();
    let named: BTreeSet<&str> =
        page.split('`').skip(1).step_by(2).filter(|text| text.contains("::") && !text.starts_with("locks::")).collect();
    let (mut there, mut files) = (BTreeSet::new(), BTreeMap::new());
    for (path, text) in sources().into_iter().filter(|(path, _)| path.starts_with("src/store")) {
        let file = path.file_stem().unwrap().to_str().unwrap().to_owned();
        there.extend(statements_of(&file, &text));
        files.insert(file, text);
    }
    let unnamed: Vec<&String> = there.iter().filter(|statement| !named.contains(statement.as_str())).collect();
    assert!(unnamed.is_empty(), "docs/locks.md must say in which order these lock their rows: {unnamed:?}");
    let is_there = |name: &str| {
        let (file, item) = name.split_once("::").unwrap();
        let begins = ["fn ", "const ", "macro_rules! "].map(|word| format!("{word}{item}"));
        files.get(file).is_some_and(|text| begins.iter().any(|begin| text.contains(begin)))
    };
    let gone: Vec<&&str> = named.iter().filter(|name| !is_there(name)).collect();
    assert!(gone.is_empty(), "docs/locks.md names what is not there: {gone:?}");
    assert!(there.len() >= 20, "{there:?}");
}

#[test]
fn a_statement_that_locks_several_rows_is_told_from_one_that_does_not() {
    for (statement, several) in [
        ("UPDATE leases SET x = 1 WHERE name = $1", false),
        ("UPDATE leases SET x = 1 WHERE token = $1", true),
        ("DELETE FROM leases WHERE name = $1 OR token = $2", true),
        ("SELECT 1 FROM games WHERE id = ANY($1) FOR SHARE", true),
        ("SELECT id FROM games WHERE id = $1 FOR UPDATE", false),
        ("DELETE FROM leaderboard_entries e WHERE e.period_id = $1", true),
        ("INSERT INTO a (b) VALUES ($1) ON CONFLICT DO NOTHING", false),
        ("INSERT INTO a (b) SELECT 1 ON CONFLICT DO NOTHING", true),
        ("SELECT updated_at FROM leaderboards", false),
    ] {
        assert_eq!(locks_several(statement), several, "{statement}");
    }
}
