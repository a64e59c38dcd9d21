//! Everything that a run starts: services, processes, proxies between them, clients.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::accounts::Account;
use super::boards::Board;
use super::command_line::CommandLine;
use super::disk::SmallDisk;
use super::prepare::{Parts, address_in};
use super::proxy::Proxy;
use super::report::Report;
use super::scenario::Scenario;
use super::{ChaosError, Options};
use crate::bench::rig::{Rig, Role};
use crate::queue::Queue;
use crate::runtime::lifecycle::Lifecycle;
use crate::stack::Stack;
use crate::stack::postgres_copy::Copy;
use crate::store::pool::Pool;

/// The game's name.
pub const GAME: &str = "chaos";
/// The name of a game that behaves badly, which the other must not notice.
pub const NUISANCE: &str = "nuisance";
/// The type of event that Postgres refuses in a run: what deserves to be given up.
pub const REFUSED_TYPE: &str = "refused_by_postgres";
/// How long anything may take that has no bound of its own.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a command of the operators' may take.
const COMMAND_WITHIN: Duration = Duration::from_secs(120);

/// The processes of a run, in the order in which they start.
const PROCESSES: [(Role, &str); 7] = [
    (Role::Cron, "cron"),
    (Role::Cron, "cron-b"),
    (Role::Cron, "cron-c"),
    (Role::Worker, "worker"),
    (Role::Worker, "worker-b"),
    (Role::Ingest, "ingest"),
    (Role::Api, "api"),
];

/// A way between two parts, with a proxy on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// Clients to ingest.
    Ingest,
    /// Clients to the api.
    Api,
    /// A role to Redis.
    Redis(Role),
    /// A role to Postgres.
    Postgres(Role),
}

impl Link {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let of_roles = Role::ALL.into_iter().flat_map(|role| {
            let postgres = (role != Role::Ingest).then_some(Self::Postgres(role));
            [Some(Self::Redis(role)), postgres].into_iter().flatten()
        });
        [Self::Ingest, Self::Api].into_iter().chain(of_roles).collect()
    }
}

/// What a run works with.
#[derive(Debug)]
pub struct World {
    /// Private services.
    pub stack: Stack,
    /// The processes.
    pub rig: Rig,
    /// When it plays.
    pub scenario: Scenario,
    /// Postgres, asked directly.
    pub pool: Pool,
    /// Likewise, as the server's superuser.
    pub admin: Pool,
    /// The queue, asked directly.
    pub queue: Queue,
    /// A server key of the game.
    pub key: String,
    /// A server key of the game that behaves badly.
    pub nuisance_key: String,
    /// The leaderboards.
    pub boards: Vec<Board>,
    /// What the run's own probes sent and were told.
    pub probes: Account,
    /// Acknowledged events that Postgres refuses.
    pub deserved_dead: HashSet<Uuid>,
    /// Events that a fault took away with what it put back or emptied; nothing else may be lost.
    pub may_lose: HashSet<Uuid>,
    /// Dead letters that are deserved and decided.
    pub deserved_letters: usize,
    /// Whether boards may go back just now, because what they are made of did.
    pub excused: Arc<AtomicBool>,
    /// A copy of Postgres beside it.
    pub copy: Option<Copy>,
    /// Where the services' data are, if that can be filled.
    pub disk: Option<SmallDisk>,
    /// The process that is stopped for a while.
    pub frozen: Option<String>,
    /// What it has come to so far.
    pub report: Report,
    /// An order to stop.
    pub lifecycle: Lifecycle,
    /// When it was made.
    pub began: Instant,
    proxies: BTreeMap<Link, Proxy>,
    redis: redis::Client,
}

impl World {
    /// Prepares a world on running services: schema, game, boards, proxies. No process runs yet.
    ///
    /// # Errors
    /// [`ChaosError`], with the services, which still run.
    pub async fn new(
        stack: Stack,
        scenario: Scenario,
        seed: u64,
        lifecycle: Lifecycle,
    ) -> Result<Self, (Stack, ChaosError)> {
        match Parts::prepare(&stack, &scenario).await {
            Err(error) => Err((stack, error)),
            Ok(Parts { rig, pool, admin, queue, key, nuisance_key, boards, proxies, redis }) => Ok(Self {
                stack,
                rig,
                scenario,
                pool,
                admin,
                queue,
                key,
                nuisance_key,
                boards,
                probes: Account::default(),
                deserved_dead: HashSet::new(),
                may_lose: HashSet::new(),
                excused: Arc::default(),
                copy: None,
                disk: None,
                deserved_letters: 0,
                frozen: None,
                report: Report { seed, ..Report::default() },
                lifecycle,
                began: Instant::now(),
                proxies,
                redis,
            }),
        }
    }

    /// Starts every process and waits until the boards are live.
    ///
    /// # Errors
    /// [`ChaosError`].
    pub async fn start_all(&mut self) -> Result<(), ChaosError> {
        for (_, name) in PROCESSES {
            self.spawn(name, &[])?;
        }
        for (_, name) in PROCESSES {
            self.ready(name).await?;
        }
        self.until("the boards are live", PATIENCE, async |world| Ok(world.is_quiet().await)).await
    }

