//! Which way imports point: what each room of `src` may import of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::rules::{module_of, sources};

/// The rooms that each room imports, no more and no fewer. A room stands below all that it imports.
const ROOMS: &[(&str, &str)] = &[
    ("domain", ""),
    ("runtime", "domain"),
    ("redis_connection", ""),
    ("telemetry", "domain"),
    ("store", "domain telemetry"),
    ("directory", "domain redis_connection"),
    ("ranking", "domain redis_connection"),
    ("queue", "domain redis_connection runtime telemetry"),
    ("http", "domain runtime telemetry"),
    ("ingest", "directory domain http queue redis_connection runtime telemetry"),
    ("workers", "domain queue runtime store telemetry"),
    ("services", "directory domain queue ranking redis_connection store telemetry"),
    ("aggregator", "directory domain queue ranking redis_connection runtime services store telemetry"),
    ("api", "directory domain http queue ranking redis_connection services store telemetry"),
    ("stack", "domain"),
    ("cli", "directory domain queue ranking redis_connection services store telemetry"),
    ("simulate", "cli domain runtime store telemetry"),
    (
        "process",
        "aggregator api directory domain http ingest queue ranking redis_connection runtime store telemetry workers",
    ),
    ("up", "directory domain process redis_connection runtime services simulate stack store telemetry"),
    ("bench", "directory domain queue runtime simulate stack store"),
    ("chaos", "bench directory domain queue runtime stack store telemetry"),
    ("program", "bench chaos cli process runtime simulate up"),
    ("bin", "process program"),
];

/// What a file imports of the other rooms.
fn imports(path: &Path, room: &str, text: &str) -> BTreeSet<String> {
    let depth = path.components().count() - 1 - usize::from(path.ends_with("mod.rs"));
    let of_crate = if room == "bin" { "scoreline::" } else { "crate::" };
    let mut found = first_names(text, of_crate);
    found.extend(first_names(text, &"super::".repeat(depth)));
    found.retain(|name| name != room && ROOMS.iter().any(|(other, _)| other == name));
    found
}

/// The first names of all paths that begin with `root`: of `root::a::b`, and of each branch of `root::{a::{b, c}, d}`.
fn first_names(text: &str, root: &str) -> BTreeSet<String> {
    let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(root) {
        let before = code[..at].chars().next_back();
        if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            collect(&code[at + root.len()..], &mut found);
        }
    }
    found
}

fn collect(tree: &str, found: &mut BTreeSet<String>) {
    match tree.trim_start().strip_prefix('{') {
        Some(inner) => branches(inner).into_iter().for_each(|branch| collect(branch, found)),
        None => {
            found.insert(tree.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
}

/// The parts between commas up to the brace that closes the one before `tree`.
fn branches(tree: &str) -> Vec<&str> {
    let (mut depth, mut from, mut found) = (0, 0, Vec::new());
    for (at, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' => {
                found.push(&tree[from..at]);
                break;
            }
            ',' if depth == 0 => {
                found.push(&tree[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    found
}

#[test]
fn imports_are_seen_in_every_form() {
    let text = "
        use crate::process;
        use crate::{api::{self, state::{ApiState, Shared}}, domain::ids::GameId,
            http, {store::pool::Pool}};
        // use crate::chaos;
        fn f() { crate::queue::open(); my_crate::up::run(); $crate::ranking::x() }
        use super::super::workers::{run, cli};
    ";
    let names = |path| imports(Path::new(path), "ingest", text).into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(names("src/ingest/call.rs"), "api domain http process queue ranking store workers");
    assert_eq!(names("src/ingest/formats/native.rs"), "api domain http process queue ranking store");
}

#[test]
fn imports_point_downwards_only() {
    let mut unused: BTreeMap<&str, BTreeSet<&str>> =
        ROOMS.iter().map(|(room, others)| (*room, others.split_whitespace().collect())).collect();
    let allowed = unused.clone();
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(room) = module_of(&path).filter(|room| room != "lib") else { continue };
        let (Some(may), Some(unused)) = (allowed.get(room.as_str()), unused.get_mut(room.as_str())) else {
            wrong.push(format!("{}: no row says what {room} may import", path.display()));
            continue;
        };
        for other in imports(&path, &room, &text) {
            if !may.contains(other.as_str()) {
                wrong.push(format!("{}: {room} may not import {other}", path.display()));
            }
            unused.remove(other.as_str());
        }
    }
    wrong.extend(
        unused.iter().flat_map(|(room, others)| others.iter().map(move |o| format!("{room} has no need of {o}"))),
    );
    assert!(wrong.is_empty(), "imports against ARCHITECTURE.md:\n{}", wrong.join("\n"));
}

#[test]
fn every_room_stands_below_those_that_import_it() {
    for (at, (room, others)) in ROOMS.iter().enumerate() {
        for other in others.split_whitespace() {
            assert!(ROOMS[..at].iter().any(|(below, _)| *below == other), "{room} imports {other}");
        }
    }
}
