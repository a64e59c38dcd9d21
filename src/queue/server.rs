//! What kind of Redis answers: how it persists is part of what a `202` promises and is shown by `/readyz`; one that
//! holds the queue or leaderboards must not evict.

use std::collections::HashMap;
use std::fmt;

use redis::aio::ConnectionLike;
use redis::{ErrorKind, RedisResult};

use super::scripts::MAY_WRITE;
use crate::domain::server_versions::MIN_REDIS;
use crate::redis_connection::{Connection, Timeouts};

/// How a Redis persists: the loss window of an acknowledged batch. Ordered from the safest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

impl fmt::Display for Persistence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AofAlways => "AOF, appendfsync always",
            Self::AofEverySecond => "AOF, appendfsync everysec",
            Self::AofNoSync => "AOF, appendfsync no",
            Self::Aof => "AOF, appendfsync unknown",
            Self::NotDurable => "no AOF: a crash loses acknowledged batches",
        })
    }
}

/// What was found: one server, or the worst of what a cluster's nodes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerReport {
    /// For example `7.0.15`.
    pub version: String,
    /// Changes with every start of the server.
    pub run_id: String,
    /// For example `noeviction`.
    pub maxmemory_policy: String,
    /// Bytes it may use; 0: no limit.
    pub maxmemory: u64,
    /// Bytes in use.
    pub used_memory: u64,
    /// How it persists.
    pub persistence: Persistence,
}

impl ServerReport {
    /// What makes this server unfit for the job queue, if anything does.
    pub fn unsafe_for_queue(&self) -> Option<String> {
        self.evicts("queued jobs").or_else(|| self.too_old())
    }

    /// What makes this server unfit for leaderboards, if anything does: of a board of which a part was evicted nobody
    /// can tell what is left.
    pub fn unsafe_for_ranking(&self) -> Option<String> {
        self.evicts("parts of leaderboards").or_else(|| self.too_old())
    }

    fn evicts(&self, what: &str) -> Option<String> {
        let policy = &self.maxmemory_policy;
        (policy != "noeviction")
            .then(|| format!("Redis may evict {what} (maxmemory-policy {policy}): set it to noeviction"))
    }

    /// What nobody must mend and somebody should: without a limit it grows until the system ends it.
    pub fn warning(&self) -> Option<&'static str> {
        (self.maxmemory == 0).then_some("no memory limit (set maxmemory)")
    }

    /// Whether the server is older than the scripts need.
    pub fn too_old(&self) -> Option<String> {
        let major = self.version.split('.').next().and_then(|n| n.parse::<u32>().ok());
        major
            .is_some_and(|major| major < MIN_REDIS)
            .then(|| format!("Redis {} is too old: {MIN_REDIS} or newer is needed", self.version))
    }

    /// Share of `maxmemory` in use, 0 without a limit.
    pub fn memory_share(&self) -> f64 {
        if self.maxmemory == 0 { 0.0 } else { self.used_memory as f64 / self.maxmemory as f64 }
    }

    fn worse(self, other: Self) -> Self {
        let persistence = self.persistence.max(other.persistence);
        let fuller = if self.memory_share() >= other.memory_share() { &self } else { &other };
        let (maxmemory, used_memory) = (fuller.maxmemory, fuller.used_memory);
        let base = if other.unsafe_for_queue().is_some() && self.unsafe_for_queue().is_none() { other } else { self };
        Self { persistence, maxmemory, used_memory, ..base }
    }
}

impl fmt::Display for ServerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis {}, {}, {}", self.version, self.persistence, self.maxmemory_policy)?;
        self.warning().map_or(Ok(()), |warning| write!(f, ", {warning}"))
    }
}

/// Asks the server; of a cluster every node that the URL names and that can be reached.
///
/// # Errors
/// Redis (of a cluster: every node) cannot be reached.
pub async fn inspect(connection: &Connection) -> RedisResult<ServerReport> {
    if !connection.is_cluster() {
        return report_of(connection.clone()).await;
    }
    let mut worst: Option<ServerReport> = None;
    let mut failure = (ErrorKind::InvalidClientConfig, "no node in the URL").into();
    for client in connection.nodes() {
        match report_of_node(client, connection.timeouts()).await {
            Ok(report) => {
                worst = Some(match worst {
                    None => report,
                    Some(other) => other.worse(report),
                });
            }
            // A node that is down has been replaced, or the queue's own calls say what is missing.
            Err(error) => failure = error,
        }
    }
    worst.ok_or(failure)
}

