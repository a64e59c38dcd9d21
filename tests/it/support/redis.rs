//! A private Redis server per test, which the test may kill, restart and pause.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use scoreline::stack::ReservedPort;

use super::reserved_port;

/// A private Redis with AOF and `noeviction`; killed and removed with this value.
pub struct TestRedis {
    pub port: u16,
    pub url: String,
    directory: std::path::PathBuf,
    extra: Vec<String>,
    child: Option<Child>,
    _reserved: Vec<ReservedPort>,
}

/// Starts a private Redis.
pub fn redis() -> TestRedis {
    redis_with(&[])
}

/// Starts a private Redis that asks for a password.
pub fn redis_with_password(password: &str) -> TestRedis {
    start(&["--requirepass", password], &format!(":{password}@"))
}

/// Starts a private Redis with further command-line options.
pub fn redis_with(extra: &[&str]) -> TestRedis {
    start(extra, "")
}

/// Starts a node of a cluster that is yet to be made.
pub fn redis_node() -> TestRedis {
    let bus = reserved_port();
    let port = bus.port().to_string();
    let mut node =
        redis_with(&["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", port.as_str()]);
    node._reserved.push(bus);
    node
}

fn start(extra: &[&str], credentials: &str) -> TestRedis {
    let reserved = reserved_port();
    let port = reserved.port();
    let directory = std::env::temp_dir().join(format!("scoreline-test-redis-{}-{port}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let mut server = TestRedis {
        port,
        url: format!("redis://{credentials}127.0.0.1:{port}"),
        directory,
        extra: extra.iter().map(|s| (*s).to_owned()).collect(),
        child: None,
        _reserved: vec![reserved],
    };
    server.start();
    server
}

impl TestRedis {
    /// Starts it, or starts it again on the same port and data, and waits until it answers.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "already running");
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"])
            .args(["--dir", self.directory.to_str().unwrap()])
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server must be installed");
        let child = self.child.insert(child);
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(20) {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("Redis on port {} ended with {status}", self.port);
            }
            if let Ok(mut connection) = redis::Client::open(self.url.as_str())
                .and_then(|c| c.get_connection_with_timeout(Duration::from_secs(1)))
                // INFO answers while the data are still being read; nothing else does.
                && redis::cmd("INFO")
                    .query::<String>(&mut connection)
                    .is_ok_and(|info| info.contains("\nloading:0"))
            {
                return;
            }
            super::look_again_blocking();
        }
        panic!("Redis on port {} does not answer", self.port);
    }

    /// Waits until everything that was done is in the append-only file, as far as it outlives this process.
    pub async fn written(&self) {
        super::eventually("the append-only file is written", Duration::from_secs(10), || async {
            let info: String = redis::cmd("INFO").arg("persistence").query(&mut self.connection()).unwrap();
            ["aof_buffer_length:0\r", "aof_pending_bio_fsync:0\r"].iter().all(|line| info.contains(line))
        })
        .await;
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// A blocking connection, for looking and meddling.
    pub fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url.as_str()).unwrap().get_connection().unwrap()
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
