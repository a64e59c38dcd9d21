//! What kind of Redis holds the queue: it must not evict, and how it persists is part of what a `202` promises.

use std::collections::HashMap;

use super::{Queue, QueueError};

/// How a Redis persists; the loss window of an acknowledged batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// AOF, synced before each answer: nothing acknowledged is lost.
    AofAlways,
    /// AOF, synced each second: about a second is lost with the machine's power.
    AofEverySecond,
    /// AOF, synced when the operating system likes.
    AofNoSync,
    /// AOF, and the server does not tell how it syncs.
    Aof,
    /// Snapshots at most: minutes are lost when Redis ends.
    NotDurable,
}

impl Persistence {
    /// Its name in `/readyz` and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AofAlways => "aof-always",
            Self::AofEverySecond => "aof-everysec",
            Self::AofNoSync => "aof-no",
            Self::Aof => "aof",
            Self::NotDurable => "none",
        }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerReport {
    /// For example `7.0.15`.
    pub version: String,
    /// Changes with every start of the server.
    pub run_id: String,
    /// For example `noeviction`.
    pub maxmemory_policy: String,
    /// Bytes; 0: no limit.
    pub maxmemory: u64,
    /// Bytes in use.
    pub used_memory: u64,
    /// How it persists; the weakest of a cluster's nodes.
    pub persistence: Persistence,
}

impl ServerReport {
    /// Whether the server may throw jobs away, and why.
    pub fn refusal(&self) -> Option<String> {
        (self.maxmemory_policy != "noeviction").then(|| {
            format!(
                "the queue's Redis has maxmemory-policy {}, which throws acknowledged jobs away; set it to noeviction",
                self.maxmemory_policy
            )
        })
    }

    /// Share of `maxmemory` in use, 0 without a limit.
    pub fn memory_share(&self) -> f64 {
        if self.maxmemory == 0 { 0.0 } else { self.used_memory as f64 / self.maxmemory as f64 }
    }
}

impl Queue {
    /// Looks at the server (of a cluster: at every node of the URL; the report is the worst of each).
    ///
    /// # Errors
    /// Redis cannot be reached.
    pub async fn inspect_server(&self) -> Result<ServerReport, QueueError> {
        let mut worst: Option<ServerReport> = None;
        for client in self.connection().nodes() {
            let report = inspect(client, self.connection().timeouts()).await?;
            worst = Some(match worst {
                None => report,
                Some(other) => worse(other, report),
            });
        }
        worst.ok_or_else(|| QueueError::Redis((redis::ErrorKind::InvalidClientConfig, "no node in the URL").into()))
    }
}

fn worse(a: ServerReport, b: ServerReport) -> ServerReport {
    let (a_bad, b_bad) = (a.refusal().is_some(), b.refusal().is_some());
    let persistence = if a.persistence as u8 >= b.persistence as u8 { a.persistence } else { b.persistence };
    let fuller = if a.memory_share() >= b.memory_share() { &a } else { &b };
    let (maxmemory, used_memory) = (fuller.maxmemory, fuller.used_memory);
    let base = if b_bad && !a_bad { b } else { a };
    ServerReport { persistence, maxmemory, used_memory, ..base }
}

async fn inspect(client: &redis::Client, timeouts: super::Timeouts) -> Result<ServerReport, QueueError> {
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timeouts.connect))
        .set_response_timeout(Some(timeouts.response));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let text: String = redis::cmd("INFO").query_async(&mut connection).await?;
    let info: HashMap<&str, &str> = text.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
    let field = |name: &str| info.get(name).copied().unwrap_or_default();
    let persistence = if field("aof_enabled") == "1" {
        // Hosted servers may refuse CONFIG; then only "aof" is known.
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg("appendfsync");
        let found: redis::RedisResult<HashMap<String, String>> = command.query_async(&mut connection).await;
        match found.ok().and_then(|f| f.get("appendfsync").cloned()).as_deref() {
            Some("always") => Persistence::AofAlways,
            Some("everysec") => Persistence::AofEverySecond,
            Some("no") => Persistence::AofNoSync,
            _ => Persistence::Aof,
        }
    } else {
        Persistence::NotDurable
    };
    Ok(ServerReport {
        version: field("redis_version").to_owned(),
        run_id: field("run_id").to_owned(),
        maxmemory_policy: field("maxmemory_policy").to_owned(),
        maxmemory: field("maxmemory").parse().unwrap_or_default(),
        used_memory: field("used_memory").parse().unwrap_or_default(),
        persistence,
    })
}