/// Likewise, and asks whether a script that writes would be let in, without writing. `key`: any of the slot
/// that is meant.
///
/// # Errors
/// Redis cannot be reached, or takes no writes: `READONLY`, `MISCONF`, `NOREPLICAS`, `NOPERM`.
pub async fn inspect_writable(connection: &Connection, key: &str) -> RedisResult<ServerReport> {
    let report = inspect(connection).await?;
    MAY_WRITE.keys([key]).run::<i64>(&mut connection.clone()).await?;
    Ok(report)
}

async fn report_of_node(client: &redis::Client, timeouts: Timeouts) -> RedisResult<ServerReport> {
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timeouts.connect))
        .set_response_timeout(Some(timeouts.response));
    report_of(client.get_multiplexed_async_connection_with_config(&config).await?).await
}

async fn report_of(mut connection: impl ConnectionLike + Clone + Send) -> RedisResult<ServerReport> {
    // Asked together: every process asks for ever, and at rest it is the round trips that cost.
    let (info, mut other) = (redis::cmd("INFO"), connection.clone());
    let (text, fsync) = tokio::join!(info.query_async::<String>(&mut connection), fsync(&mut other));
    let text = text?;
    let info: HashMap<&str, &str> = text.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
    let field = |name: &str| info.get(name).copied().unwrap_or_default();
    let persistence = if field("aof_enabled") == "1" { fsync } else { Persistence::NotDurable };
    Ok(ServerReport {
        version: field("redis_version").to_owned(),
        run_id: field("run_id").to_owned(),
        maxmemory_policy: field("maxmemory_policy").to_owned(),
        maxmemory: field("maxmemory").parse().unwrap_or_default(),
        used_memory: field("used_memory").parse().unwrap_or_default(),
        persistence,
    })
}

/// Hosted servers often refuse `CONFIG`; then only "AOF" is known, which is no error.
async fn fsync(connection: &mut (impl ConnectionLike + Send)) -> Persistence {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg("appendfsync");
    let found: RedisResult<HashMap<String, String>> = command.query_async(connection).await;
    match found.ok().and_then(|f| f.get("appendfsync").cloned()).as_deref() {
        Some("always") => Persistence::AofAlways,
        Some("everysec") => Persistence::AofEverySecond,
        Some("no") => Persistence::AofNoSync,
        _ => Persistence::Aof,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(version: &str, policy: &str, persistence: Persistence, used_memory: u64) -> ServerReport {
        ServerReport {
            version: version.to_owned(),
            run_id: version.to_owned(),
            maxmemory_policy: policy.to_owned(),
            maxmemory: 100,
            used_memory,
            persistence,
        }
    }

    #[test]
    fn a_cluster_is_as_safe_as_its_worst_node() {
        let good = report("7.2.1", "noeviction", Persistence::AofAlways, 90);
        let evicts = report("7.2.2", "allkeys-lru", Persistence::AofEverySecond, 10);
        for worst in [good.clone().worse(evicts.clone()), evicts.worse(good)] {
            assert!(worst.unsafe_for_queue().unwrap().contains("allkeys-lru"));
            assert_eq!((worst.persistence, worst.used_memory), (Persistence::AofEverySecond, 90));
        }
    }

    #[test]
    fn a_redis_without_a_memory_limit_is_said() {
        let mut found = report("7.2.1", "noeviction", Persistence::AofAlways, 90);
        assert_eq!((found.warning(), found.to_string().contains("memory")), (None, false));
        found.maxmemory = 0;
        assert!(found.to_string().ends_with("noeviction, no memory limit (set maxmemory)"), "{found}");
        assert_eq!(found.unsafe_for_queue(), None, "it is the default, and works");
    }

    #[test]
    fn a_redis_that_evicts_is_unfit_for_leaderboards_too() {
        let found = report("7.2.1", "volatile-ttl", Persistence::NotDurable, 0);
        assert!(found.unsafe_for_ranking().unwrap().contains("parts of leaderboards (maxmemory-policy volatile-ttl)"));
        assert!(report("6.2.1", "noeviction", Persistence::Aof, 0).unsafe_for_ranking().unwrap().contains("too old"));
    }

    #[test]
    fn a_redis_older_than_the_scripts_is_refused() {
        assert!(report("6.2.14", "noeviction", Persistence::Aof, 0).unsafe_for_queue().unwrap().contains("too old"));
        assert_eq!(report("7.0.0", "noeviction", Persistence::Aof, 0).unsafe_for_queue(), None);
        assert_eq!(report("10.0.0", "allkeys-lru", Persistence::Aof, 0).too_old(), None);
    }
}
