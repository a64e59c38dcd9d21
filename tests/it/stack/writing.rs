//! How pages and sources are written.

use std::path::{Path, PathBuf};

use scoreline::queue::WorkerOptions;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages of `docs/adr` but for the index, in the order of their numbers.
fn decisions() -> Vec<(PathBuf, String)> {
    let mut pages: Vec<PathBuf> =
        std::fs::read_dir(root().join("docs/adr")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.retain(|path| !path.ends_with("README.md"));
    pages.sort();
    pages.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn decisions_have_one_form_and_stand_in_the_index() {
    let index = std::fs::read_to_string(root().join("docs/adr/README.md")).unwrap();
    let pages = decisions();
    assert!(pages.len() >= 8, "{}", pages.len());
    for (nth, (path, page)) in (1..).zip(&pages) {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with(&format!("{nth:04}-")), "{name} is the {nth}th");
        assert!(index.contains(&format!("| [{nth}]({name}) |")), "{name} is not in the index");
        let mut lines = page.lines();
        assert!(lines.next().unwrap().starts_with(&format!("# {nth}. ")), "{name} begins with its number");
        assert!(lines.nth(1).unwrap().starts_with("Status: "), "{name} has no status");
        let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(headings, ["Context", "Decision", "Consequences"], "{name}");
    }
}

/// The kind of a file: how its name ends, or that it is a script.
fn kind(path: &Path) -> &str {
    let script = if path.starts_with("scripts") { "script" } else { "" };
    path.extension().map_or(script, |extension| extension.to_str().unwrap())
}

/// Files of some kinds that are written by hand, by their path in the repository. `make drill` writes its reports.
fn written(kinds: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let path = folder.join(&name);
            let left_out = name.starts_with('.') || name == "target" || path == Path::new("docs/drills");
            if entry.path().is_dir() {
                folders.extend((!left_out).then_some(path));
            } else if kinds.contains(&kind(&path)) {
                found.push((path, std::fs::read_to_string(entry.path()).unwrap()));
            }
        }
    }
    assert!(found.len() > 20, "{}", found.len());
    found
}

/// Code spans that are paths in the repository: they begin with one of its folders and leave nothing open.
fn paths_in(page: &str) -> impl Iterator<Item = &str> {
    const FOLDERS: [&str; 5] = ["src/", "tests/", "docs/", "migrations/", "scripts/"];
    let is_path = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
    page.split('`').filter(move |text| FOLDERS.iter().any(|folder| text.starts_with(folder)) && is_path(text))
}

#[test]
fn pages_name_only_files_that_exist() {
    let mut named = 0;
    for (page, text) in written(&["md"]) {
        for path in paths_in(&text).filter(|path| !path.contains("YYYY")) {
            assert!(root().join(path).exists(), "{} names {path}, which is not there", page.display());
            named += 1;
        }
    }
    assert!(named > 150, "only {named} were found");
}

/// A figure that is changed in the code only leaves a page that nobody can trust.
#[test]
fn the_page_on_jobs_has_the_figures_of_a_worker() {
    let page = std::fs::read_to_string(root().join("docs/job-lifecycle.md")).unwrap();
    let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
    let WorkerOptions { poll, poll_unsubscribed, spacing, lease, grace, max_crashes, .. } = WorkerOptions::default();
    assert_eq!(max_crashes, 3, "the third crash");
    for figure in [
        format!("an interval of {} s stands behind it", poll.as_secs()),
        format!("{} ms while the subscription is broken", poll_unsubscribed.as_millis()),
        format!("fetches start {} ms apart", spacing.as_millis()),
        format!("ten times per lease ({} s)", lease.as_secs()),
        format!("has the grace ({} s) to finish", grace.as_secs()),
    ] {
        assert!(page.contains(&figure), "docs/job-lifecycle.md does not say: {figure}");
    }
}

/// Most columns of a line: what fits beside another file.
const MOST_COLUMNS: usize = 120;

/// Migrations of before this are as they were released: sqlx compares checksums.
const FIRST_HELD_MIGRATION: &str = "20261128";

