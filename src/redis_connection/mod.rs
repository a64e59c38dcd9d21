//! One connection to a Redis: a single server or a Redis Cluster, multiplexed, replaced when it breaks. Everybody who
//! talks to Redis does it through this, so that all of them survive the same outages.
//!
//! The redis crate's own `ConnectionManager` does not replace a connection whose answers time out, so after a black
//! hole it waits for TCP's retransmissions (up to two minutes). Here a timeout counts as a broken connection.

mod cluster;
pub mod settings;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, ServerErrorKind, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How URLs of a cluster begin: `redis-cluster://[user:password@]host:port,host:port`.
const CLUSTER_SCHEME: &str = "redis-cluster://";
/// First and longest pause between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Timeouts of one connection.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Longest wait for an answer; the connection is replaced after it. The redis crate's default of 500 ms is short
    /// for a server that rewrites its AOF; with much more, work would not go on within the promised 5 s after a
    /// connection fell silent.
    pub response: Duration,
    /// Longest wait for a connection, handshake included.
    pub connect: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { response: Duration::from_secs(3), connect: Duration::from_secs(1) }
    }
}

/// A handle to Redis that many tasks share by cloning it. While Redis is away calls fail fast; the first call after a
/// pause (at most half a second) tries to connect again.
#[derive(Clone)]
pub struct Connection(Arc<Shared>);

struct Shared {
    target: Target,
    timeouts: Timeouts,
    current: ArcSwapOption<Link>,
    attempts: Mutex<Attempts>,
    breaks: AtomicU64,
}

enum Target {
    Single(redis::Client),
    /// `credentials`: `[user:password@]`, the same for every node.
    Cluster {
        client: Box<ClusterClient>,
        nodes: Vec<redis::Client>,
        credentials: String,
    },
}

#[derive(Clone)]
enum Link {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

#[derive(Default)]
struct Attempts {
    failures: u32,
    not_before: Option<Instant>,
}

impl Connection {
    /// Parses the URL; connects at first use.
    ///
    /// # Errors
    /// The URL is not a Redis URL.
    pub fn open(url: &str, timeouts: Timeouts) -> RedisResult<Self> {
        let target = match url.strip_prefix(CLUSTER_SCHEME) {
            None => Target::Single(redis::Client::open(url)?),
            Some(rest) => {
                let (credentials, hosts) = cluster_hosts(rest);
                let urls: Vec<String> = hosts.map(|host| format!("redis://{credentials}{host}")).collect();
                if urls.is_empty() {
                    return Err((ErrorKind::InvalidClientConfig, "the cluster's URL names no node").into());
                }
                let nodes = urls.iter().map(|u| redis::Client::open(u.as_str())).collect::<RedisResult<_>>()?;
                let client = ClusterClient::builder(urls)
                    .response_timeout(timeouts.response)
                    .connection_timeout(timeouts.connect)
                    .retries(0)
                    .build()?;
                Target::Cluster { client: Box::new(client), nodes, credentials: credentials.to_owned() }
            }
        };
        let (current, attempts, breaks) = (ArcSwapOption::empty(), Mutex::default(), AtomicU64::new(0));
        Ok(Self(Arc::new(Shared { target, timeouts, current, attempts, breaks })))
    }

    /// How many calls, of all tasks, have met a connection that was broken, a node that sent them on to another, or a
    /// server that is not yet what it will be. Who answers after that may be another server, or this one as it was a
    /// moment ago.
    pub fn breaks(&self) -> u64 {
        self.0.breaks.load(Ordering::Acquire)
    }

    /// Whether this is a Redis Cluster, where every script's keys must be in one slot.
    pub fn is_cluster(&self) -> bool {
        matches!(self.0.target, Target::Cluster { .. })
    }

    /// The servers that the URL names: one, or the listed nodes of a cluster.
    pub fn nodes(&self) -> &[redis::Client] {
        match &self.0.target {
            Target::Single(client) => std::slice::from_ref(client),
            Target::Cluster { nodes, .. } => nodes,
        }
    }

