//! What the programs say of themselves: `--help` of each and of every command, and the document of the HTTP API.
//!
//! With the flags these hold every setting's name, default and help; `docs/configuration.md` has the same as a table.

use std::process::Command;

use super::compare;

/// `--help` as it looks in a terminal of this width.
const COLUMNS: &str = "120";

fn help(program: &str, commands: &[&str]) -> String {
    let output = Command::new(program)
        .args(commands)
        .arg("--help")
        // What is set here must not show.
        .env_clear()
        .env("COLUMNS", COLUMNS)
        .output()
        .unwrap();
    assert!(output.status.success(), "{program} {commands:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that a help page lists.
fn listed(help: &str) -> Vec<String> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names =
        list.take_while(|line| !line.is_empty()).filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect()
}

fn pages(program: &str, commands: &[&str], found: &mut Vec<String>) {
    let page = help(program, commands);
    let below = listed(&page);
    found.push(format!("$ scoreline {}\n{page}", [commands, &["--help"]].concat().join(" ")));
    for name in below {
        pages(program, &[commands, &[&name]].concat(), found);
    }
}

#[test]
fn the_help_of_the_four_processes_is_the_same() {
    for (name, program) in [
        ("ingest", env!("CARGO_BIN_EXE_ingest")),
        ("worker", env!("CARGO_BIN_EXE_worker")),
        ("cron", env!("CARGO_BIN_EXE_cron")),
        ("api", env!("CARGO_BIN_EXE_api")),
    ] {
        compare(&format!("help/{name}.txt"), &help(program, &[]));
    }
}

#[test]
fn the_help_of_every_command_is_the_same() {
    let mut found = Vec::new();
    let program = env!("CARGO_BIN_EXE_scoreline");
    pages(program, &[], &mut found);
    // One that is run by another command, and not shown.
    pages(program, &["bench-limit"], &mut found);
    assert!(found.len() > 20, "{}", found.len());
    compare("help/scoreline.txt", &found.join("\n"));
}

#[test]
fn the_document_is_the_same() {
    let mut document = scoreline::api::document();
    // That of the day.
    document.info.version = String::new();
    compare("openapi.json", &(document.to_pretty_json().unwrap() + "\n"));
}
