//! Every route with every kind of key.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::routes::{Route, documented};
use super::stage::{CANARIES, Door, Stage};
use crate::api::world::{ADMIN, Answer, board};

/// Who asks. `Other…`: of another game.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Nobody,
    Garbage,
    Revoked,
    Client,
    Server,
    OtherClient,
    OtherServer,
    Admin,
}

use Who::{Admin, Client, Garbage, Nobody, OtherClient, OtherServer, Revoked, Server};

const EVERYBODY: [Who; 8] = [Nobody, Garbage, Revoked, Client, Server, OtherClient, OtherServer, Admin];

/// What a caller may expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// 2xx.
    Done,
    /// 2xx, or 404 where the path names what this caller's game does not have.
    OwnOnly,
    Unauthorized,
    Forbidden,
}

/// For whom a route is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    Everybody,
    Readers,
    Studios,
    Operators,
    Senders,
}

fn audience(path: &str) -> For {
    match path {
        "/v1/events" => For::Senders,
        _ if path.starts_with("/v1/public/") => For::Everybody,
        _ if path.starts_with("/v1/leaderboards") => For::Readers,
        "/v1/admin/games" | "/v1/admin/games/{slug}" | "/v1/admin/audit" | "/v1/admin/partitions" => For::Operators,
        _ if path.starts_with("/v1/admin/queues") => For::Operators,
        _ if path.starts_with("/v1/admin/") => For::Studios,
        _ => panic!("say who may use {path}"),
    }
}

/// The whole table.
fn expected(audience: For, who: Who) -> Expected {
    match (audience, who) {
        (For::Everybody, _) => Expected::Done,
        (_, Nobody | Garbage | Revoked) => Expected::Unauthorized,
        (For::Senders, Admin) => Expected::Unauthorized,
        (For::Senders, _) => Expected::Done,
        (For::Readers, OtherClient | OtherServer) | (For::Studios, OtherServer) => Expected::OwnOnly,
        (For::Studios, Client | OtherClient) => Expected::Forbidden,
        (For::Operators, Admin) => Expected::Done,
        (For::Operators, _) => Expected::Forbidden,
        (For::Readers | For::Studios, _) => Expected::Done,
    }
}

/// What makes a route do its work, so that a rightful caller gets 2xx.
fn body(path: &str, method: &str, nth: usize) -> Value {
    let event = json!({"type": "game_ended", "player_id": "p", "payload": {"score": 1}});
    match (path, method) {
        ("/v1/events", _) => event,
        ("/v1/admin/games", "post") => json!({"slug": format!("new-{nth}")}),
        (_, "patch") => json!({"limit_game_events": 0}),
        ("/v1/admin/keys", "post") => json!({"kind": "client"}),
        ("/v1/admin/leaderboards", "post") => board("fresh"),
        ("/v1/admin/leaderboards/{slug}", "put") => json!({"event_type": "game_ended", "score": "/score"}),
        (_, "post") if path.ends_with("/lookup") => json!({"player_ids": ["canary-player"]}),
        (_, "post") if path.ends_with("/discard") || path.ends_with("/replay") => json!({"ids": []}),
        _ => Value::Null,
    }
}

struct Walk<'a> {
    stage: &'a Stage,
    nth: usize,
}

impl Walk<'_> {
    /// Makes what the route will act on, and names it in the path.
    async fn path(&mut self, (path, method): &Route, who: Who) -> String {
        self.nth += 1;
        let mine = Some(self.stage.mine.server.as_str());
        let mut slug = if path.starts_with("/v1/public/") { "open-board" } else { "canary-board" }.to_owned();
        let mut id = self.stage.letter.clone();
        if path == "/v1/admin/games/{slug}" {
            slug = "canary-game".to_owned();
        } else if *method == "put" && who == OtherServer {
            // It makes a board of its own game, which later answers may name.
            slug = "fresh".to_owned();
        } else if !matches!(who, Client | Server | Admin) {
            // They are refused before anything happens to it, or it shows below.
        } else if *method == "put" || path.ends_with("/rebuild") || path.ends_with("/recompute") {
            slug = "work-board".to_owned();
        } else if *method == "delete" && path.ends_with("{slug}") {
            slug = format!("doomed-{}", self.nth);
            let spec = board(&slug);
            let made = self.stage.ask(Door::Api, &Method::POST, "/v1/admin/leaderboards", mine, &spec).await;
            assert_eq!(made.status, StatusCode::CREATED);
        } else if *method == "delete" {
            let kind = json!({"kind": "client"});
            let made = self.stage.ask(Door::Api, &Method::POST, "/v1/admin/keys", mine, &kind).await;
            id = made.json()["id"].to_string();
        }
        let path = path.replace("{game}", "canary-game").replace("{slug}", &slug).replace("{id}", &id);
        let path = path.replace("{player}", "canary-player").replace("{name}", "q0");
        if who == Admin { format!("{path}?game=canary-game") } else { path }
    }

    async fn ask(&mut self, route: &Route, who: Who) -> Answer {
        let stage = self.stage;
        let key = match who {
            Nobody => None,
            Garbage => Some("sl_server_garbage"),
            Revoked => Some(stage.revoked.as_str()),
            Client => Some(stage.mine.client.as_str()),
            Server => Some(stage.mine.server.as_str()),
            OtherClient => Some(stage.other.client.as_str()),
            OtherServer => Some(stage.other.server.as_str()),
            Admin => Some(ADMIN),
        };
        let path = self.path(route, who).await;
        let door = if route.0 == "/v1/events" { Door::Ingest } else { Door::Api };
        let method: Method = route.1.to_uppercase().parse().unwrap();
        let sent = body(&route.0, route.1, self.nth);
        let answer = stage.ask(door, &method, &path, key, &sent).await;
        if !matches!(who, Client | Server | Admin) && audience(&route.0) != For::Everybody {
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            let asked = format!("{path}{sent}");
            // A name that the caller sent may come back.
            for canary in CANARIES.iter().filter(|canary| !asked.contains(**canary)) {
                assert!(!text.contains(canary), "{route:?} tells {who:?}: {text}");
            }
        }
        answer
    }
}

