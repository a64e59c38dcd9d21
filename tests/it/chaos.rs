//! `scoreline chaos`, for a minute.

use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::support::system::binaries;

/// Its first minute freezes, kills, crashes and cuts (`scoreline chaos --seed 536 --plan`).
const SEED: u64 = 536;

#[tokio::test]
async fn a_minute_of_chaos_loses_nothing_stores_nothing_twice_and_shows_what_is_stored() {
    let run = Command::new(binaries().join("scoreline"))
        .args(["chaos", "--seed", &SEED.to_string(), "--minutes", "1", "--json"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{}\n{stderr}\n{stdout}", run.status);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let count = |name: &str| report["events"][name].as_u64().unwrap();
    assert_eq!(report["violations"], serde_json::json!([]));
    assert!(
        count("acknowledged") > 1_000 && count("stored") >= count("acknowledged") - count("deserved_dead"),
        "{stdout}"
    );
    assert_eq!(report["judged"], true, "{stdout}");
    assert_eq!(report["skipped"], serde_json::json!([]), "a build with failpoints does everything");
    let done = |name: &str| report[name].as_object().unwrap().clone();
    for what in ["kills", "crashes", "cuts"] {
        assert!(!done(what).is_empty(), "no {what}: {stdout}");
    }
    assert!(done("faults").keys().any(|fault| fault.starts_with("freeze-")), "{stdout}");
    let recoveries = report["recoveries"].as_array().unwrap();
    assert!(recoveries.iter().any(|recovery| recovery["what"] == "its jobs have run"), "{stdout}");
    assert!(stderr.contains(&format!("scoreline chaos --seed {SEED} ")), "{stderr}");
}

/// Read-only, missing rights and a wrong password are nobody's data's fault.
#[tokio::test]
async fn a_postgres_that_refuses_costs_no_event() {
    let refusals = "postgres-read-only,postgres-rights,postgres-password";
    let run = Command::new(binaries().join("scoreline"))
        .args(["chaos", "--seed", "12", "--minutes", "0.9", "--json", "--only", refusals])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{}\n{stderr}\n{stdout}", run.status);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&report["violations"], &report["judged"]), (&serde_json::json!([]), &true.into()), "{stdout}");
    for fault in refusals.split(',') {
        assert!(report["faults"][fault].as_u64() >= Some(1), "no {fault}: {stdout}");
    }
    assert!(report["edits"].as_u64() >= Some(1), "a live board was edited meanwhile: {stdout}");
}
