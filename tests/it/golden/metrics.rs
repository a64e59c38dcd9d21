//! What `/metrics` shows: every metric's name, kind and labels, and how a histogram is cut into buckets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use scoreline::telemetry::{process, recorder};

use super::compare;

/// Every source file of the product, wherever in the repository it is: a metric may move to another folder.
fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let left_out = name.starts_with('.') || ["target", "tests", "docs"].contains(&name.as_str());
        if path.is_dir() && !left_out {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push((name, std::fs::read_to_string(path).unwrap()));
        }
    }
}

/// Names of metrics by the name of their constant, which stands in a file `metrics.rs`.
fn named(sources: &[(String, String)]) -> BTreeMap<&str, &str> {
    let files = sources.iter().filter(|(name, _)| name == "metrics.rs");
    let lines = files.flat_map(|(_, text)| text.lines());
    let parts = lines.filter_map(|line| line.trim().strip_prefix("pub const ")?.split_once(": &str = \""));
    parts
        .filter_map(|(name, rest)| Some((name, rest.strip_suffix("\";")?)))
        .filter(|(_, metric)| metric.starts_with("scoreline_"))
        .collect()
}

/// What stands between the bracket that `text` begins with and the one that closes it.
fn in_brackets(text: &str) -> &str {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' if depth == 1 => return &text[1..at],
            b')' => depth -= 1,
            _ => {}
        }
    }
    panic!("a call without an end: {}", &text[..text.len().min(100)]);
}

/// Of each metric: its kinds and its labels, from the calls that record it.
fn recorded(sources: &[(String, String)]) -> BTreeMap<String, (BTreeSet<&'static str>, BTreeSet<String>)> {
    let names = named(sources);
    let mut found: BTreeMap<String, (BTreeSet<&'static str>, BTreeSet<String>)> = BTreeMap::new();
    for (_, text) in sources {
        for kind in ["counter", "gauge", "histogram"] {
            for (at, call) in text.match_indices(&format!("{kind}!(")) {
                let arguments = in_brackets(&text[at + call.len() - 1..]);
                let constant = arguments.split(',').next().unwrap().trim().rsplit("::").next().unwrap();
                let name = names.get(constant).unwrap_or_else(|| panic!("{constant} is no metric's constant"));
                let labels = arguments.split('"').collect::<Vec<_>>();
                let of_name = found.entry((*name).to_owned()).or_default();
                of_name.0.insert(kind);
                let named = labels.windows(2).filter(|pair| pair[1].trim_start().starts_with("=>"));
                of_name.1.extend(named.map(|pair| pair[0].to_owned()));
            }
        }
    }
    found
}

#[test]
fn every_metric_keeps_its_name_kind_and_labels() {
    let mut all = Vec::new();
    sources(Path::new(env!("CARGO_MANIFEST_DIR")), &mut all);
    let recorded = recorded(&all);
    // What is written without the recorder.
    let of_process: BTreeMap<String, String> = process::render("role")
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    let declared: BTreeSet<String> = named(&all).into_values().map(str::to_owned).collect();
    let shown = recorded.keys().chain(of_process.keys()).cloned().collect();
    assert!(declared.is_subset(&shown), "never recorded: {:?}", declared.difference(&shown).collect::<Vec<_>>());
    let mut lines: Vec<String> = of_process.iter().map(|(name, kind)| format!("{name} {kind} role")).collect();
    for (name, (kinds, labels)) in &recorded {
        let [kinds, labels] = [
            kinds.iter().copied().collect::<Vec<_>>().join(" and "),
            labels.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
        ];
        lines.push(format!("{name} {kinds} {labels}"));
    }
    lines.sort();
    assert!(lines.len() > 40, "{lines:?}");
    compare("metrics.txt", &format!("# name, kind, labels\n{}\n", lines.join("\n")));
}

#[test]
fn metrics_are_rendered_the_same() {
    const ROLE: &str = "golden";
    let handle = recorder::install().unwrap();
    metrics::counter!("scoreline_golden_total", "role" => ROLE, "code" => "a\"b").increment(2);
    metrics::gauge!("scoreline_golden_depth", "role" => ROLE).set(1.5);
    metrics::histogram!("scoreline_golden_seconds", "role" => ROLE).record(0.003);
    metrics::histogram!("scoreline_golden_bytes", "role" => ROLE).record(3.0);
    let rendered = recorder::lines_of(&handle.render(), ROLE);
    // Kinds of metrics stand in no order.
    let mut blocks: Vec<String> = Vec::new();
    for line in rendered.lines() {
        if line.starts_with('#') {
            blocks.push(String::new());
        }
        writeln!(blocks.last_mut().unwrap(), "{line}").unwrap();
    }
    blocks.sort();
    compare("metrics-rendered.txt", &blocks.concat());
}
