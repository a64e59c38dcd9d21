//! The benchmark's command line; its figures are for people, and `make drill` runs it whole.

use std::process::Command;

#[test]
fn a_comparison_says_which_programs_are_missing() {
    let empty = std::env::temp_dir().join(format!("scoreline-no-build-{}", std::process::id()));
    std::fs::create_dir_all(&empty).unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_scoreline")).args(["bench", "--against"]).arg(&empty).output().unwrap();
    std::fs::remove_dir_all(&empty).unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(1), "{said}");
    assert!(said.contains("lacks ingest, worker, cron, api, scoreline: build all programs into it"), "{said}");
}

#[test]
fn a_comparison_takes_eight_turns_at_least() {
    let run = Command::new(env!("CARGO_BIN_EXE_scoreline"))
        .args(["bench", "--against", "/nowhere", "--turns", "7"])
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(2));
}
