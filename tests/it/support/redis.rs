//! A private Redis server per test, which the test may kill, restart and pause.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::free_port;

/// A private Redis with AOF and `noeviction`; killed and removed with this value.
pub struct TestRedis {
    pub port: u16,
    pub url: String,
    directory: std::path::PathBuf,
    extra: Vec<String>,
    child: Option<Child>,
}

/// Starts a private Redis.
pub fn redis() -> TestRedis {
    redis_with(&[])
}

/// Starts a private Redis with further command-line options.
pub fn redis_with(extra: &[&str]) -> TestRedis {
    let extra: Vec<String> = extra.iter().map(|s| (*s).to_owned()).collect();
    for _ in 0..20 {
        let port = free_port();
        let directory = std::env::temp_dir().join(format!("scoreline-test-redis-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let mut server =
            TestRedis { port, url: format!("redis://127.0.0.1:{port}"), directory, extra: extra.clone(), child: None };
        if server.try_start() {
            return server;
        }
    }
    panic!("no Redis server could be started; is redis-server installed?");
}

impl TestRedis {
    fn try_start(&mut self) -> bool {
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
        // Whoever answers on the port may be the server of another test that took it first.
        let mine = format!("process_id:{}\r", child.id());
        self.child = Some(child);
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(10) {
            if let Some(Ok(Some(_))) = self.child.as_mut().map(Child::try_wait) {
                return false;
            }
            if let Ok(mut connection) = redis::Client::open(self.url.as_str())
                .and_then(|c| c.get_connection_with_timeout(Duration::from_secs(1)))
                // INFO answers while the data are still being read; nothing else does.
                && redis::cmd("INFO")
                    .query::<String>(&mut connection)
                    .is_ok_and(|info| info.contains(&mine) && info.contains("\nloading:0"))
            {
                return true;
            }
            super::look_again_blocking();
        }
        false
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

    /// Starts it again on the same port and data.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "already running");
        for _ in 0..50 {
            if self.try_start() {
                return;
            }
            self.kill();
        }
        panic!("Redis did not come back on port {}", self.port);
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
