//! Requests that are dropped in the middle, and changes that fail in the middle.

use std::time::Duration;

use hyper::{Method, StatusCode};
use scoreline::store::pool::Pool;
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::world::{ADMIN, World, board};
use crate::support::eventually;
use crate::support::gate::Gate;
use crate::support::postgres::database;

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_begin_that_is_dropped_leaves_no_connection_in_a_transaction() {
    let db = database().await;
    let options: PgConnectOptions = db.url.parse().unwrap();
    let gate = Gate::before(options.get_host().to_owned(), options.get_port()).await;
    let options = options.host("127.0.0.1").port(gate.address.port()).application_name("behind the gate");
    let pool = Pool::new(
        PgPoolOptions::new().max_connections(1).test_before_acquire(false).connect_with(options).await.unwrap(),
    );
    for round in 0..3 {
        gate.close();
        let dropped = tokio::time::timeout(Duration::from_millis(50), pool.begin()).await;
        assert!(dropped.is_err(), "it was answered through a closed gate");
        gate.open();
        // On the only connection there is.
        let insert = "INSERT INTO audit_log (actor, action, subject, detail) VALUES ('cli', 'test', 'x', '{}')";
        sqlx::query(insert).execute(&pool).await.unwrap();
        let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_log").fetch_one(&db.pool).await.unwrap();
        assert_eq!(seen, round + 1, "what others wrote on that connection is lost");
    }
    let stuck: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'behind the gate' AND state <> 'idle'",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap();
    assert_eq!(stuck, 0);
}

#[tokio::test]
async fn a_change_whose_client_leaves_is_made_whole_and_known() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let mut holding = world.db.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM games FOR UPDATE").execute(&mut *holding).await.unwrap();
    let (key, body) = (&game.server, board("left").to_string());
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let head = format!(
        "PUT /v1/admin/leaderboards/left HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("it waits for the game's row", PATIENCE, async || {
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(&world.db.pool).await.unwrap() > 0
    })
    .await;
    drop(stream);
    // The listener notices that it is gone.
    crate::support::nothing_happens_for(Duration::from_millis(200)).await;
    holding.rollback().await.unwrap();
    eventually("the change is made, and this api knows of it", PATIENCE, async || {
        world.get("/v1/leaderboards/left", Some(&game.client)).await.status == StatusCode::OK
    })
    .await;
}

async fn last_change(world: &World) -> serde_json::Value {
    world.get("/v1/admin/audit-log?limit=1", Some(ADMIN)).await.json()["changes"][0].clone()
}

#[tokio::test]
async fn a_queue_is_held_only_with_a_trace_of_it() {
    let mut world = World::new().await;
    let pause = "/v1/admin/queues/q0/pause";
    let rename = async |sql: &'static str| {
        sqlx::query(sql).execute(&mut world.db.owner().await).await.unwrap();
    };
    rename("ALTER TABLE audit_log RENAME TO audit_log_away").await;
    let refused = world.send(Method::POST, pause, Some(ADMIN), &json!({})).await;
    assert!(refused.status.is_server_error(), "{}", refused.status);
    let queues = world.get("/v1/admin/queues", Some(ADMIN)).await.json();
    assert_eq!(queues["queues"][0]["paused"], false, "it is held, and nobody knows by whom");
    rename("ALTER TABLE audit_log_away RENAME TO audit_log").await;

    assert!(world.send(Method::POST, pause, Some(ADMIN), &json!({})).await.status.is_success());
    let change = last_change(&world).await;
    assert_eq!((&change["action"], &change["detail"]["outcome"]), (&json!("queue.pause"), &json!("done")), "{change}");

    world.redis.kill();
    let resume = "/v1/admin/queues/q0/resume";
    assert_eq!(world.send(Method::POST, resume, Some(ADMIN), &json!({})).await.status, StatusCode::SERVICE_UNAVAILABLE);
    let change = last_change(&world).await;
    assert_eq!(
        (&change["action"], &change["detail"]["outcome"]),
        (&json!("queue.resume"), &json!("failed")),
        "{change}"
    );
}