    /// Sends a command that names no key to the server that owns `key`: in a cluster the crate would send it to any
    /// node, or to all of them, and one that is silent and has nothing to do with `key` would be waited for.
    ///
    /// # Errors
    /// Redis cannot be reached, or says no.
    pub async fn send_to_owner(&self, key: &str, command: &Cmd) -> RedisResult<Value> {
        self.send(command, Some(key)).await
    }

    async fn send(&self, command: &Cmd, key: Option<&str>) -> RedisResult<Value> {
        let link = self.link().await?;
        let result = match ((*link).clone(), &self.0.target) {
            (Link::Single(mut connection), _) => connection.req_packed_command(command).await,
            (Link::Cluster(connection), target) => {
                let credentials = if let Target::Cluster { credentials, .. } = target { credentials } else { "" };
                cluster::send(connection, command, key, credentials, self.0.timeouts, || self.count_break()).await
            }
        };
        self.observe(&link, &result);
        result
    }

    /// The timeouts it was opened with.
    pub fn timeouts(&self) -> Timeouts {
        self.0.timeouts
    }

    /// A connection of its own that is subscribed to `channel`. In a cluster any node hears every publication;
    /// `attempt` picks which one to ask.
    ///
    /// # Errors
    /// Redis cannot be reached, or does not answer in time: the redis crate itself would wait for that for ever.
    pub async fn subscriber(&self, attempt: usize, channel: &str) -> RedisResult<redis::aio::PubSub> {
        let (nodes, timeouts) = (self.nodes(), self.0.timeouts);
        let client = &nodes[attempt % nodes.len()];
        let mut subscriber =
            tokio::time::timeout(timeouts.connect, client.get_async_pubsub()).await.map_err(timed_out)??;
        tokio::time::timeout(timeouts.response, subscriber.subscribe(channel)).await.map_err(timed_out)??;
        Ok(subscriber)
    }

    /// A connection of its own, for what one connection has to do (`WATCH`). It is not replaced when it breaks: from
    /// then on all its calls fail.
    ///
    /// # Errors
    /// A cluster; or the server cannot be reached in time.
    pub async fn alone(&self) -> RedisResult<MultiplexedConnection> {
        match tokio::time::timeout(self.longest_connect(), self.make()).await.map_err(timed_out)?? {
            Link::Single(connection) => Ok(connection),
            Link::Cluster(_) => Err((ErrorKind::InvalidClientConfig, "a cluster has no one connection").into()),
        }
    }

    async fn link(&self) -> RedisResult<Arc<Link>> {
        match &*self.0.current.load() {
            Some(link) => Ok(Arc::clone(link)),
            None => self.connect().await,
        }
    }

    async fn connect(&self) -> RedisResult<Arc<Link>> {
        let mut attempts = self.0.attempts.lock().await;
        if let Some(link) = &*self.0.current.load() {
            return Ok(Arc::clone(link)); // another task has connected meanwhile
        }
        if attempts.not_before.is_some_and(|t| Instant::now() < t) {
            return Err((ErrorKind::Io, "Redis cannot be reached; pausing before the next attempt").into());
        }
        let made = tokio::time::timeout(self.longest_connect(), self.make()).await.map_err(timed_out);
        match made.and_then(|made| made) {
            Ok(link) => {
                *attempts = Attempts::default();
                let link = Arc::new(link);
                self.0.current.store(Some(Arc::clone(&link)));
                Ok(link)
            }
            Err(error) => {
                let pause = FIRST_PAUSE.saturating_mul(1 << attempts.failures.min(8)).min(LONGEST_PAUSE);
                attempts.failures = attempts.failures.saturating_add(1);
                attempts.not_before = Some(Instant::now() + pause);
                Err(error)
            }
        }
    }

    /// A cluster with a silent node waits for it twice: among the nodes of the URL, and among those that own slots.
    fn longest_connect(&self) -> Duration {
        if self.is_cluster() { self.0.timeouts.connect * 3 } else { self.0.timeouts.connect }
    }

