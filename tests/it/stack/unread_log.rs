//! A log that nobody reads stops nothing.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::processes::PATIENCE;
use crate::api::world::World;
use crate::support::{eventually, http, look_again, reserved_port};

/// A process that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_pipe_stops_neither_answers_nor_the_end() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let ports = [reserved_port(), reserved_port()];
    let [door, operations] = ports.each_ref().map(|port| SocketAddr::from(([127, 0, 0, 1], port.port())));
    let ingest = Command::new(env!("CARGO_BIN_EXE_ingest"))
        .env("REDIS_URL", &world.redis.url)
        .env("REDIS_PREFIX", "sl")
        .env("INGEST_LISTEN", door.to_string())
        .env("OPS_LISTEN", operations.to_string())
        .env("SHUTDOWN_GRACE_SECONDS", "5")
        // A line for each batch: the pipe holds two hundred of them.
        .env("LOG", "debug")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ingest = Running(ingest);
    let listens = async || tokio::net::TcpStream::connect(door).await.is_ok();
    eventually("it takes batches", PATIENCE, listens).await;
    let body = r#"[{"type":"t","player_id":"p"}]"#;
    let request = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         authorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        game.server,
        body.len()
    );
    for batch in 0..1_500 {
        let answer = tokio::time::timeout(Duration::from_secs(20), http::request(door, &request)).await;
        let (status, text) = answer.unwrap_or_else(|_| panic!("batch {batch} waits for whoever reads the log"));
        assert_eq!(status, 202, "{text}");
    }
    let (_, metrics) = http::get(operations, "/metrics").await;
    assert!(metrics.contains("scoreline_log_lines_left_out_total{role=\"ingest\"}"), "{metrics}");
    let pid = rustix::process::Pid::from_raw(ingest.0.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let told = std::time::Instant::now();
    let ended = loop {
        if let Some(status) = ingest.0.try_wait().unwrap() {
            break status;
        }
        assert!(told.elapsed() < Duration::from_secs(20), "it does not end");
        look_again().await;
    };
    assert_eq!(ended.code(), Some(0));
}