    /// The names of a role's processes.
    pub fn named(&self, role: Role) -> Vec<&'static str> {
        PROCESSES.iter().filter(|(r, _)| *r == role).map(|(_, name)| *name).collect()
    }

    /// Every process.
    pub fn all_names(&self) -> Vec<&'static str> {
        PROCESSES.iter().map(|(_, name)| *name).collect()
    }

    /// The role of a process.
    pub fn role_of(&self, name: &str) -> Role {
        PROCESSES.iter().find(|(_, n)| *n == name).map_or(Role::Worker, |(role, _)| *role)
    }

    /// Starts a process, behind its proxies, and waits for nothing.
    ///
    /// # Errors
    /// [`ChaosError::Rig`].
    pub fn spawn(&mut self, name: &str, more: &[(&str, &str)]) -> Result<(), ChaosError> {
        let role = self.role_of(name);
        let through = |url: &str, link: Link| match (self.proxies.get(&link), address_in(url)) {
            (Some(proxy), Ok(direct)) => url.replace(&direct.to_string(), &proxy.address.to_string()),
            _ => url.to_owned(),
        };
        let database = through(&self.rig.services.database_url, Link::Postgres(role));
        let redis = through(&self.rig.services.redis_url, Link::Redis(role));
        let mut environment = vec![("DATABASE_URL", database.as_str()), ("REDIS_URL", redis.as_str())];
        environment.extend_from_slice(more);
        Ok(self.rig.spawn(role, name, &environment)?)
    }

    /// Starts a process again and waits until it is ready.
    ///
    /// # Errors
    /// [`ChaosError::Rig`].
    pub async fn start_again(&mut self, name: &str) -> Result<(), ChaosError> {
        self.report.restarts += 1;
        self.spawn(name, &[])?;
        self.ready(name).await
    }

    /// Waits until a process that was started is ready.
    ///
    /// # Errors
    /// [`ChaosError::Rig`]; [`ChaosError::Interrupted`].
    pub async fn ready(&mut self, name: &str) -> Result<(), ChaosError> {
        tokio::select! {
            () = self.lifecycle.soft.cancelled() => Err(ChaosError::Interrupted),
            ready = self.rig.ready(name) => Ok(ready?),
        }
    }

    /// kill -9.
    ///
    /// # Errors
    /// [`ChaosError::Rig`].
    pub async fn kill(&mut self, name: &str) -> Result<(), ChaosError> {
        *self.report.kills.entry(self.role_of(name).name()).or_default() += 1;
        Ok(self.rig.kill(name).await?)
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// [`ChaosError::Rig`].
    pub fn freeze(&mut self, name: &str) -> Result<(), ChaosError> {
        self.rig.signal(name, Signal::STOP)?;
        self.frozen = Some(name.to_owned());
        Ok(())
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// [`ChaosError::Rig`].
    pub fn thaw(&mut self, name: &str) -> Result<(), ChaosError> {
        self.frozen = None;
        Ok(self.rig.signal(name, Signal::CONT)?)
    }

    /// SIGTERM; it must stop cleanly.
    ///
    /// # Errors
    /// [`ChaosError::Rig`].
    pub async fn terminate(&mut self, name: &str) -> Result<(), ChaosError> {
        let status = self.rig.stop(name).await?;
        if !status.success() {
            self.report.violated(format!("{name} was told to stop and ended with {status}"));
        }
        Ok(())
    }

    /// The proxy on a way.
    pub fn proxy(&self, link: Link) -> Option<&Proxy> {
        self.proxies.get(&link)
    }

    /// Every proxy.
    pub fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        self.proxies.values()
    }

    /// Where clients reach ingest: through a proxy.
    pub fn ingest(&self) -> SocketAddr {
        self.proxy(Link::Ingest).map_or(self.rig.ingest, |proxy| proxy.address)
    }

    /// Where clients reach the api: through a proxy.
    pub fn api(&self) -> SocketAddr {
        self.proxy(Link::Api).map_or(self.rig.api, |proxy| proxy.address)
    }

    /// A new connection to Redis that nothing is wrong with.
    ///
    /// # Errors
    /// [`ChaosError::Redis`].
    pub async fn redis(&self) -> Result<MultiplexedConnection, ChaosError> {
        let config = redis::AsyncConnectionConfig::new()
            .set_response_timeout(Some(Duration::from_secs(20)))
            .set_connection_timeout(Some(Duration::from_secs(5)));
        Ok(self.redis.get_multiplexed_async_connection_with_config(&config).await?)
    }

    /// Whether nothing is under way: no job, no fact, no marker, no recompute. What cannot be asked is not quiet.
    pub async fn is_quiet(&self) -> bool {
        let jobs = self.queue.status().await.map_or(u64::MAX, |status| status.jobs);
        let waiting: Result<bool, sqlx::Error> = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM score_facts) OR EXISTS (SELECT FROM dirty_entries)
                 OR EXISTS (SELECT FROM leaderboard_generations WHERE state = 'building')",
        )
        .fetch_one(&self.pool)
        .await;
        jobs == 0 && waiting.is_ok_and(|waiting| !waiting)
    }

    /// Runs a command of the operators' command line with nothing in its way; its exit code and its JSON.
    ///
    /// # Errors
    /// It cannot be run, or does not end; [`ChaosError::Interrupted`].
    pub async fn operate(&self, arguments: &[&str]) -> Result<(Option<i32>, Value), ChaosError> {
        let command = CommandLine::of(&self.rig.services, &self.scenario)?;
        self.answered("a command", COMMAND_WITHIN, command.run(arguments)).await
    }
}

impl Options {
    /// The seed, or a fresh one.
    pub fn seed_or_new(&self) -> u64 {
        self.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()))
    }
}
