//! What a Redis server says of itself: version, persistence, eviction. Checked at start and shown by `/readyz`, because
//! what a `202` promises depends on it.

use redis::{FromRedisValue, InfoDict, RedisError, RedisResult, Value};

use super::connection::Connection;

/// Oldest major version that has what the scripts use.
pub const MIN_MAJOR_VERSION: u32 = 7;

/// How a server keeps what it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Persistence {
    /// Append-only file; the text is its fsync policy, `None` where the server does not tell.
    Aof(Option<String>),
    /// Snapshots only: a crash loses what came after the last.
    Snapshots,
}

/// One server (of a cluster: the first).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// For example `7.0.15`.
    pub version: String,
    /// Changes with every restart.
    pub run_id: String,
    /// What survives a crash.
    pub persistence: Persistence,
    /// `maxmemory-policy`; a queue needs `noeviction`.
    pub eviction: String,
    /// Bytes it may use; 0: no bound.
    pub maxmemory: u64,
}

impl ServerFacts {
    /// What makes this server unfit for the job queue, if anything does.
    pub fn unsafe_for_queue(&self) -> Option<String> {
        if self.eviction != "noeviction" {
            return Some(format!(
                "Redis may evict queued jobs (maxmemory-policy {}): set it to noeviction",
                self.eviction
            ));
        }
        self.too_old()
    }

    /// Whether the server is older than the scripts need.
    pub fn too_old(&self) -> Option<String> {
        let major = self.version.split('.').next().and_then(|n| n.parse::<u32>().ok());
        major
            .is_some_and(|major| major < MIN_MAJOR_VERSION)
            .then(|| format!("Redis {} is too old: {MIN_MAJOR_VERSION} or newer is needed", self.version))
    }
}

impl std::fmt::Display for ServerFacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redis {}, ", self.version)?;
        match &self.persistence {
            Persistence::Aof(Some(fsync)) => write!(f, "AOF, appendfsync {fsync}")?,
            Persistence::Aof(None) => f.write_str("AOF, appendfsync unknown")?,
            Persistence::Snapshots => f.write_str("no AOF: a crash loses acknowledged batches")?,
        }
        write!(f, ", {}", self.eviction)
    }
}

/// Asks the server.
///
/// # Errors
/// Redis cannot be reached or answers something else.
pub async fn facts(connection: &Connection) -> RedisResult<ServerFacts> {
    let mut connection = connection.clone();
    let info: InfoDict = first(redis::cmd("INFO").query_async(&mut connection).await?)?;
    let get = |key: &str| info.get::<String>(key).unwrap_or_default();
    let persistence = if get("aof_enabled") == "1" {
        Persistence::Aof(fsync_policy(&mut connection).await)
    } else {
        Persistence::Snapshots
    };
    Ok(ServerFacts {
        version: get("redis_version"),
        run_id: get("run_id"),
        persistence,
        eviction: get("maxmemory_policy"),
        maxmemory: info.get("maxmemory").unwrap_or(0),
    })
}

/// Hosted servers often refuse `CONFIG`; then the policy is unknown, which is no error.
async fn fsync_policy(connection: &mut Connection) -> Option<String> {
    let answer = redis::cmd("CONFIG").arg("GET").arg("appendfsync").query_async::<Value>(connection).await.ok()?;
    let pairs: Vec<(String, String)> = first(answer).ok()?;
    pairs.into_iter().next().map(|(_, policy)| policy)
}

/// In a cluster some commands go to every node and answer a map by node; one of them speaks for all.
fn first<T: FromRedisValue>(answer: Value) -> RedisResult<T> {
    let one = match answer {
        Value::Map(mut nodes) if nodes.len() != 1 || !matches!(nodes[0].1, Value::BulkString(_)) => {
            if nodes.is_empty() { Value::Nil } else { nodes.swap_remove(0).1 }
        }
        other => other,
    };
    T::from_redis_value(one).map_err(RedisError::from)
}
