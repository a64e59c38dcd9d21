//! `scoreline bench`: starts what is measured, runs the stages that were asked for, prints the figures.

use crate::store::pool::Pool;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::ExposeSecret;
use serde_json::json;

use super::compare::{self, LimitProcess, Reading};
use super::load::{Connection, Target};
use super::paired::{self, Comparison};
use super::report::{Figure, Report};
use super::rig::{Rig, Role, Services, check_programs};
use super::{BenchError, Options, batch::Mix, grown, latency, pipeline, whole};
use crate::directory::KeyKind;
use crate::domain::board::{LeaderboardSpec, Order};
use crate::domain::ids::Slug;
use crate::domain::ranking_key::decode;
use crate::queue::{Queue, Timeouts};
use crate::runtime::lifecycle::Lifecycle;
use crate::stack::{Stack, StackOptions};
use crate::store::audit_log::Actor;
use crate::store::{games, keys, leaderboards, migrations};

/// Runs the benchmark and prints its report; exit code 1 when it could not be run.
pub async fn run(options: Options) -> ExitCode {
    let folders = [Some(own_folder()), options.against.clone()];
    if let Err(error) = folders.iter().flatten().try_for_each(|folder| check_programs(folder)) {
        return print(Err(error.into()), options.json);
    }
    let home = std::env::temp_dir().join(format!("scoreline-bench-{}", std::process::id()));
    let stack_options = StackOptions {
        home: home.clone(),
        postgres: true,
        redis: true,
        durable: true,
        max_connections: 100,
        replicas: false,
    };
    let lifecycle = Lifecycle::default();
    let outcome = match lifecycle.watch_signals() {
        Err(error) => Err(BenchError::Load(error)),
        Ok(()) => match Stack::start(&stack_options).await {
            Ok(stack) => {
                // Roles and limit servers end with the future that started them.
                let outcome = tokio::select! {
                    outcome = measured(&stack, &home, &options) => outcome,
                    () = lifecycle.soft.cancelled() => Err(BenchError::Interrupted),
                };
                stack.stop().await;
                outcome
            }
            Err(error) => Err(BenchError::Services(error.to_string())),
        },
    };
    if let Err(error) = std::fs::remove_dir_all(&home) {
        tracing::warn!(%error, home = %home.display(), "the benchmark's folder stays behind");
    }
    print(outcome, options.json)
}

/// The folder of the running program: the programs of its build are beside it.
pub fn own_folder() -> PathBuf {
    std::env::current_exe().ok().and_then(|own| own.parent().map(PathBuf::from)).unwrap_or_default()
}

/// What a run prints.
enum Measured {
    Figures(Report),
    Pairs(Vec<Comparison>),
}

