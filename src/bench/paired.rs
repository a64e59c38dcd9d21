//! `scoreline bench --against FOLDER`: the programs of two builds by turns (A B, B A, A B, …) on the same services.
//!
//! A machine's speed drifts by more than what a change costs, so only turns that stand next to each other are compared.
//! Each build has a database and a Redis database of its own, made by its own `migrate`: schemas may differ.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use redis::IntoConnectionInfo;
use serde::Serialize;
use serde_json::Value;
use sqlx::{Connection as _, Executor, PgConnection};
use tokio::process::Command;

use super::batch::Mix;
use super::cpu::ByProcess;
use super::interval::{Ratio, Verdict};
use super::load::Target;
use super::report::median;
use super::rig::{Rig, Role, Services};
use super::{BenchError, Options, whole};
use crate::queue::{Queue, Timeouts};
use crate::stack::Stack;
use crate::store::pool::Pool;

/// Processes that are not ours.
const SERVICES: [&str; 2] = ["postgres", "redis"];

/// What is compared in each turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Whole,
    Single,
    Stored,
}

impl Stage {
    fn parse(name: &str) -> Result<Self, BenchError> {
        match name {
            "whole" => Ok(Self::Whole),
            "single" => Ok(Self::Single),
            "stored" => Ok(Self::Stored),
            _ => Err(BenchError::UnknownStage(name.to_owned())),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Single => "single",
            Self::Stored => "stored",
        }
    }

    const fn roles(self) -> &'static [Role] {
        match self {
            Self::Whole | Self::Stored => &[Role::Cron, Role::Ingest, Role::Worker, Role::Api],
            Self::Single => &[Role::Together],
        }
    }
}

/// One figure of two builds.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// The stage.
    pub stage: &'static str,
    /// `ours`: the sum of our processes; `all`: Postgres and Redis too.
    pub of: &'static str,
    /// CPU seconds a million events of this build, turn by turn.
    pub this: Vec<f64>,
    /// The same of the build it is held against.
    pub other: Vec<f64>,
    /// This build's part of the other's.
    pub ratio: Ratio,
    /// What it means.
    pub verdict: Verdict,
}

/// A build under measurement, with a game on its own database.
struct Build {
    rig: Rig,
    pool: Pool,
    queue: Queue,
    target: Target,
}

/// Measures by turns.
///
/// # Errors
/// [`BenchError`].
pub async fn run(stack: &Stack, home: &Path, options: &Options) -> Result<Vec<Comparison>, BenchError> {
    let services = &super::command::services(stack)?;
    let postgres = stack.postgres().ok_or_else(|| BenchError::Services("a service is missing".to_owned()))?;
    make_databases(&postgres.admin_url).await?;
    let other = options.against.clone().unwrap_or_default();
    let named = options.stages.iter().map(|name| Stage::parse(name)).collect::<Result<Vec<_>, _>>()?;
    let stages = if named.is_empty() { vec![Stage::Whole] } else { named };
    let mut this = Build::prepare(services, super::command::own_folder(), "this", 1, home, options).await?;
    let mut other = Build::prepare(services, other, "other", 2, home, options).await?;
    let mut comparisons = Vec::new();
    for stage in stages {
        // Fills caches, and makes entries of most players: not counted.
        this.turn(stage, options).await?;
        other.turn(stage, options).await?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for turn in 0..options.turns {
            tracing::info!(stage = stage.name(), turn, "comparing");
            if turn % 2 == 0 {
                ours.push(this.turn(stage, options).await?);
                theirs.push(other.turn(stage, options).await?);
            } else {
                theirs.push(other.turn(stage, options).await?);
                ours.push(this.turn(stage, options).await?);
            }
        }
        for of in ["ours", "all"] {
            comparisons.extend(compare(stage, of, &ours, &theirs));
        }
    }
    Ok(comparisons)
}

fn compare(stage: Stage, of: &'static str, this: &[ByProcess], other: &[ByProcess]) -> Option<Comparison> {
    let sum = |used: &ByProcess| -> f64 {
        let counted = used.iter().filter(|(name, _)| of == "all" || !SERVICES.contains(name));
        counted.map(|(_, used)| used.cpu_seconds).sum()
    };
    let (this, other): (Vec<f64>, Vec<f64>) = (this.iter().map(sum).collect(), other.iter().map(sum).collect());
    let ratios: Vec<f64> = this.iter().zip(&other).map(|(this, other)| this / other).collect();
    let ratio = Ratio::of(&ratios)?;
    Some(Comparison { stage: stage.name(), of, this, other, ratio, verdict: ratio.verdict() })
}

