//! How pages and sources are written.

use std::path::{Path, PathBuf};

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
