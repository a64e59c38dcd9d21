//! Batches, verdicts, receipts, lanes and idempotency.

use serde_json::json;

use super::door::{self, CLIENT, NOW, OTHER, SERVER, event, lane, queued};
use crate::support::redis::redis;

#[tokio::test]
async fn a_batch_is_queued_by_lane_and_answered_with_a_receipt() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let batch = json!([event(1, "game_ended", "p-1"), event(2, "tick", "p-1"), event(3, "game_ended", "p-2")]);
    let answer = door.post(CLIENT, &batch).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.counts(3, 0, 0, 0);
    assert_eq!(answer.body["results"], json!([]));
    assert!(answer.body.get("retry_safe").is_none());
    assert!(answer.headers.contains_key("date") && answer.headers.contains_key("x-request-id"));
    let high = lane(&redis, "high");
    assert_eq!(high.iter().map(|(_, p)| p.as_str()).collect::<Vec<_>>(), ["p-1", "p-2"]);
    assert_eq!(lane(&redis, "low").len(), 1);
    let pushed: u64 =
        ::redis::cmd("HGET").arg("{sl:q0}:counters").arg("pushed").query(&mut redis.connection()).unwrap();
    assert_eq!(pushed, 2);
}

#[tokio::test]
async fn every_shape_format_and_encoding_is_accepted() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let one = event(1, "tick", "p").to_string();
    let lines = format!("{one}\n{}\n", event(2, "tick", "p"));
    for (headers, body) in [
        (vec![], one.clone()),
        (vec![("content-type", "application/json; charset=utf-8")], format!("[{one}]")),
        (vec![("content-type", "application/json")], format!("{{\"events\":[{one}],\"sent_at\":1}}")),
        (vec![("content-type", "application/x-ndjson")], lines.clone()),
    ] {
        let answer = door.send(SERVER, &headers, body.as_bytes()).await;
        assert_eq!(answer.status, 202, "{body}: {answer:?}");
    }
    for encoding in ["gzip", "deflate", "br", "zstd"] {
        let packed = pack(encoding, format!("[{one}]").as_bytes()).await;
        let answer = door.send(SERVER, &[("content-encoding", encoding)], &packed).await;
        assert_eq!(answer.status, 202, "{encoding}: {answer:?}");
    }
    let basic = "Basic c2VydmVyLWtleS1vZi10aGUtZGVtby1nYW1lOg==";
    let answer = door.request("POST", "/v1/events", &[("authorization", basic)], one.as_bytes()).await;
    assert_eq!(answer.status, 202);
    assert_eq!(queued(&redis), 10);
}

pub async fn pack(encoding: &str, bytes: &[u8]) -> Vec<u8> {
    use async_compression::tokio::bufread::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
    use tokio::io::AsyncReadExt;
    let mut packed = Vec::new();
    match encoding {
        "gzip" => GzipEncoder::new(bytes).read_to_end(&mut packed).await.unwrap(),
        "deflate" => ZlibEncoder::new(bytes).read_to_end(&mut packed).await.unwrap(),
        "br" => BrotliEncoder::new(bytes).read_to_end(&mut packed).await.unwrap(),
        _ => ZstdEncoder::new(bytes).read_to_end(&mut packed).await.unwrap(),
    };
    packed
}