impl Build {
    async fn prepare(
        services: &Services,
        folder: PathBuf,
        name: &str,
        redis_database: u8,
        home: &Path,
        options: &Options,
    ) -> Result<Self, BenchError> {
        let services = Services {
            database_url: database_url(services, name),
            redis_url: redis_url(services, redis_database)?,
            ..services.clone()
        };
        let program = folder.join("scoreline");
        let run = |arguments: &'static [&'static str]| command(&program, &services, arguments);
        run(&["migrate"]).await?;
        let game: Value = serde_json::from_str(&run(&["game", "create", "bench", "--json"]).await?)
            .map_err(|e| BenchError::Command(format!("what `game create` printed: {e}")))?;
        let key = game["server_key"].as_str().unwrap_or_default().to_owned();
        let board = home.join("bench-board.json");
        std::fs::write(&board, r#"{"slug": "global", "event_type": "game_ended", "score": "/score"}"#)
            .map_err(BenchError::Load)?;
        let path = board.to_string_lossy().into_owned();
        command(&program, &services, &["leaderboard", "apply", "--game", "bench", &path]).await?;
        let pool = sqlx::PgPool::connect(&services.database_url).await.map(Pool::new)?;
        let queue = Queue::connect(&services.redis_url, "sl", "q0", Timeouts::default())
            .await
            .map_err(|e| BenchError::Queue(e.to_string()))?;
        let mut rig = Rig::new(services, folder)?;
        rig.home = home.join(format!("together-{name}"));
        let mix = Mix { events: options.batch, players: options.players, ..Mix::default() };
        let target = Target { address: rig.ingest, key, mix, streams: Arc::default() };
        // Cron publishes the directory, makes the partitions and has the leaderboard live.
        rig.start(Role::Cron).await?;
        super::command::wait_for_live_board(&pool).await?;
        rig.stop_all().await?;
        Ok(Self { rig, pool, queue, target })
    }

    /// Starts the stage's processes, floods them once, stops them.
    async fn turn(&mut self, stage: Stage, options: &Options) -> Result<ByProcess, BenchError> {
        for role in stage.roles() {
            self.rig.start(*role).await?;
        }
        let mut target = self.target.clone();
        if stage == Stage::Stored {
            target.mix.scoring_percent = 0;
        }
        let used = whole::cpu_of_a_flood(&self.rig, &self.pool, &self.queue, &target, options).await;
        self.rig.stop_all().await?;
        used
    }
}

/// A database for each build. The processes' role owns it: a build of before there were two roles knows only one.
async fn make_databases(admin_url: &str) -> Result<(), BenchError> {
    let mut connection = PgConnection::connect(admin_url).await?;
    connection.execute("CREATE DATABASE bench_this OWNER scoreline").await?;
    connection.execute("CREATE DATABASE bench_other OWNER scoreline").await?;
    connection.close().await?;
    Ok(())
}

fn database_url(services: &Services, name: &str) -> String {
    let server = services.database_url.rsplit_once('/').map_or("", |(server, _)| server);
    format!("{server}/bench_{name}")
}

/// The same Redis, another of its numbered databases.
fn redis_url(services: &Services, database: u8) -> Result<String, BenchError> {
    let url = services.redis_url.as_str();
    url.into_connection_info().map_err(|e| BenchError::Queue(e.to_string()))?;
    Ok(format!("{}/{database}", url.trim_end_matches('/')))
}

/// Runs a command of a build and returns what it printed.
async fn command(program: &Path, services: &Services, arguments: &[&str]) -> Result<String, BenchError> {
    let failed =
        |why: &dyn std::fmt::Display| BenchError::Command(format!("{} {}: {why}", program.display(), arguments[0]));
    let output = Command::new(program)
        .args(arguments)
        .env("DATABASE_URL", &services.database_url)
        .env("REDIS_URL", &services.redis_url)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|e| failed(&e))?;
    if !output.status.success() {
        return Err(failed(&String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The table for people.
pub fn table(comparisons: &[Comparison]) -> String {
    let mut out = format!(
        "CPU seconds a million events, by turns; ratio: this build's part of the other's\n\n{:<8} {:<5} {:>8} {:>8} \
         {:>7} {:>17}  verdict\n",
        "stage", "of", "this", "other", "ratio", "95 % interval"
    );
    for c in comparisons {
        out.push_str(&format!(
            "{:<8} {:<5} {:>8.2} {:>8.2} {:>7.3} {:>17}  {} ({} turns)\n",
            c.stage,
            c.of,
            median(&c.this),
            median(&c.other),
            c.ratio.median,
            format!("{:.3} to {:.3}", c.ratio.low, c.ratio.high),
            c.verdict.words(),
            c.this.len()
        ));
    }
    out
}

/// 0: no regression; 3: a regression; 4: something was not measured.
pub fn exit_code(comparisons: &[Comparison]) -> u8 {
    match comparisons.iter().map(|c| c.verdict).max() {
        Some(Verdict::Regression) => 3,
        Some(Verdict::NotMeasured) | None => 4,
        Some(Verdict::NoRegression) => 0,
    }
}
