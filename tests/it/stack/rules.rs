//! Rules about the source itself: where libraries are used, how long files are, that every statement is valid.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use scoreline::store::outbox::Outbox;

use crate::support;

/// Every file of `src` and `tests`, with its text.
pub fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join("src"), root.join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root).unwrap().to_owned(), text));
            }
        }
    }
    assert!(found.len() > 50);
    found
}

/// The module under `src` that a file belongs to: `ingest` for `src/ingest/body.rs`, `beacon` for `src/beacon.rs`.
pub fn module_of(path: &Path) -> Option<String> {
    let rest = path.strip_prefix("src").ok()?;
    let first = rest.components().next()?.as_os_str().to_str()?.to_owned();
    Some(first.trim_end_matches(".rs").to_owned())
}

/// Names a line takes from `crate::…` or from a crate, without comments.
fn mentions(line: &str, path: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices(path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

/// A place where a process may die is worth nothing until one does.
#[test]
fn a_process_dies_at_every_crash_point_in_some_test() {
    let all = sources();
    let of = |folder: &'static str| all.iter().filter(move |(path, _)| path.starts_with(folder));
    let points: BTreeSet<&str> = of("src")
        .flat_map(|(_, text)| text.split("crash_point(\"").skip(1).filter_map(|rest| rest.split('"').next()))
        .collect();
    assert!(points.len() >= 10, "{points:?}");
    let never: Vec<&&str> =
        points.iter().filter(|point| !of("tests").any(|(_, text)| text.contains(&format!("{point}=")))).collect();
    assert_eq!(never, Vec::<&&str>::new());
}

/// Tests wait for conditions, not for time: who sleeps says why, by the name of what it calls in `support`.
#[test]
fn no_test_sleeps_without_a_reason() {
    let sleeps = |(path, text): (PathBuf, String)| {
        let named = path == Path::new("tests/it/support/mod.rs") || path == Path::new("tests/it/stack/rules.rs");
        (path.starts_with("tests") && !named && text.contains("sleep(")).then_some(path)
    };
    assert_eq!(sources().into_iter().filter_map(sleeps).collect::<Vec<_>>(), Vec::<PathBuf>::new());
}

/// Whether a line takes something from a library, or gives the library another name.
fn names_library(line: &str, library: &str) -> bool {
    mentions(line, &format!("{library}::"))
        || [format!("use {library} as "), format!("use {library};")].iter().any(|import| mentions(line, import))
}

/// The rooms that name each library, no more and no fewer. Above the store nobody knows what is behind a `StoreError`.
#[test]
fn each_library_stays_in_its_rooms() {
    let rooms = [
        ("sqlx", vec!["store", "stack", "bench", "chaos"]),
        ("redis", vec!["redis_connection", "queue", "ranking", "directory", "stack", "bench", "chaos"]),
        ("axum", vec!["ingest", "api", "process", "http", "simulate", "bench"]),
        ("utoipa", vec!["api"]),
        ("apalis_core", vec!["queue"]),
    ];
    let mut unused: BTreeSet<(&str, &str)> =
        rooms.iter().flat_map(|(library, rooms)| rooms.iter().map(|room| (*library, *room))).collect();
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(room) = module_of(&path) else { continue };
        for (library, may) in &rooms {
            let Some(line) = text.lines().find(|line| names_library(line, library)) else { continue };
            if !may.contains(&room.as_str()) {
                wrong.push(format!("{}: {}", path.display(), line.trim()));
            }
            unused.retain(|row| *row != (*library, room.as_str()));
        }
    }
    wrong.extend(unused.iter().map(|(library, room)| format!("{room} has no need of {library}")));
    assert!(wrong.is_empty(), "libraries and their rooms:\n{}", wrong.join("\n"));
}

#[test]
fn no_file_is_longer_than_one_reads_in_a_sitting() {
    let too_long: Vec<String> = sources()
        .iter()
        .filter(|(_, text)| text.lines().count() > 400)
        .map(|(path, text)| format!("{} has {} lines", path.display(), text.lines().count()))
        .collect();
    assert!(too_long.is_empty(), "{}", too_long.join("\n"));
    let fat: Vec<String> = sources()
        .iter()
        .filter(|(path, text)| path.starts_with("src/bin") && text.lines().count() > 60)
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert!(fat.is_empty(), "binaries parse, wire and run: {fat:?}");
}

#[test]
fn only_one_module_reads_the_clock() {
    for (path, text) in sources().iter().filter(|(path, _)| path.starts_with("src")) {
        if path == Path::new("src/runtime/clock.rs") {
            continue;
        }
        for name in ["SystemTime::now", "Timestamp::now", "now_v7", "Utc::now"] {
            assert!(
                !text.lines().any(|l| mentions(l, name) || l.contains(&format!("::{name}"))),
                "{}: {name}",
                path.display()
            );
        }
    }
}

/// Every plain text literal outside of comments: what is passed to a query and what has a name first.
pub fn literals(text: &str) -> Vec<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).fold(
        String::with_capacity(text.len()),
        |mut code, line| {
            code.push_str(line);
            code.push('\n');
            code
        },
    );
    let (mut found, mut characters) = (Vec::new(), code.chars());
    while characters.by_ref().any(|c| c == '"') {
        let mut literal = String::new();
        while let Some(c) = characters.next() {
            match c {
                '"' => break,
                '\\' => match characters.next() {
                    Some('n') => literal.push('\n'),
                    Some('\n') | None => {}
                    Some(other) => literal.push(other),
                },
                other => literal.push(other),
            }
        }
        found.push(literal);
    }
    found
}