#[tokio::test]
async fn one_bad_event_never_costs_a_good_one() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let good = event(1, "tick", "p").to_string();
    let hostile = [
        (r#"{"type":"t","player_id":"a b"}"#, "player_id_invalid", "/player_id"),
        (r#"{"type":"t","player_id":"{x}*\r\n:"}"#, "player_id_invalid", "/player_id"),
        (r#"{"type":"<b>","player_id":"p"}"#, "type_invalid", "/type"),
        (r#"{"type":"t","player_id":"undefined"}"#, "player_id_invalid", "/player_id"),
        (r#"{"type":"t"}"#, "player_id_required", "/player_id"),
        (r#"{"type":"t","player_id":17}"#, "player_id_invalid", "/player_id"),
        (r#"{"type":"t","player_id":"p","payload":{"a":"\u0000"}}"#, "payload_null_character", "/payload"),
        (r#"{"type":"t","player_id":"p","payload":{"a":"\udc00"}}"#, "payload_lone_surrogate", "/payload"),
        (r#"{"type":"t","player_id":"p","payload":{"a":1,"a":2}}"#, "payload_duplicate_key", "/payload"),
        (r#"{"type":"t","player_id":"p","payload":{"a":1e200000}}"#, "payload_number_out_of_range", "/payload"),
        (r#"{"type":"t","player_id":"p","payload":7}"#, "payload_not_an_object", "/payload"),
        (r#"{"type":"\ud800","player_id":"p"}"#, "event_malformed", ""),
        (r#"{"type":"t","type":"t","player_id":"p"}"#, "event_field_repeated", ""),
        (r#"[[[1]]]"#, "event_not_an_object", ""),
    ];
    for (bad, code, field) in hostile {
        let answer = door.send(SERVER, &[], format!("[{bad},{good}]").as_bytes()).await;
        assert_eq!(answer.status, 202, "{bad}: {answer:?}");
        answer.counts(1, 0, 1, 0);
        let row = &answer.body["results"][0];
        assert_eq!((row["index"].as_u64(), row["status"].as_str()), (Some(0), Some("rejected")));
        assert_eq!((row["code"].as_str(), row["field"].as_str()), (Some(code), Some(field)), "{bad}");
        assert!(row["message"].as_str().is_some_and(|m| !m.is_empty()));
    }
    let deep =
        format!(r#"{{"type":"t","player_id":"p","payload":{{"a":{}{}}}}}"#, "[".repeat(9_000), "]".repeat(9_000));
    let large = format!(r#"{{"type":"t","player_id":"p","payload":{{"a":"{}"}}}}"#, "x".repeat(33_000));
    for (bad, code) in [(deep, "payload_too_deep"), (large, "event_too_large")] {
        let answer = door.send(SERVER, &[], format!("[{good},{bad}]").as_bytes()).await;
        assert_eq!(answer.body["results"][0]["code"], code, "{answer:?}");
    }
    assert_eq!(queued(&redis), hostile.len() + 2);
}

#[tokio::test]
async fn all_rejected_is_422_with_the_receipt_and_nothing_queued() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let answer = door.post(SERVER, &json!([{"type": "t"}, 7])).await;
    answer.refused(422, "all_events_rejected");
    answer.counts(0, 0, 2, 0);
    assert_eq!(answer.body["results"][1]["code"], "event_not_an_object");
    assert_eq!(queued(&redis), 0);
}

#[tokio::test]
async fn a_repeat_within_the_batch_is_a_duplicate_and_a_repeated_batch_is_accepted_again() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let mut later = event(1, "tick", "p");
    later["occurred_at"] = json!(NOW * 1_000 + 1);
    let batch = json!([event(1, "tick", "p"), event(2, "tick", "p"), event(1, "tick", "p"), later]);
    let answer = door.post(SERVER, &batch).await;
    answer.counts(3, 1, 0, 0);
    let row = &answer.body["results"][0];
    assert_eq!((row["index"].as_u64(), row["status"].as_str()), (Some(2), Some("duplicate")));
    door.post(SERVER, &batch).await.counts(3, 1, 0, 0);
}

#[tokio::test]
async fn an_event_without_identity_is_named_in_its_receipt() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let batch = json!([{"type": "t", "player_id": "p"}, event(1, "t", "p")]);
    let answer = door.post(SERVER, &batch).await;
    answer.counts(2, 0, 0, 0);
    assert_eq!(answer.body["retry_safe"], false);
    let assigned = answer.body["results"][0]["event_id"].as_str().unwrap();
    assert_eq!(answer.body["results"][0]["status"], "accepted");
    assert!(lane(&redis, "low").iter().any(|(id, _)| id == assigned));

    let keyed = [("idempotency-key", "an-idempotency-key-1")];
    let answer = door.send(SERVER, &keyed, batch.to_string().as_bytes()).await;
    assert!(answer.body.get("retry_safe").is_none(), "a key makes it safe: {answer:?}");

    let answer = door.post(SERVER, &json!({"type": "t", "player_id": "p", "event_id": "match-7"})).await;
    assert_eq!(answer.body["results"][0]["code"], "occurred_at_required");
    assert_eq!(answer.body["results"][0]["event_id"], "match-7");
}

#[tokio::test]
async fn clocks_that_are_off_are_told_the_servers_time() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    for (offset, code) in [(-7 * 86_400 - 1, "occurred_at_too_old"), (601, "occurred_at_in_future")] {
        let mut bad = event(1, "t", "p");
        bad["occurred_at"] = json!((NOW + offset) * 1_000);
        let answer = door.post(SERVER, &bad).await;
        let row = &answer.body["results"][0];
        assert_eq!((row["code"].as_str(), row["field"].as_str()), (Some(code), Some("/occurred_at")));
        assert!(row["message"].as_str().unwrap().contains("2027-01-15T08:00:00Z"), "{row}");
    }
    let mut seconds = event(1, "t", "p");
    seconds["occurred_at"] = json!(NOW - 5);
    let answer = door.post(SERVER, &seconds).await;
    let row = &answer.body["results"][0];
    assert_eq!(row["code"], "occurred_at_too_old");
    assert!(row["message"].as_str().unwrap().contains("did you send seconds?"), "{row}");
}

#[tokio::test]
async fn every_answer_is_for_nobodys_cache() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let good = door.post(SERVER, &json!([event(1, "t", "p")])).await;
    let rejected = door.post(SERVER, &json!([{"type": "t"}])).await;
    let unknown = door.post("nobody", &json!([event(1, "t", "p")])).await;
    assert_eq!([good.status, rejected.status, unknown.status], [202, 422, 401]);
    for answer in [good, rejected, unknown] {
        assert_eq!(answer.headers["cache-control"], "no-store", "{answer:?}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{answer:?}");
    }
}

#[tokio::test]
async fn an_event_that_does_not_score_is_accepted_with_a_warning() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let mut batch = [event(1, "game_ended", "p"), event(2, "game_ended", "p"), event(3, "tick", "p")];
    batch[0]["payload"] = json!({"score": "many"});
    batch[1]["payload"] = json!({"score": 1_000_001});
    batch[2]["payload"] = json!({"score": "many"});
    let answer = door.post(SERVER, &json!(batch)).await;
    answer.counts(3, 0, 0, 0);
    let rows = answer.body["results"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{answer:?}");
    assert_eq!((&rows[0]["warning"], &rows[0]["status"]), (&json!("score_unusable"), &json!("accepted")));
    assert_eq!(rows[1]["warning"], "score_out_of_bounds");
    assert!(rows.iter().all(|row| row.get("code").is_none()), "one word stands twice: {answer:?}");
    assert_eq!(lane(&redis, "high").len(), 2);
}

#[tokio::test]
async fn a_repeat_with_the_same_key_returns_the_first_receipt() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let keyed = [("idempotency-key", "0123456789abcdef")];
    let body =
        json!([{"type": "t", "player_id": "p"}, {"type": "t"}, event(1, "t", "p"), event(1, "t", "p")]).to_string();
    let first = door.send(SERVER, &keyed, body.as_bytes()).await;
    assert_eq!(first.status, 202);
    door.pass(3_600);
    let packed = pack("gzip", body.as_bytes()).await;
    let again = door.send(SERVER, &[keyed[0], ("content-encoding", "gzip")], &packed).await;
    assert_eq!((again.status, &again.text), (202, &first.text));
    assert_eq!(queued(&redis), 2, "the repeat queued nothing");

    // Another body, as long or not.
    for other in [event(9, "t", "p").to_string(), body.replace(r#""type":"t""#, r#""type":"u""#)] {
        let other = door.send(SERVER, &keyed, other.as_bytes()).await;
        other.refused(422, "idempotency_key_reused");
    }
    // Another key of the same game and another game have receipts of their own.
    for key in [CLIENT, OTHER] {
        assert_eq!(door.send(key, &keyed, event(9, "t", "p").to_string().as_bytes()).await.status, 202);
    }
    for bad in ["short", "with a space in the key", &"x".repeat(129)] {
        let answer = door.send(SERVER, &[("idempotency-key", bad)], b"[{}]").await;
        answer.refused(400, "idempotency_key_invalid");
    }
}

#[tokio::test]
async fn receipts_are_bounded_per_game_and_expire() {
    let redis = redis();
    let mut settings = door::settings(&redis);
    settings.ingest.max_idempotency_keys = 2;
    let door = door::open(settings).await;
    let body = event(1, "t", "p").to_string();
    let send = async |number: u32, key: &str| {
        door.send(key, &[("idempotency-key", &format!("idempotency-{number:06}"))], body.as_bytes()).await
    };
    for number in 0..2 {
        assert_eq!(send(number, SERVER).await.status, 202);
    }
    let full = send(2, SERVER).await;
    full.refused(503, "idempotency_full");
    assert!(full.headers.contains_key("retry-after"));
    assert_eq!(queued(&redis), 2, "never silent loss, never silent acceptance");
    assert_eq!(send(0, SERVER).await.status, 202, "what is remembered is still answered");
    assert_eq!(send(2, CLIENT).await.status, 202, "client keys have a budget of their own");
    assert_eq!(send(2, OTHER).await.status, 202, "another game is not concerned");
    let mut connection = redis.connection();
    let ttl: i64 = ::redis::cmd("PTTL").arg("{sl:q0}:idem:1:2:idempotency-000000").query(&mut connection).unwrap();
    assert!((86_000_000..=86_400_000).contains(&ttl), "{ttl}");
    let after: i64 = full.headers["retry-after"].parse().unwrap();
    assert!((ttl / 1_000..=ttl / 1_000 + 7_201).contains(&after), "{after}: when the first two hours of them are over");
    // As if a day had passed for one of them.
    let budget = "{sl:q0}:idemuse:1:server";
    let counts: Vec<(i64, i64)> = ::redis::cmd("HGETALL").arg(budget).query(&mut connection).unwrap();
    let (ends, count) = counts[0];
    ::redis::cmd("HSET").arg(budget).arg(ends).arg(count - 1).arg(1).arg(1).exec(&mut connection).unwrap();
    assert_eq!(send(2, SERVER).await.status, 202);
    let left: Vec<(i64, i64)> = ::redis::cmd("HGETALL").arg(budget).query(&mut connection).unwrap();
    assert!(left.iter().all(|(ends, _)| *ends > 1), "what is over is forgotten: {left:?}");
}

#[tokio::test]
async fn two_equal_batches_at_once_with_one_key_are_queued_once() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let body = event(1, "t", "p").to_string();
    let keyed = [("idempotency-key", "the-same-key-at-once")];
    let answers = futures_util::future::join_all((0..16).map(|_| door.send(SERVER, &keyed, body.as_bytes()))).await;
    assert!(answers.iter().all(|a| a.status == 202 && a.text == answers[0].text), "{answers:?}");
    assert_eq!(queued(&redis), 1);
}

/// The members of an object are declared, and those that are required are there.
fn assert_described(schemas: &serde_json::Value, name: &str, value: &serde_json::Value) {
    let schema = &schemas[name];
    let value = value.as_object().unwrap();
    for member in value.keys() {
        assert!(schema["properties"].get(member).is_some(), "{name} has no '{member}'");
    }
    for member in schema["required"].as_array().unwrap() {
        assert!(value.contains_key(member.as_str().unwrap()), "{name} lacks {member}");
    }
}

#[tokio::test]
async fn a_receipt_is_what_the_document_says() {
    let document = serde_json::to_value(scoreline::api::document()).unwrap();
    let schemas = &document["components"]["schemas"];
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let mut unnamed = event(3, "tick", "p");
    unnamed.as_object_mut().unwrap().remove("event_id");
    let batch = json!([event(1, "tick", "p"), event(1, "tick", "p"), event(2, "", "p"), unnamed]);
    let answer = door.post(SERVER, &batch).await;
    answer.counts(2, 1, 1, 0);
    assert_described(schemas, "Receipt", &answer.body);
    for result in answer.body["results"].as_array().unwrap() {
        assert_described(schemas, "EventResult", result);
    }
    let examples = document.pointer("/paths/~1v1~1events/post/requestBody/content/application~1json/examples").unwrap();
    for example in examples.as_object().unwrap().values() {
        // Their moments are long past or not: what matters is that the shape is one that is read.
        let answer = door.post(SERVER, &example["value"]).await;
        assert!(matches!(answer.status, 202 | 422), "{answer:?}");
    }
}
