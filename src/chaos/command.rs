//! `scoreline chaos`: starts the world, follows the plan, judges, reports, and leaves nothing running.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's output")]

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::accounts::Load;
use super::disk::SmallDisk;
use super::editor::Editor;
use super::habits::Habits;
use super::nuisance::Nuisance;
use super::plan::{Kind, Plan};
use super::report::Report;
use super::scenario::Scenario;
use super::watcher::Watcher;
use super::world::World;
use super::{ChaosError, Options};
use crate::runtime::lifecycle::Lifecycle;
use crate::stack::{Stack, StackOptions};

/// Whether this build has crash points and clocks that can be set.
const FAILPOINTS: bool = cfg!(feature = "failpoints");
/// What of the run's time is kept for the end: quiet, comparing, stopping.
const ENDING: Duration = Duration::from_secs(12);
/// How much of a schedule is printed.
const PLANNED: usize = 60;
/// Connections that Postgres allows: few enough to be used up.
const CONNECTIONS: u32 = 60;

/// Runs chaos and prints what it came to; exit code 1 when a promise was broken or the run could not go on.
pub async fn run(options: Options) -> ExitCode {
    let seed = options.seed_or_new();
    let replay = replay(&options, seed);
    // First of all, so that it is known whatever happens.
    eprintln!("seed {seed}; again: {replay}");
    let mut kinds = match kinds(&options.only, seed, FAILPOINTS) {
        Ok(kinds) => kinds,
        Err(problem) => {
            eprintln!("chaos: {problem}");
            return ExitCode::from(2);
        }
    };
    if options.plan {
        for step in Plan::new(seed, kinds).take(PLANNED) {
            let (pause, kind) = (step.pause, step.kind.name());
            println!("{pause:>8.1?}  {kind}{}", if step.rough { ", rough" } else { "" });
        }
        return ExitCode::SUCCESS;
    }
    let lifecycle = Lifecycle::default();
    if let Err(error) = lifecycle.watch_signals() {
        eprintln!("chaos: {error}");
        return ExitCode::FAILURE;
    }
    let home = std::env::temp_dir().join(format!("scoreline-chaos-{}-{seed}", std::process::id()));
    let mut skipped = skipped();
    let disk = if kinds.contains(&Kind::DiskFull) { SmallDisk::mount(&home) } else { None };
    if disk.is_none() && kinds.contains(&Kind::DiskFull) {
        skipped.push(Kind::DiskFull.name());
        kinds.retain(|kind| *kind != Kind::DiskFull);
    }
    if kinds.is_empty() {
        eprintln!("chaos: no disk can be mounted here");
        return ExitCode::from(2);
    }
    let stack_options = StackOptions {
        home: home.clone(),
        postgres: true,
        redis: true,
        durable: true,
        max_connections: CONNECTIONS,
        replicas: true,
    };
    let stack = match Stack::start(&stack_options).await {
        Ok(stack) => stack,
        Err(error) => {
            eprintln!("chaos: {error}");
            return ExitCode::FAILURE;
        }
    };
    let began = Instant::now();
    let (report, disk, outcome) = in_world(stack, disk, &options, seed, kinds, &lifecycle).await;
    let mut report = Report {
        replay,
        minutes: options.minutes,
        build: if cfg!(debug_assertions) { "debug" } else { "release" },
        skipped,
        took_seconds: began.elapsed().as_secs_f64(),
        ..report
    };
    report.error = outcome.as_ref().err().map(ToString::to_string);
    let clean = outcome.is_ok() && report.violations.is_empty();
    // Nobody needs the logs of a run that was interrupted and had found nothing.
    let unwanted = report.violations.is_empty() && matches!(outcome, Ok(()) | Err(ChaosError::Interrupted));
    clean_up(&home, disk, unwanted, &mut report);
    if options.json {
        println!("{}", json!(report));
    } else {
        print!("{}", report.table());
    }
    match outcome {
        Err(error) => {
            eprintln!("chaos: the run could not go on: {error}; again: {}", report.replay);
            ExitCode::FAILURE
        }
        Ok(()) if clean => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
    }
}