/// Whether a literal is a whole statement: not a word of one, nor a part that is put together with others.
pub fn is_statement(literal: &str) -> bool {
    let mut words = literal.split_whitespace();
    let first = words.next().unwrap_or_default();
    let goes_on = ["_", " WHEN "].iter().any(|end| literal.ends_with(end));
    ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"].contains(&first) && words.count() > 2 && !goes_on
}

#[tokio::test]
async fn every_statement_in_the_store_is_valid_on_the_migrated_schema() {
    let database = support::postgres::database().await;
    let mut checked = 0;
    let mut wrong = Vec::new();
    for (path, text) in sources().iter().filter(|(path, _)| path.starts_with("src/store")) {
        for statement in literals(text).into_iter().filter(|literal| is_statement(literal)) {
            // The two places where something is filled in: a direction, and one of two tables.
            let mut filled = Outbox::ALL.map(|outbox| outbox.fill(&statement.replace("{o}", "ASC"))).to_vec();
            filled.dedup();
            for statement in filled {
                let mut connection = database.pool.acquire().await.unwrap();
                let prepared = sqlx::Executor::prepare(
                    &mut *connection,
                    sqlx::SqlSafeStr::into_sql_str(sqlx::AssertSqlSafe(statement.clone())),
                )
                .await;
                if let Err(error) = prepared {
                    wrong.push(format!("{}: {error}\n{statement}\n", path.display()));
                }
            }
            checked += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 135, "only {checked} statements were found");
}

/// sqlx forgets a BEGIN that is dropped before it is answered, and the connection goes back to its pool inside of a
/// transaction. `Pool::begin` sees to it; these run where nothing drops them, or on a connection of their own.
#[test]
fn transactions_begin_through_the_pool() {
    const OTHERWISE: [&str; 6] = [
        "src/stack/postgres_roles.rs",
        "src/store/events.rs",
        "src/store/grants.rs",
        "src/store/partitions.rs",
        "src/store/write_probe.rs",
        "src/workers/persist_events/transaction.rs",
    ];
    let through_the_pool = |before: &str| {
        let receiver = before.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
        ["pool", "tenure", "self"].contains(&receiver)
    };
    for (path, text) in sources().into_iter().filter(|(path, _)| path.starts_with("src")) {
        let code: String = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
        let on_a_connection = ["begin_with(", "events::begin("].iter().any(|call| code.contains(call))
            || code.match_indices(".begin()").any(|(at, _)| !through_the_pool(code[..at].trim_end()));
        let allowed = OTHERWISE.contains(&path.to_str().unwrap());
        assert!(!on_a_connection || allowed, "{} begins on a connection", path.display());
    }
}

/// What a session is set to would hold for whoever gets its connection next, and does not reach through a pooler.
#[test]
fn settings_of_a_session_end_with_its_transaction() {
    let mut found = 0;
    for (path, text) in sources().into_iter().filter(|(path, _)| path.starts_with("src/store")) {
        for statement in literals(&text) {
            let words: Vec<&str> = statement.split_whitespace().take(2).collect();
            let sets =
                words.first() == Some(&"SET") && words.get(1).is_some_and(|w| w.chars().all(char::is_alphanumeric));
            let local = matches!(words.get(1), Some(&("LOCAL" | "TRANSACTION")));
            assert!(!sets || local, "{}: {statement}", path.display());
            found += usize::from(sets);
            // `set_config(name, value, is_local)`.
            for (at, _) in statement.match_indices("set_config(") {
                let mut depth = 0;
                let end = statement[at..].find(|c| {
                    depth += i32::from(c == '(') - i32::from(c == ')');
                    c == ')' && depth == 0
                });
                let call = &statement[at..at + end.unwrap()];
                assert!(call.trim_end().ends_with(", true"), "{}: {call}", path.display());
                found += 1;
            }
        }
    }
    assert!(found >= 10, "only {found} were found");
}

/// The tests that a page names, each of which must be there.
fn tests_named_in(page: &str) -> usize {
    let tests: BTreeMap<PathBuf, String> =
        sources().into_iter().filter(|(path, _)| path.starts_with("tests")).collect();
    let quoted = page.split('`').skip(1).step_by(2);
    let mut named = 0;
    for name in quoted.filter(|text| text.contains("::") && text.rsplit("::").next().unwrap().matches('_').count() > 2)
    {
        let (module, test) = name.rsplit_once("::").unwrap();
        let file = Path::new("tests/it").join(format!("{}.rs", module.replace("::", "/")));
        let found = tests.get(&file).is_some_and(|text| text.contains(&format!("fn {test}(")));
        assert!(found, "{name} is not in {}", file.display());
        named += 1;
    }
    named
}

/// `migrate` gives up sooner than processes do, so that none of their statements fails in the queue behind it.
#[test]
fn no_migration_waits_longer_for_a_lock_than_migrate_does() {
    let last_that_did = "20261127090000_keep_length_of_leases.sql";
    let migrations = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations")).unwrap();
    let mut looked_at = 0;
    for path in
        migrations.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "sql"))
    {
        let name = path.file_name().unwrap().to_str().unwrap();
        if name > last_that_did {
            assert!(!std::fs::read_to_string(&path).unwrap().contains("lock_timeout"), "{name} sets its own");
            looked_at += 1;
        }
    }
    assert!(looked_at >= 2, "{looked_at} migrations were found");
}

#[test]
fn every_threat_on_the_page_has_tests_that_exist() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/abuse.md");
    let named = tests_named_in(&std::fs::read_to_string(page).unwrap());
    assert!(named >= 20, "{named} tests were found on the page");
}

#[test]
fn the_reliability_page_names_only_tests_that_exist() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reliability.md");
    let named = tests_named_in(&std::fs::read_to_string(page).unwrap());
    assert!(named >= 10, "{named} tests were found on the page");
}

#[test]
fn the_architecture_page_names_every_folder_and_only_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    for entry in std::fs::read_dir(root.join("src")).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("`src/{}`", path.file_name().unwrap().to_str().unwrap());
        assert!(name == "`src/lib.rs`" || page.contains(&name), "{name} is not in the code map");
    }
    let named = tests_named_in(&page);
    assert!(named >= 15, "{named} tests were found on the page");
}