/// Whether a file may not be changed any more.
fn is_released(path: &Path) -> bool {
    kind(path) == "sql" && path.file_name().unwrap().to_str().unwrap() < FIRST_HELD_MIGRATION
}

/// Whether a line is held to the width.
fn is_held(path: &Path, line: &str) -> bool {
    let begins = |with: &str| line.trim_start().starts_with(with);
    match kind(path) {
        // The rest is rustfmt's, which leaves what it cannot break: long texts, and what stands in macros.
        "rs" => begins("//"),
        // A row of a table is one line.
        "md" => !begins("|"),
        "sql" => !is_released(path),
        _ => true,
    }
}

/// Columns of a line, but for addresses: they cannot be broken.
fn columns(line: &str) -> usize {
    let is_address = |word: &&str| word.contains("https://") || word.contains("http://");
    let addresses: usize = line.split(' ').filter(is_address).map(|word| word.chars().count()).sum();
    line.chars().count() - addresses
}

#[test]
fn no_line_is_wider_than_a_screen() {
    let mut wide = Vec::new();
    for (path, text) in written(&["rs", "lua", "sql", "md", "script"]) {
        for (nth, line) in (1..).zip(text.lines()).filter(|(_, line)| is_held(&path, line)) {
            if columns(line) > MOST_COLUMNS {
                wide.push(format!("{}:{nth}: {} columns", path.display(), columns(line)));
            }
        }
    }
    assert!(wide.is_empty(), "more than {MOST_COLUMNS} columns:\n{}", wide.join("\n"));
}

/// What stands between two stops or brackets, as words. A name in snake case is several, and a line's end is no stop.
fn clauses(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.split(['.', ',', ';', ':', '(', ')', '[', ']', '"'])
        .map(|clause| clause.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect())
}

/// Who meets a number has to look up what the rule says; who meets a heading has read it.
#[test]
fn rules_are_named_and_not_numbered() {
    const NUMBERED: [&str; 7] = ["print", "point", "points", "invariant", "invariants", "rule", "rules"];
    let is_number = |word: &str| word.bytes().all(|b| b.is_ascii_digit());
    let mut found = Vec::new();
    for (path, text) in written(&["rs", "lua", "sql", "md"]).into_iter().filter(|(path, _)| !is_released(path)) {
        let lower = text.to_lowercase();
        let is_numbered = |pair: &[&str]| NUMBERED.contains(&pair[0]) && is_number(pair[1]);
        let numbered = clauses(&lower).any(|words| words.windows(2).any(is_numbered));
        found.extend(numbered.then_some(path));
    }
    assert_eq!(found, Vec::<PathBuf>::new(), "name a rule by its heading in docs/rules.md");
}

/// Headings of a page as links name them: lower case, words joined by dashes.
fn anchors(page: &str) -> Vec<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
    let slug = |line: &str| line.trim_start_matches('#').trim().to_lowercase().chars().filter(kept).collect::<String>();
    headings.map(|line| slug(line).replace(' ', "-")).collect()
}

/// Links to a heading, as a page and its heading: `docs/rules.md#facts-are-packed` in a comment or a page.
fn links_to_headings(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let in_path = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let links = text.match_indices(".md#").map(move |(at, _)| {
        let page = text[..at + 3].rsplit(|c: char| !in_path(c)).next().unwrap();
        (page, text[at + 4..].split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next().unwrap())
    });
    links.filter(|(page, _)| *page != ".md")
}

#[test]
fn links_lead_to_headings() {
    let mut followed = 0;
    for (path, text) in written(&["rs", "lua", "sql", "md"]) {
        // A comment names a page from the root, and a page does so from where it stands.
        let from = if kind(&path) == "md" { path.parent().unwrap() } else { Path::new("") };
        for (page, heading) in links_to_headings(&text) {
            let there = std::fs::read_to_string(root().join(from).join(page));
            let there = there.unwrap_or_else(|error| panic!("{} links {page}: {error}", path.display()));
            let is_there = anchors(&there).iter().any(|anchor| anchor == heading);
            assert!(is_there, "{}: {page} has no heading {heading}", path.display());
            followed += 1;
        }
    }
    assert!(followed > 60, "only {followed} were found");
}
