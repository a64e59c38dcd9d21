//! A connection to Redis that many requests share: pipelined, reconnecting, and never waiting for long.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::{Client, Cmd, RedisResult, Value};

/// The longest wait for an answer. Beyond it the outcome is unknown: the client is told to send again.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// The longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_000);
const CLUSTER_SCHEME: &str = "redis-cluster://";

/// Whether a URL names a Redis Cluster.
pub fn is_cluster(url: &str) -> bool {
    url.starts_with(CLUSTER_SCHEME)
}

/// A server, or a cluster. Clones share it.
#[derive(Clone)]
pub enum Connection {
    /// One server.
    Single(ConnectionManager),
    /// A cluster; commands go to the node that has their keys.
    Cluster(ClusterConnection),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Single(_)) { "Connection::Single" } else { "Connection::Cluster" })
    }
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// The URL is unusable, or nobody answers.
    pub async fn open(url: &str) -> RedisResult<Self> {
        if let Some(rest) = url.strip_prefix(CLUSTER_SCHEME) {
            let nodes: Vec<String> = rest.split(',').map(|node| format!("redis://{node}")).collect();
            let client = ClusterClientBuilder::new(nodes)
                .connection_timeout(CONNECT_TIMEOUT)
                .response_timeout(RESPONSE_TIMEOUT)
                .retries(1)
                .build()?;
            return Ok(Self::Cluster(client.get_async_connection().await?));
        }
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_number_of_retries(0);
        Ok(Self::Single(ConnectionManager::new_with_config(Client::open(url)?, config).await?))
    }

    /// Runs a command.
    ///
    /// # Errors
    /// What Redis or the connection says.
    pub async fn run(&self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Single(connection) => command.query_async(&mut connection.clone()).await,
            Self::Cluster(connection) => command.query_async(&mut connection.clone()).await,
        }
    }
}

impl Connection {
    /// Memory used and `maxmemory` of the server that has `key`; `None` when it does not answer.
    pub(super) async fn memory(&self, key: &str) -> Option<(u64, u64)> {
        let mut info = Cmd::new();
        info.arg("INFO").arg("memory");
        let value = match self {
            Self::Single(_) => self.run(&info).await.ok()?,
            Self::Cluster(connection) => {
                let route = SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master));
                connection.clone().route_command(info, RoutingInfo::SingleNode(route)).await.ok()?
            }
        };
        let text: String = redis::from_redis_value(value).ok()?;
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<u64>().ok())
        };
        Some((field("used_memory")?, field("maxmemory")?))
    }
}
