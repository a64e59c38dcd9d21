//! What a client reads of a board, with its cursors, and what cron publishes of games for ingest and api.

use hyper::Method;
use scoreline::domain::clock::Micros;
use serde_json::json;

use super::redis::dump;
use super::{answer_text, compare, masked};
use crate::api::world::{Answer, World, board};

/// A board's version is Postgres's time, and the tag of an answer follows from it.
fn told(what: &str, answer: &Answer) -> String {
    let headers = answer.headers.iter().filter(|(name, _)| *name != "etag" && *name != "content-length");
    let headers: Vec<_> = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    let body = std::str::from_utf8(&answer.body).unwrap();
    let version = format!("\"version\":{}", answer.json()["version"]);
    answer_text(what, answer.status.as_u16(), &headers, &body.replace(&version, "\"version\":<n>"))
}

#[tokio::test]
async fn boards_and_their_cursors_are_served_the_same() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let mut spec = board("global");
    spec["tie_policy"] = "competition".into();
    let generation = world.board(&game, spec).await;
    world.publish(generation, Micros::EPOCH, 1, &[("a", 9), ("b", 5), ("c", 5), ("d", -1)]).await;
    let base = "/v1/leaderboards/global/entries";
    let mut found = String::new();
    let mut page = "?limit=1".to_owned();
    let mut back = None;
    for _ in 0..4 {
        let answer = world.get(&format!("{base}{page}"), Some(&game.client)).await;
        found += &told(&page, &answer);
        let json = answer.json();
        back = json["prev_cursor"].as_str().map(str::to_owned);
        let Some(next) = json["next_cursor"].as_str() else { break };
        page = format!("?limit=1&cursor={next}");
    }
    for path in [format!("?limit=2&cursor={}", back.unwrap()), "/b".to_owned(), "/c/around?limit=1".to_owned()] {
        found += &told(&path, &world.get(&format!("{base}{path}"), Some(&game.client)).await);
    }
    let wanted = json!({"player_ids": ["d", "nobody", "a"]});
    let answer = world.send(Method::POST, &format!("{base}/lookup"), Some(&game.client), &wanted).await;
    found += &told("/lookup", &answer);
    compare("boards.txt", &found);
}

/// Long hexadecimal numbers are random, or follow from what is.
fn without_random(text: &str) -> String {
    let number = |digits| (digits > 31).then(|| format!("<{digits} digits>"));
    masked(text, |_| true, u8::is_ascii_hexdigit, number)
}

#[tokio::test]
async fn the_directory_is_published_the_same() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let mut spec = board("global");
    spec["match"] = json!([{"pointer": "/mode", "equals": "ranked"}]);
    spec["reset"] = json!({"cron": "0 4 * * FRI"});
    spec["name"] = "Jos\u{e9}".into();
    world.board(&game, spec).await;
    world.board(&game, board("other")).await;
    world.publish_directory().await;
    let all = without_random(&dump(&world.redis, |text| text));
    let mut shown = String::new();
    let mut of_directory = false;
    for line in all.lines() {
        of_directory = if line.starts_with(' ') { of_directory } else { line.contains("sl:directory") };
        if of_directory {
            shown += line;
            shown.push('\n');
        }
    }
    assert!(shown.contains("Jos"), "{all}");
    compare("redis/directory.txt", &shown);
}