fn replay(options: &Options, seed: u64) -> String {
    let mut line = format!("scoreline chaos --seed {seed} --minutes {}", options.minutes);
    if !options.only.is_empty() {
        line.push_str(&format!(" --only {}", options.only.join(",")));
    }
    line.push_str(&format!(" --clients {} --pause-millis {}", options.clients, options.pause_millis));
    line
}

/// The faults that were asked for and that this build can do; the error says why there is none.
fn kinds(only: &[String], seed: u64, failpoints: bool) -> Result<Vec<Kind>, String> {
    let named = |name: &String| Kind::ALL.iter().copied().find(|kind| kind.name() == *name).ok_or(name.clone());
    let of_seed = Kind::ALL.iter().copied().filter(|kind| kind.is_of(seed));
    let wanted: Result<Vec<Kind>, String> =
        if only.is_empty() { Ok(of_seed.collect()) } else { only.iter().map(named).collect() };
    let wanted = wanted.map_err(|unknown| format!("there is no fault called {unknown:?}"))?;
    let possible: Vec<Kind> = wanted.into_iter().filter(|kind| failpoints || !kind.needs_failpoints()).collect();
    if possible.is_empty() {
        return Err("only a build with the feature `failpoints` can do that".to_owned());
    }
    Ok(possible)
}

fn skipped() -> Vec<&'static str> {
    Kind::ALL.iter().filter(|kind| !FAILPOINTS && kind.needs_failpoints()).map(|kind| kind.name()).collect()
}

/// Runs in a world of its own and takes it down, whatever happened.
async fn in_world(
    stack: Stack,
    disk: Option<SmallDisk>,
    options: &Options,
    seed: u64,
    kinds: Vec<Kind>,
    lifecycle: &Lifecycle,
) -> (Report, Option<SmallDisk>, Result<(), ChaosError>) {
    let ends = Instant::now() + Duration::from_secs_f64(options.minutes * 60.0).saturating_sub(ENDING);
    let scenario = Scenario::new(seed, (options.minutes * 60.0) as i64, FAILPOINTS);
    let name = scenario.name();
    let made = World::new(stack, scenario, seed, lifecycle.clone()).await;
    let mut world = match made {
        Ok(world) => world,
        Err((stack, error)) => {
            stack.stop().await;
            return (Report { seed, ..Report::default() }, disk, Err(error));
        }
    };
    world.report.scenario = name;
    world.disk = disk;
    let outcome = disturb_and_judge(&mut world, options, seed, kinds, ends).await;
    for name in world.rig.names() {
        // One that is frozen, should the run have ended there, cannot hear an order to stop.
        let _ = world.rig.signal(&name, rustix::process::Signal::CONT);
        if let Err(error) = world.terminate(&name).await {
            world.report.violated(error.to_string());
        }
    }
    let World { stack, report, copy, disk, .. } = world;
    if let Some(copy) = copy {
        let _ = copy.remove().await;
    }
    stack.stop().await;
    (report, disk, outcome)
}

async fn disturb_and_judge(
    world: &mut World,
    options: &Options,
    seed: u64,
    kinds: Vec<Kind>,
    ends: Instant,
) -> Result<(), ChaosError> {
    world.start_all().await?;
    let habits = Habits {
        events: 20,
        any_length: true,
        players: 200,
        clock: world.scenario.clock.clone(),
        moments: world.scenario.moments.clone(),
        patience: Duration::from_secs(3),
        impatient: 0.1,
        gives_up: 0.15,
        at_once: 0.1,
        pause: Duration::from_millis(options.pause_millis),
    };
    let load = Load::with(world.ingest(), &world.key, options.clients, &habits, seed);
    let watcher = Watcher::start(world.api(), world.key.clone(), world.excused.clone());
    let (editor, nuisance) = (Editor::start(world, seed)?, Nuisance::start(world, seed)?);
    let disturbed = match disturb(world, seed, kinds, ends).await {
        // While clients still send.
        Ok(()) => world.each_worker_works().await,
        ended => ended,
    };
    let mut account = std::mem::take(&mut world.probes);
    // After an interruption something may be down for good.
    let accounts = if disturbed.is_ok() { load.stop().await } else { load.abandon().await };
    for one in accounts {
        account.add(one);
    }
    let seen = watcher.stop().await;
    world.report.edits = editor.stop().await;
    world.report.violations.extend(nuisance.stop().await);
    world.report.requests.sent = account.requests;
    world.report.requests.unanswered = account.unanswered;
    world.report.requests.refused = account.refused;
    world.report.requests.reads = seen.pages;
    world.report.violations.extend(account.wrong.drain(..).chain(seen.wrong));
    disturbed?;
    world.find_the_dead().await?;
    world.edit_for_good(seed as u32 % 8).await?;
    world.judge(&account).await?;
    world.find_the_dead().await
}

