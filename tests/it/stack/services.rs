//! Private Postgres and Redis.

use std::path::PathBuf;

use scoreline::stack::{Stack, StackOptions};

use crate::support;

#[tokio::test]
async fn every_test_has_its_own_migrated_database_and_redis() {
    let one = support::postgres::database().await;
    let two = support::postgres::database().await;
    sqlx::query("INSERT INTO games (slug, name) VALUES ('demo', 'Demo')").execute(&one.pool).await.unwrap();
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM games").fetch_one(&two.pool).await.unwrap();
    assert_eq!(count, 0);
    let redis = support::redis::redis();
    let pong: String = redis::cmd("PING").query(&mut redis.connection()).unwrap();
    assert_eq!(pong, "PONG");
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("scoreline-stack-{}-{name}", std::process::id())))
    }

    fn options(&self) -> StackOptions {
        StackOptions {
            home: self.0.clone(),
            postgres: true,
            redis: true,
            durable: false,
            max_connections: 20,
            replicas: false,
        }
    }
}

impl Drop for Folder {
    /// Services outlive a test that failed: ends those that work in this folder.
    fn drop(&mut self) {
        for file in ["redis/redis.pid", "postgres/postmaster.pid"] {
            let text = std::fs::read_to_string(self.0.join(file)).unwrap_or_default();
            let pid: i32 = text.lines().next().and_then(|line| line.trim().parse().ok()).unwrap_or(0);
            let works_here = std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&self.0));
            if let Some(pid) = rustix::process::Pid::from_raw(pid).filter(|_| works_here) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
            }
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn say_hello(stack: &Stack) {
    let url = stack.database_url().unwrap();
    let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(url).await.unwrap();
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&mut connection).await.unwrap();
    assert_eq!(one, 1);
    let client = redis::Client::open(stack.redis_url().unwrap()).unwrap();
    let pong: String =
        redis::cmd("PING").query_async(&mut client.get_multiplexed_async_connection().await.unwrap()).await.unwrap();
    assert_eq!(pong, "PONG");
}

fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn private_services_start_keep_their_data_and_stop() {
    let folder = Folder::new("restart");
    let stack = Stack::start(&folder.options()).await.unwrap();
    say_hello(&stack).await;
    let refused = Stack::start(&folder.options()).await.unwrap_err().to_string();
    assert!(refused.contains("another copy runs"), "{refused}");
    let client = redis::Client::open(stack.redis_url().unwrap()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let _: () = redis::cmd("SET").arg("kept").arg("yes").query_async(&mut connection).await.unwrap();
    let pids = stack.pids();
    stack.stop().await;
    assert!(pids.iter().all(|(_, pid)| !alive(*pid)), "{pids:?}");

    let again = Stack::start(&folder.options()).await.unwrap();
    say_hello(&again).await;
    let client = redis::Client::open(again.redis_url().unwrap()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let kept: String = redis::cmd("GET").arg("kept").query_async(&mut connection).await.unwrap();
    assert_eq!(kept, "yes");
    again.stop().await;
}

#[tokio::test]
async fn what_a_crashed_run_left_is_stopped_and_nothing_else() {
    let (folder, other) = (Folder::new("crashed"), Folder::new("bystander"));
    let crashed = Stack::start(&folder.options()).await.unwrap();
    let mut bystander_options = other.options();
    bystander_options.postgres = false;
    let bystander = Stack::start(&bystander_options).await.unwrap();
    let left = crashed.pids();
    // What a crash does: the lock is gone, the services are not.
    drop(crashed);
    assert!(left.iter().all(|(_, pid)| alive(*pid)));
    // A pid file that names a stranger must not harm the stranger.
    let stack = Stack::start(&folder.options()).await.unwrap();
    support::eventually("what was left is gone", std::time::Duration::from_secs(5), || async {
        left.iter().all(|(_, pid)| !alive(*pid))
    })
    .await;
    say_hello(&stack).await;
    stack.stop().await;
    std::fs::write(folder.0.join("redis/redis.pid"), format!("{}\n", bystander.pids()[0].1)).unwrap();
    let stack = Stack::start(&folder.options()).await.unwrap();
    assert!(alive(bystander.pids()[0].1), "a bystander named by a stale pid file was stopped");
    stack.stop().await;
    bystander.stop().await;
}