    async fn make(&self) -> RedisResult<Link> {
        let timeouts = self.0.timeouts;
        match &self.0.target {
            Target::Single(client) => {
                let config = redis::AsyncConnectionConfig::new()
                    .set_response_timeout(Some(timeouts.response))
                    .set_connection_timeout(Some(timeouts.connect));
                client.get_multiplexed_async_connection_with_config(&config).await.map(Link::Single)
            }
            Target::Cluster { client, .. } => client.get_async_connection().await.map(Link::Cluster),
        }
    }

    fn count_break(&self) {
        self.0.breaks.fetch_add(1, Ordering::AcqRel);
    }

    /// Drops `link` when `result` shows that it is broken, so that the next call makes another.
    fn observe<T>(&self, link: &Arc<Link>, result: &RedisResult<T>) {
        let Err(error) = result else { return };
        let broken = is_broken(error);
        if broken {
            let current = self.0.current.load();
            if current.as_ref().is_some_and(|c| Arc::ptr_eq(c, link)) {
                self.0.current.compare_and_swap(&*current, None);
            }
        }
        // After that: who takes notice of it does not ask over the old link.
        if broken || is_between_servers(error) {
            self.count_break();
        }
    }
}

fn is_broken(error: &RedisError) -> bool {
    error.is_unrecoverable_error()
        || error.is_timeout()
        || error.is_io_error()
        || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) // a failover made our server a replica
}

/// Whether the server waits for its data or for another server, or (as one command of several) for a node to be asked.
fn is_between_servers(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved};
    matches!(error.kind(), ErrorKind::Server(BusyLoading | MasterDown | ClusterDown | Moved | Ask))
}

fn timed_out(_: tokio::time::error::Elapsed) -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// `[user:password@]a:1,b:2` → `user:password@` (or nothing) and the hosts.
fn cluster_hosts(rest: &str) -> (&str, impl Iterator<Item = &str>) {
    let (credentials, hosts) = rest.split_at(rest.rfind('@').map_or(0, |at| at + 1));
    (credentials, hosts.trim_end_matches('/').split(',').filter(|host| !host.is_empty()))
}

/// The call of a script by its text, where `call` names it by a hash that the server does not know: it goes where
/// `call` went, and the server knows the script from then on. `SCRIPT LOAD` would go to every node of a cluster.
pub fn with_source(call: &Cmd, source: &str) -> Cmd {
    let mut command = Cmd::with_capacity(call.args_iter().len(), source.len() + call.get_packed_command().len());
    command.arg("EVAL").arg(source);
    for argument in call.args_iter().skip(2) {
        if let redis::Arg::Simple(bytes) = argument {
            command.arg(bytes);
        }
    }
    command
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(self.send(cmd, None))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let link = self.link().await?;
            let result = match (*link).clone() {
                Link::Single(mut c) => c.req_packed_commands(pipeline, offset, count).await,
                Link::Cluster(mut c) => c.req_packed_commands(pipeline, offset, count).await,
            };
            self.observe(&link, &result);
            result
        })
    }

    fn get_db(&self) -> i64 {
        0
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection") // the URL may hold a password
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_url_names_every_node_with_the_same_credentials() {
        let read = |rest| {
            let (credentials, hosts) = cluster_hosts(rest);
            (credentials.to_owned(), hosts.map(str::to_owned).collect::<Vec<_>>())
        };
        assert_eq!(read("a:1,b:2"), (String::new(), vec!["a:1".to_owned(), "b:2".to_owned()]));
        assert_eq!(read("u:p@a:1,b:2/"), ("u:p@".to_owned(), vec!["a:1".to_owned(), "b:2".to_owned()]));
    }

    #[test]
    fn a_script_by_its_text_has_the_same_keys_and_arguments() {
        let mut call = redis::cmd("EVALSHA");
        call.arg("hash").arg(1).arg("key").arg(b"\r\n").arg("");
        let mut expected = redis::cmd("EVAL");
        expected.arg("return 1").arg(1).arg("key").arg(b"\r\n").arg("");
        assert_eq!(with_source(&call, "return 1").get_packed_command(), expected.get_packed_command());
    }
}
