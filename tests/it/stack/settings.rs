//! Settings: the page that documents them, and what is refused.

use std::fmt::Write;
use std::process::Command;

use scoreline::process::commands::config::all_settings_command;

use super::processes::Program;
use crate::support;

/// `docs/configuration.md`, as it must be.
fn page() -> String {
    let mut page = String::from(
        "# Configuration\n\nFlag > environment > default; the same names in every process. `scoreline config` prints what is in \
         force.\nMade from the program's own `--help`: change the `settings.rs` of its room, then run `UPDATE_DOCS=1 make test`.\n\n\
         | environment | flag | default | what it is |\n|---|---|---|---|\n",
    );
    let command = all_settings_command();
    let mut arguments: Vec<_> = command.get_arguments().filter(|a| a.get_env().is_some()).collect();
    arguments.sort_by_key(|a| a.get_env().map(|e| e.to_os_string()));
    for argument in arguments {
        let name = argument.get_env().unwrap().to_str().unwrap();
        let flag = argument.get_long().unwrap();
        let defaults: Vec<_> = argument.get_default_values().iter().map(|v| v.to_str().unwrap()).collect();
        let default = if defaults.is_empty() { "-".to_owned() } else { format!("`{}`", defaults.join(",")) };
        let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
        let help = help.replace('\n', " ").replace('|', "\\|");
        writeln!(page, "| `{name}` | `--{flag}` | {default} | {help} |").unwrap();
    }
    page
}

#[test]
fn the_configuration_page_says_what_the_program_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page(), "docs/configuration.md is out of date: run UPDATE_DOCS=1 make test");
}

#[test]
fn every_process_explains_itself() {
    for (program, words) in [
        (env!("CARGO_BIN_EXE_ingest"), ["INGEST_LISTEN", "RATE_LIMIT_REQUESTS"]),
        (env!("CARGO_BIN_EXE_worker"), ["DATABASE_URL", "WORKER_WRITERS"]),
        (env!("CARGO_BIN_EXE_cron"), ["DATABASE_URL", "RETENTION_DAYS"]),
        (env!("CARGO_BIN_EXE_api"), ["API_LISTEN", "ADMIN_TOKEN"]),
    ] {
        let output = Command::new(program).arg("--help").output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && words.iter().all(|word| help.contains(word)), "{program}: {help}");
    }
}

#[tokio::test]
async fn a_worker_refuses_more_jobs_than_it_can_hold() {
    for wrong in ["0", "1001"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
        command.env("DATABASE_URL", "postgres://127.0.0.1:1/x").env("WORKER_MAX_JOBS", wrong);
        let mut worker = Program::start(command, "worker");
        let (code, said) = (worker.ended().await, worker.output());
        assert_eq!(code, Some(2), "{wrong}: {said}");
        assert!(said.contains("worker-max-jobs") && said.contains("1..=1000"), "{wrong}: {said}");
    }
}

#[test]
fn settings_that_no_program_can_honour_are_refused_at_start() {
    for (program, setting, wrong) in [
        // A job counts its events in 16 bits.
        (env!("CARGO_BIN_EXE_ingest"), "MAX_BATCH_EVENTS", ["0", "65536"]),
        (env!("CARGO_BIN_EXE_ingest"), "QUEUE_GAME_SHARE", ["0", "101"]),
        // A game's jobs are counted in 23 bits.
        (env!("CARGO_BIN_EXE_ingest"), "QUEUE_MAX_JOBS", ["0", "8388608"]),
        // Without a lease everybody is dead at once.
        (env!("CARGO_BIN_EXE_worker"), "QUEUE_LEASE_SECONDS", ["0", "1000000"]),
        // An api knows a period as open for a second after it was closed.
        (env!("CARGO_BIN_EXE_cron"), "CLOSED_PERIOD_REDIS_TTL", ["0", "9"]),
    ] {
        for value in wrong {
            let output = Command::new(program)
                .env("DATABASE_URL", "postgres://127.0.0.1:1/x")
                .env(setting, value)
                .output()
                .unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            let flag = setting.to_lowercase().replace('_', "-");
            assert!(output.status.code() == Some(2) && said.contains(&flag), "{setting}={value}: {said}");
        }
    }
}

#[test]
fn config_masks_secrets_and_refuses_what_is_unsafe() {
    let output = Command::new(env!("CARGO_BIN_EXE_scoreline"))
        .args(["config", "--offline"])
        .env("DATABASE_URL", "postgres://someone:canary-1@db/x")
        .env("ADMIN_TOKEN", "canary-2")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(!output.status.success());
    assert!(err.contains("ADMIN_TOKEN"), "{err}");
    assert!(out.contains("DATABASE_URL=postgres://someone:***@db/x  # environment"), "{out}");
    assert!(!out.contains("canary") && !err.contains("canary"), "{out}{err}");
}

#[tokio::test]
async fn config_looks_at_the_servers_and_refuses_a_redis_that_evicts_and_a_pool_that_is_too_large() {
    let database = support::postgres::database().await;
    let (good, evicts) = (
        support::redis::redis(),
        support::redis::redis_with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]),
    );
    let ranking_evicts = |ranking: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scoreline"));
        command.args(["config", "--json"]).env("DATABASE_URL", &database.url).env("REDIS_URL", &good.url);
        let output = command.env("REDIS_RANKING_URL", ranking).output().unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.success(), answer["problems"].to_string(), answer["warnings"].to_string())
    };
    let (safe, problems, warnings) = ranking_evicts(&evicts.url);
    assert!(!safe && problems.contains("parts of leaderboards"), "{problems}");
    assert!(warnings.contains("no memory limit"), "{warnings}");
    let (safe, problems, _) = ranking_evicts(&good.url);
    assert!(safe, "one without a limit is not refused: {problems}");
    let config = |redis: &str, pool_max: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scoreline"));
        command.args(["config", "--json"]).env("DATABASE_URL", &database.url).env("REDIS_URL", redis);
        let output = command.env("DB_POOL_MAX", pool_max).output().unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.success(), answer["problems"].to_string())
    };
    assert_eq!(config(&good.url, "4"), (true, "[]".to_owned()));
    let (safe, problems) = config(&evicts.url, "100000");
    assert!(!safe && problems.contains("noeviction") && problems.contains("DB_POOL_MAX is 100000"), "{problems}");
    let (safe, problems) = config("redis://127.0.0.1:1", "4");
    assert!(!safe && problems.contains("cannot be reached"), "{problems}");
}
