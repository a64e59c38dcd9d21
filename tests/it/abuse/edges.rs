//! What Postgres, calendars and text decoders trip over, sent where the api takes it: it costs its own request only.

use std::time::Duration;

use base64::Engine as _;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::stage::{Door, Stage};
use crate::api::world::{ADMIN, World};

/// A cursor that names a period at this moment.
fn cursor(generation: i32, period_start: i64) -> String {
    let mut bytes = generation.to_le_bytes().to_vec();
    bytes.extend_from_slice(&period_start.to_le_bytes());
    bytes.push(0);
    bytes.extend_from_slice(b"\x80\x80\x80p");
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_as_a_bad_request() {
    let stage = Stage::new().await;
    let board = |name: &str| json!({"event_type": "t", "score": "/score", "name": name});
    let generation: i32 = sqlx::query_scalar("SELECT max(id) FROM leaderboard_generations")
        .fetch_one(&stage.world.db.pool)
        .await
        .unwrap();
    let paths: Vec<String> = [i64::MIN, i64::MAX, i64::MIN + 1, -62_135_596_800_000_001, -211_813_488_000_000_001]
        .into_iter()
        .flat_map(|moment| {
            let id = "018f3b5e-7d1a-7c3e-9a55-000000000001";
            [
                format!("/v1/leaderboards/open-board/entries?cursor={}", cursor(generation, moment)),
                format!("/v1/admin/dead-letters?after={moment}_{id}"),
            ]
        })
        .chain(
            [
                "/v1/leaderboards/open-board/periods?before=-009999-01-01T00:00:00Z",
                "/v1/leaderboards/open-board/periods?before=-009999-01-02T01:59:59Z",
                "/v1/leaderboards/open-board/entries/a%00b",
                "/v1/leaderboards/%00",
                "/v1/leaderboards/%ff",
                "/v1/leaderboards/open-board/entries?period=%00",
                "/v1/admin/leaderboards/%00",
                "/v1/admin/leaderboards/%ff",
                "/v1/admin/dead-letters/%ff",
                "/v1/admin/dead-letters?kind=%00",
                "/v1/admin/dead-letters?reason=a%00b",
                "/v1/admin/dead-letters?state=%00",
                "/v1/admin/dead-letters?game=%00",
                "/v1/admin/audit-log?before=99999999999999999999",
            ]
            .map(str::to_owned),
        )
        .collect();
    for path in paths {
        let key = if path.contains("game=") { ADMIN } else { &stage.mine.server };
        let answer = stage.ask(Door::Api, &Method::GET, &path, Some(key), &Value::Null).await;
        assert!([400, 404].contains(&answer.status.as_u16()), "{path}: {} {:?}", answer.status, answer.body);
        assert!(!answer.code().is_empty());
    }
    let changes = [
        (Method::POST, "/v1/admin/games", json!({"slug": "x", "name": "a\0b"})),
        (Method::POST, "/v1/admin/games", json!({"slug": "x", "name": "a\u{1b}[2Jb"})),
        (Method::POST, "/v1/admin/games", json!({"slug": "x", "name": "x".repeat(201)})),
        (Method::POST, "/v1/admin/games", json!({"slug": "x\0"})),
        (Method::PATCH, "/v1/admin/games/canary-game", json!({"name": "a\0b"})),
        (Method::PATCH, "/v1/admin/games/%00", json!({"name": "ab"})),
        (Method::PATCH, "/v1/admin/games/%ff", json!({"name": "ab"})),
        (Method::POST, "/v1/admin/keys", json!({"kind": "client", "label": "a\0b"})),
        (Method::POST, "/v1/admin/keys", json!({"kind": "client", "label": "a\r\nb"})),
        (Method::DELETE, "/v1/admin/keys/%00", Value::Null),
        (Method::PUT, "/v1/admin/leaderboards/x", board("a\0b")),
        (Method::PUT, "/v1/admin/leaderboards/x", board("a\u{7f}b")),
        (Method::PUT, "/v1/admin/leaderboards/x", json!({"event_type": "t", "score": "/a\0b"})),
        (Method::PUT, "/v1/admin/leaderboards/x", json!({"event_type": "t", "score": "/s", "match": {"/m": "a\0b"}})),
        (Method::PUT, "/v1/admin/leaderboards/%00", board("n")),
        (Method::DELETE, "/v1/admin/leaderboards/%00", Value::Null),
        (Method::POST, "/v1/admin/leaderboards/%00/rebuild", Value::Null),
        (Method::POST, "/v1/admin/leaderboards/%00/recompute", Value::Null),
        (Method::POST, "/v1/admin/queues/%00/pause", Value::Null),
        (Method::POST, "/v1/leaderboards/open-board/entries/lookup", json!({"player_ids": ["a\0b"]})),
        (Method::POST, "/v1/admin/dead-letters/discard", json!({"ids": ["a\0b"]})),
    ];
    for (method, path, body) in changes {
        let operators = path.starts_with("/v1/admin/games") || path.starts_with("/v1/admin/queues");
        let key = if operators { ADMIN } else { &stage.mine.server };
        let answer = stage.ask(Door::Api, &method, path, Some(key), &body).await;
        assert!(
            [400, 404, 422].contains(&answer.status.as_u16()),
            "{path} {body}: {} {:?}",
            answer.status,
            answer.body
        );
        assert!(!answer.code().is_empty());
    }
    let twice = br#"{"kind":"client","kind":"server"}"#.to_vec();
    let answer =
        stage.send(Door::Api, &Method::POST, "/v1/admin/keys", Some(&stage.mine.server), &[], twice.into()).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, "body_invalid"));
}

#[tokio::test]
async fn a_body_that_stalls_at_the_api_is_408_and_a_large_one_413() {
    let world = World::with(|http| http.http_body_timeout_seconds = 1).await;
    let game = world.game("demo").await;
    world.board(&game, json!({"slug": "b", "event_type": "t", "score": "/s", "public": true})).await;
    // Nobody needs a key for this one.
    let head = "POST /v1/public/demo/leaderboards/b/entries/lookup HTTP/1.1\r\nhost: x\r\n";
    let answer = async |sent: &str| {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await;
        read.expect("the connection is closed").unwrap();
        answer
    };
    let stalled = answer(&format!("{head}content-length: 50\r\n\r\n{{")).await;
    assert!(stalled.starts_with("HTTP/1.1 408") && stalled.contains("body_timeout"), "{stalled}");
    let trickled = answer(&format!("{head}transfer-encoding: chunked\r\n\r\n1\r\n{{\r\n")).await;
    assert!(trickled.starts_with("HTTP/1.1 408"), "{trickled}");
    let large =
        answer(&format!("{head}connection: close\r\ncontent-length: 300000\r\n\r\n{}", " ".repeat(300_000))).await;
    assert!(large.starts_with("HTTP/1.1 413") && large.contains("\"limit\":262144"), "{large}");
}