async fn disturb(world: &mut World, seed: u64, kinds: Vec<Kind>, ends: Instant) -> Result<(), ChaosError> {
    for step in Plan::new(seed, kinds) {
        if Instant::now() >= ends {
            break;
        }
        let (kind, began) = (step.kind.name(), Instant::now());
        let before = world.report.violations.len();
        world.take(&step).await?;
        let took = began.elapsed().as_secs_f64();
        eprintln!(
            "{:>7.1} s  {kind} took {took:.1} s{}",
            world.began.elapsed().as_secs_f64(),
            if step.rough { ", rough" } else { "" }
        );
        for violation in &world.report.violations[before..] {
            eprintln!("           NOT AS PROMISED: {violation}");
        }
    }
    Ok(())
}

/// Removes the run's folder, or only what is large in it. What is kept of a disk of its own is the logs, elsewhere.
fn clean_up(home: &Path, disk: Option<SmallDisk>, all: bool, report: &mut Report) {
    let elsewhere = home.with_extension("logs");
    let on_disk = disk.is_some();
    if on_disk && !all {
        match copy_files(home, &elsewhere) {
            Ok(()) => report.logs = Some(elsewhere),
            Err(error) => eprintln!("chaos: the logs could not be kept: {error}"),
        }
    }
    drop(disk);
    let removed = if all || on_disk {
        std::fs::remove_dir_all(home)
    } else {
        report.logs = Some(home.to_owned());
        let _ = std::fs::remove_dir_all(home.join("redis"));
        std::fs::remove_dir_all(home.join("postgres"))
    };
    if let Err(error) = removed {
        eprintln!("chaos: {} stays behind: {error}", home.display());
    }
}

fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_that_nobody_knows_or_this_build_cannot_do_are_refused() {
        let kinds = |only: &[&str], failpoints| {
            kinds(&only.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), 2, failpoints)
        };
        let of_seed: Vec<Kind> = Kind::ALL.iter().copied().filter(|kind| kind.is_of(2)).collect();
        assert_eq!(kinds(&[], true), Ok(of_seed));
        assert_eq!(kinds(&["redis-emptied"], true), Ok(vec![Kind::RedisEmptied]));
        assert_eq!(kinds(&["crash-point"], true), Ok(vec![Kind::CrashPoint]));
        assert_eq!(kinds(&["crash-point", "kill-api"], false), Ok(vec![Kind::KillApi]));
        assert!(kinds(&["crash-point", "clock-jump"], false).unwrap_err().contains("failpoints"));
        assert!(kinds(&["redis-kil"], true).unwrap_err().contains("redis-kil"));
    }

    #[test]
    fn nothing_differs_is_only_said_of_what_was_compared() {
        let mut report = Report { error: Some("interrupted".to_owned()), ..Report::default() };
        assert!(report.table().contains("NOT COMPARED: interrupted") && !report.table().contains("nothing differs"));
        report = Report { judged: true, ..Report::default() };
        assert!(report.table().contains("nothing differs"));
        report.violated("something");
        assert!(report.table().contains("NOT AS PROMISED: something") && !report.table().contains("nothing differs"));
    }
}
