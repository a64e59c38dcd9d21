//! Private Postgres and Redis for `scoreline up`, the tests and the benchmark, from the system's packages.
//!
//! Everything lives in one *home* folder. A lock in it keeps a second copy out; what a crashed run left running is
//! recognised by its pid file, checked, and stopped before new services start. Nothing else is ever stopped.

pub mod binaries;
pub mod daemon;
pub mod home;
pub mod port;
pub mod postgres;
pub mod postgres_copy;
pub mod postgres_roles;
pub mod redis;

use std::path::PathBuf;

pub use home::Home;
pub use port::ReservedPort;

/// What to start.
#[derive(Debug, Clone)]
pub struct StackOptions {
    /// The folder that holds everything.
    pub home: PathBuf,
    /// Start a Postgres.
    pub postgres: bool,
    /// Start a Redis.
    pub redis: bool,
    /// `false` only for tests: nothing is forced to disk.
    pub durable: bool,
    /// Connections that Postgres allows.
    pub max_connections: u32,
    /// Let Postgres have copies and stand-bys, which costs WAL.
    pub replicas: bool,
}

/// Why services did not start. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// Another copy uses the folder.
    #[error("another copy runs with {home} (pid {pid}); stop it, or choose another folder with --home")]
    InUse {
        /// The folder.
        home: PathBuf,
        /// Who has it.
        pid: String,
    },
    /// A file or folder cannot be made or read.
    #[error("{what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A program is missing.
    #[error(
        "{program} {needed} was not found; run scripts/install-services, or install it from your system's packages"
    )]
    Missing {
        /// Which one.
        program: &'static str,
        /// Which version.
        needed: &'static str,
    },
    /// A service did not come up.
    #[error("{service} did not start: {reason} (its log: {log})")]
    NotUp {
        /// Which one.
        service: &'static str,
        /// Why.
        reason: String,
        /// Where to read more.
        log: PathBuf,
    },
    /// The machine cannot run it as it stands.
    #[error("{0}")]
    Unusable(String),
}

impl StackError {
    fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File { what, path: path.into(), source }
    }
}

/// Services that run. They outlive this value: call [`Stack::stop`].
#[derive(Debug)]
pub struct Stack {
    home: Home,
    postgres: Option<postgres::PrivatePostgres>,
    redis: Option<redis::PrivateRedis>,
}

impl Stack {
    /// Starts what `options` say in a locked home.
    ///
    /// # Errors
    /// [`StackError`]; what was started before the error is stopped again.
    pub async fn start(options: &StackOptions) -> Result<Self, StackError> {
        let home = Home::lock(&options.home)?;
        let mut stack = Self { home, postgres: None, redis: None };
        match stack.start_services(options).await {
            Ok(()) => Ok(stack),
            Err(error) => {
                stack.stop().await;
                Err(error)
            }
        }
    }

    async fn start_services(&mut self, options: &StackOptions) -> Result<(), StackError> {
        if options.postgres {
            self.postgres = Some(postgres::start(&self.home, options).await?);
        }
        if options.redis {
            self.redis = Some(redis::start(&self.home, options).await?);
        }
        Ok(())
    }

    /// The folder.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Postgres, if one was started.
    pub fn postgres(&self) -> Option<&postgres::PrivatePostgres> {
        self.postgres.as_ref()
    }

    /// How processes reach Postgres, if one was started.
    pub fn database_url(&self) -> Option<&str> {
        self.postgres.as_ref().map(|p| p.url.as_str())
    }

    /// How to reach Redis, if one was started.
    pub fn redis_url(&self) -> Option<&str> {
        self.redis.as_ref().map(|r| r.url.as_str())
    }

    /// kill -9 of Redis, if one was started.
    pub async fn kill_redis(&mut self) {
        if let Some(redis) = &mut self.redis {
            redis.kill().await;
        }
    }

    /// Starts a killed Redis with its port and its data.
    ///
    /// # Errors
    /// [`StackError::NotUp`].
    pub async fn start_redis_again(&mut self) -> Result<(), StackError> {
        match &mut self.redis {
            Some(redis) => redis.start_again().await,
            None => Ok(()),
        }
    }

    /// Stops Postgres as `pg_ctl stop -m immediate`, if one was started.
    pub async fn stop_postgres_immediately(&mut self) {
        if let Some(postgres) = &mut self.postgres {
            postgres.stop_immediately().await;
        }
    }

    /// Starts a stopped Postgres with its port and its data.
    ///
    /// # Errors
    /// [`StackError::NotUp`].
    pub async fn start_postgres_again(&mut self) -> Result<(), StackError> {
        match &mut self.postgres {
            Some(postgres) => postgres.start_again().await,
            None => Ok(()),
        }
    }

    /// Postgres, if one was started, to copy it and to exchange its data.
    pub fn postgres_mut(&mut self) -> Option<&mut postgres::PrivatePostgres> {
        self.postgres.as_mut()
    }

    /// Whether Postgres, if one was started, still runs.
    pub fn postgres_runs(&mut self) -> bool {
        self.postgres.as_mut().is_none_or(|postgres| postgres.daemon.ended().is_none())
    }

    /// Whether Redis, if one was started, still runs.
    pub fn redis_runs(&mut self) -> bool {
        self.redis.as_mut().is_none_or(|redis| redis.daemon.ended().is_none())
    }

    /// Process ids by name, for accounting.
    pub fn pids(&self) -> Vec<(&'static str, u32)> {
        let postgres = self.postgres.as_ref().map(|p| ("postgres", p.daemon.pid()));
        let redis = self.redis.as_ref().map(|r| ("redis", r.daemon.pid()));
        postgres.into_iter().chain(redis).collect()
    }

    /// Stops what was started, cleanly, and gives the folder free.
    pub async fn stop(self) {
        if let Some(redis) = self.redis {
            redis.daemon.stop(redis::STOP).await;
        }
        if let Some(postgres) = self.postgres {
            postgres.daemon.stop(postgres::STOP).await;
        }
        drop(self.home);
    }
}