#[tokio::test]
async fn every_route_answers_every_kind_of_key_as_the_table_says() {
    let stage = Stage::new().await;
    let document = stage.ask(Door::Api, &Method::GET, "/openapi.json", None, &Value::Null).await.json();
    let mut walk = Walk { stage: &stage, nth: 0 };
    let mut wrong = Vec::new();
    for route in documented(&document) {
        for who in EVERYBODY {
            let answer = walk.ask(&route, who).await;
            let status = answer.status;
            // Somebody before may have begun one that is under way.
            let under_way = route.0.ends_with("/recompute") && status == StatusCode::CONFLICT;
            let fits = match expected(audience(&route.0), who) {
                Expected::Done => status.is_success() || under_way && answer.code() == "recompute_under_way",
                Expected::OwnOnly => status.is_success() || status == StatusCode::NOT_FOUND,
                Expected::Unauthorized => status == StatusCode::UNAUTHORIZED,
                Expected::Forbidden => status == StatusCode::FORBIDDEN,
            };
            if !fits {
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                wrong.push(format!("{} {} by {who:?}: {status} {text}", route.1, route.0));
            }
            if !status.is_success() {
                assert_eq!(answer.json()["status"], status.as_u16(), "{route:?} by {who:?}");
                assert!(!answer.code().is_empty());
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn what_one_game_did_changed_nothing_of_the_other() {
    let stage = Stage::new().await;
    let document = stage.ask(Door::Api, &Method::GET, "/openapi.json", None, &Value::Null).await.json();
    let before = fingerprint(&stage).await;
    for (path, method) in documented(&document) {
        let method_name: Method = method.to_uppercase().parse().unwrap();
        let keys = stage.ask(Door::Api, &Method::GET, "/v1/admin/keys", Some(&stage.mine.server), &Value::Null).await;
        let id = if path.contains("/keys/") { keys.json()["keys"][0]["id"].to_string() } else { stage.letter.clone() };
        let real = path.replace("{game}", "canary-game").replace("{slug}", "canary-board").replace("{id}", &id);
        let real = real.replace("{player}", "canary-player").replace("{name}", "q0");
        let mut sent = body(&path, method, 0);
        if path.ends_with("/discard") || path.ends_with("/replay") {
            sent = json!({"ids": [stage.letter]});
        }
        let door = if path == "/v1/events" { Door::Ingest } else { Door::Api };
        for key in [&stage.other.client, &stage.other.server, &stage.revoked] {
            // Naming the game in the query is the admin token's privilege.
            stage.ask(door, &method_name, &format!("{real}?game=canary-game"), Some(key), &sent).await;
        }
    }
    assert_eq!(fingerprint(&stage).await, before);
}

/// Everything of the game that is stored.
async fn fingerprint(stage: &Stage) -> Vec<String> {
    let mut rows = Vec::new();
    for query in [
        "SELECT g::text FROM games g WHERE id = $1",
        "SELECT k::text FROM api_keys k WHERE game_id = $1 ORDER BY id",
        "SELECT l::text FROM leaderboards l WHERE game_id = $1 ORDER BY id",
        "SELECT d::text FROM dead_letters d WHERE game_id = $1 ORDER BY id",
        "SELECT a::text FROM audit_log a WHERE game_id = $1 ORDER BY id",
    ] {
        let found: Vec<String> =
            sqlx::query_scalar(query).bind(stage.mine.id.0).fetch_all(&stage.world.db.pool).await.unwrap();
        rows.extend(found);
    }
    assert!(rows.len() >= 7, "{rows:?}");
    rows
}