async fn measured(stack: &Stack, home: &Path, options: &Options) -> Result<Measured, BenchError> {
    if options.against.is_some() {
        return paired::run(stack, home, options).await.map(Measured::Pairs);
    }
    measure(stack, home, options).await.map(Measured::Figures)
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's output")]
fn print(outcome: Result<Measured, BenchError>, as_json: bool) -> ExitCode {
    match outcome {
        Ok(Measured::Figures(report)) if as_json => println!("{}", json!(report)),
        Ok(Measured::Figures(report)) => print!("{}", report.table()),
        Ok(Measured::Pairs(pairs)) => {
            if as_json {
                println!("{}", json!({ "comparisons": pairs }));
            } else {
                print!("{}", paired::table(&pairs));
            }
            return ExitCode::from(paired::exit_code(&pairs));
        }
        Err(error) => {
            eprintln!("bench: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

async fn measure(stack: &Stack, home: &Path, options: &Options) -> Result<Report, BenchError> {
    let services = services(stack)?;
    let postgres = stack.postgres().ok_or_else(|| BenchError::Services("a service is missing".to_owned()))?;
    let migrated = migrations::update(&postgres.owner_url, &postgres.url).await;
    migrated.map_err(|e| BenchError::Services(e.to_string()))?;
    // Who looks also vacuums and orders checkpoints, which the role of the processes may not.
    let pool = sqlx::PgPool::connect(&postgres.admin_url).await.map(Pool::new)?;
    let key = make_game(&pool).await?;
    let queue = Queue::connect(&services.redis_url, "sl", "q0", Timeouts::default())
        .await
        .map_err(|e| BenchError::Queue(e.to_string()))?;
    let mut rig = Rig::new(services, own_folder())?;
    // What is left there goes with the folder of all.
    rig.home = home.join("together");
    let mix = Mix { events: options.batch, players: options.players, ..Mix::default() };
    let target = Target { address: rig.ingest, key: key.clone(), mix, streams: Arc::default() };
    let mut report =
        Report { conditions: conditions(&pool, &rig.services.redis_url, options).await?, figures: Vec::new() };
    let outcome = stages(&mut rig, &pool, &queue, &target, options, &mut report.figures).await;
    let stopped = rig.stop_all().await;
    outcome?;
    stopped?;
    Ok(report)
}

async fn stages(
    rig: &mut Rig,
    pool: &Pool,
    queue: &Queue,
    target: &Target,
    options: &Options,
    figures: &mut Vec<Figure>,
) -> Result<(), BenchError> {
    let wanted = |stage: &str| options.stages.is_empty() || options.stages.iter().any(|s| s == stage);
    // Cron publishes the directory, makes the partitions and has the leaderboard live before anything is measured.
    rig.start(Role::Cron).await?;
    wait_for_live_board(pool).await?;
    grown::grow(pool, options).await?;
    if wanted("steps") {
        rig.stop("cron").await?;
        figures.extend(pipeline::run(rig, pool, queue, target, options).await?);
        rig.start(Role::Cron).await?;
    }
    if wanted("single") {
        rig.stop("cron").await?;
        rig.start(Role::Together).await?;
        figures.extend(whole::run(rig, pool, queue, target, options, "single", 20.0).await?);
        rig.stop(Role::Together.name()).await?;
        rig.start(Role::Cron).await?;
    }
    for role in [Role::Ingest, Role::Worker, Role::Api] {
        rig.start(role).await?;
    }
    if wanted("whole") {
        figures.extend(whole::run(rig, pool, queue, target, options, "whole", 20.0).await?);
    }
    if wanted("stored") {
        let without = Target { mix: Mix { scoring_percent: 0, ..target.mix }, ..target.clone() };
        figures.extend(whole::run(rig, pool, queue, &without, options, "stored", 15.0).await?);
    }
    if wanted("idle") {
        figures.extend(latency::run(target, rig.api, options).await?);
    }
    if wanted("sustained") {
        figures.extend(whole::sustained(rig, pool, queue, target, options).await?);
    }
    if wanted("read") {
        figures.extend(read(rig, pool, target, options).await?);
    }
    if wanted("rest") {
        figures.extend(whole::rest(rig, pool, options).await?);
    }
    Ok(())
}

/// Players whose standings are read by turns.
const READ_PLAYERS: u32 = 10_000;

/// The top page beside the same bytes from a bare handler; a standing and its neighbours beside bare axum + Redis.
async fn read(rig: &Rig, pool: &Pool, target: &Target, options: &Options) -> Result<Vec<Figure>, BenchError> {
    let generation: Option<i32> = sqlx::query_scalar(
        "SELECT p.generation_id FROM leaderboard_entries e JOIN leaderboard_periods p ON p.id = e.period_id LIMIT 1",
    )
    .fetch_optional(pool)
    .await?;
    let Some(generation) = generation else {
        return Err(BenchError::NotSettled("a stage with scores ran before reading", Duration::ZERO));
    };
    let rank_key = format!("{{sl:b3:{generation}}}:p:0..:rank");
    // Each request is about somebody else, as in a game: nothing is answered from what was just asked.
    let members: Vec<Vec<u8>> = redis::Client::open(rig.services.redis_url.as_str())
        .and_then(|client| client.get_connection())
        .and_then(|mut redis| redis::cmd("ZRANDMEMBER").arg(&rank_key).arg(READ_PLAYERS).query(&mut redis))
        .map_err(|e| BenchError::Queue(e.to_string()))?;
    let top = "/v1/leaderboards/global/entries?limit=100";
    let page = rig.home.with_file_name("page");
    {
        let mut api = Connection::open(rig.api).await.map_err(BenchError::Load)?;
        let (_, body) = api.get(top, &target.key).await.map_err(BenchError::Load)?;
        std::fs::write(&page, body).map_err(BenchError::Load)?;
    }
    let limit = LimitProcess::start(rig, &rank_key, Some(&page)).await?;
    let player =
        |member: &Vec<u8>| decode(member, Order::Descending).map(|(_, player)| player.to_owned()).unwrap_or_default();
    let of_players = |path: &dyn Fn(String) -> String| members.iter().map(|member| path(player(member))).collect();
    let of_members =
        |path: &str| members.iter().map(|member| format!("{path}/{}", URL_SAFE_NO_PAD.encode(member))).collect();
    let one = |path: &str| vec![path.to_owned()];
    let readings = [
        Reading {
            name: "top 100; limit: the same bytes",
            paths: one(top),
            limit_paths: one("/page"),
            target: "≥ 85 %",
        },
        Reading {
            name: "rank; limit: bare axum + Redis",
            paths: of_players(&|player| format!("/v1/leaderboards/global/entries/{player}")),
            limit_paths: of_members("/rank"),
            target: "≥ 80 %",
        },
        Reading {
            name: "around; beside less: bare axum + Redis, rank only",
            paths: of_players(&|player| format!("/v1/leaderboards/global/entries/{player}/around?limit=10")),
            limit_paths: of_members("/rank"),
            target: "",
        },
        Reading {
            name: "around; limit: bare axum + Redis, the entries too",
            paths: of_players(&|player| format!("/v1/leaderboards/global/entries/{player}/around?limit=10")),
            limit_paths: of_members("/around"),
            target: "≥ 80 %",
        },
    ];
    let figures = compare::read(rig, &target.key, &limit, &readings, options).await;
    limit.stop().await;
    figures
}

/// Where the private services are.
///
/// # Errors
/// One of them was not started.
pub fn services(stack: &Stack) -> Result<Services, BenchError> {
    let missing = || BenchError::Services("a service is missing".to_owned());
    let pid = |name: &str| stack.pids().into_iter().find(|(n, _)| *n == name).map(|(_, pid)| pid);
    Ok(Services {
        database_url: stack.database_url().ok_or_else(missing)?.to_owned(),
        postgres_pid: pid("postgres").ok_or_else(missing)?,
        redis_url: stack.redis_url().ok_or_else(missing)?.to_owned(),
        redis_pid: pid("redis").ok_or_else(missing)?,
    })
}

/// A game with one leaderboard and a server key, to which the per-address limit does not apply.
async fn make_game(pool: &Pool) -> Result<String, BenchError> {
    let setup = |what: &str| BenchError::Services(format!("the game could not be made: {what}"));
    let slug = Slug::parse("bench").map_err(|e| setup(&e.to_string()))?;
    let mut transaction = pool.begin().await?;
    let game = games::create(&mut transaction, &slug, "Bench", Actor::CommandLine)
        .await?
        .ok_or_else(|| setup("its name is taken"))?;
    let (_, key) =
        keys::create(&mut transaction, game.id, KeyKind::Server, None, Actor::CommandLine, rand::random()).await?;
    let spec = json!({"slug": "global", "event_type": "game_ended", "score": "/score"});
    let spec: LeaderboardSpec = serde_json::from_value(spec).map_err(|e| setup(&e.to_string()))?;
    leaderboards::apply(&mut transaction, game.id, &spec, true, Actor::CommandLine)
        .await
        .map_err(|e| setup(&e.to_string()))?;
    transaction.commit().await?;
    Ok(key.expose_secret().to_owned())
}

/// How long a new leaderboard may take to become live before the benchmark gives up.
const LIVE_WITHIN: Duration = Duration::from_secs(30);

/// Waits until the one leaderboard is live.
///
/// # Errors
/// [`BenchError::NotSettled`], or Postgres failed.
pub async fn wait_for_live_board(pool: &Pool) -> Result<(), BenchError> {
    let started = tokio::time::Instant::now();
    while started.elapsed() < LIVE_WITHIN {
        let live: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM leaderboards WHERE live_generation_id IS NOT NULL)")
                .fetch_one(pool)
                .await?;
        if live {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(BenchError::NotSettled("the leaderboard is live", LIVE_WITHIN))
}

async fn conditions(pool: &Pool, redis_url: &str, options: &Options) -> Result<Vec<(String, String)>, BenchError> {
    let postgres: String = sqlx::query_scalar(
        "SELECT concat(current_setting('server_version'), string_agg(concat(', ', name, ' ', current_setting(name)), ''))
           FROM unnest(ARRAY['fsync', 'synchronous_commit', 'shared_buffers', 'wal_level', 'checkpoint_timeout',
                             'max_wal_size', 'wal_compression']) AS name",
    )
    .fetch_one(pool)
    .await?;
    let redis = redis_conditions(redis_url).map_err(|e| BenchError::Queue(e.to_string()))?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let condition = |name: &str, value: String| (name.to_owned(), value);
    Ok(vec![
        condition("machine", format!("{cores} cores, load generator on the same machine, loopback")),
        condition("postgres", postgres),
        condition("redis", redis),
        condition(
            "load",
            format!(
                "{} events a batch of about 340 bytes each, {} connections ({} that read), {} events a round, {} rounds, {} players, \
                 a quarter of the events carry a score; stored before: a score of every player, {} events more",
                options.batch,
                options.connections,
                options.read_connections,
                options.events,
                options.rounds,
                options.players,
                options.history
            ),
        ),
    ])
}

fn redis_conditions(url: &str) -> redis::RedisResult<String> {
    let mut redis = redis::Client::open(url)?.get_connection()?;
    let server: redis::InfoDict = redis::cmd("INFO").arg("server").query(&mut redis)?;
    let mut text = server.get::<String>("redis_version").unwrap_or_default();
    for name in ["appendonly", "appendfsync", "auto-aof-rewrite-min-size"] {
        let value: Vec<String> = redis::cmd("CONFIG").arg("GET").arg(name).query(&mut redis)?;
        text.push_str(&format!(", {}", value.join(" ")));
    }
    Ok(text)
}
