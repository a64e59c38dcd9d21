use proptest::prelude::*;

use super::*;
use crate::domain::payload_check::PayloadProblem;

const NOW: Micros = Micros::from_seconds(1_800_000_000);

fn rules() -> Rules {
    Rules { now: NOW, max_age_seconds: 7 * 86_400, max_ahead_seconds: 600, batch_id: Uuid::from_u128(0xB000) }
}

/// Judges the JSON of one event and hands what came out to `look`.
fn judge<T>(json: &str, look: impl FnOnce(Result<Valid<'_>, Refusal>) -> T) -> T {
    let wire: WireEvent<'_> = serde_json::from_str(json).unwrap();
    look(validate(&wire, 3, &rules(), &mut PayloadChecker::default()))
}

fn refusal(json: &str) -> Refusal {
    judge(json, |r| r.unwrap_err())
}

fn at(seconds: i64) -> String {
    Micros::from_seconds(seconds).to_string()
}

#[test]
fn a_whole_event_is_taken_as_written() {
    let json = r#"{"event_id":"018F3B5E-7D1A-7C3E-9A55-1F2E3D4C5B6A","type":"game_ended","player_id":"p\u002d17",
        "occurred_at":1800000000123,"session_id":"s-1","schema_version":2,"payload": {"score" : 1} ,"extra":[1]}"#;
    judge(json, |valid| {
        let valid = valid.unwrap();
        assert!(!valid.assigned);
        assert_eq!(valid.event.event_id, Uuid::from_u128(0x018F3B5E_7D1A_7C3E_9A55_1F2E3D4C5B6A));
        assert_eq!((valid.event.event_type, valid.event.player_id), ("game_ended", "p-17"));
        assert_eq!((valid.event.session_id, valid.event.schema_version), (Some("s-1"), Some(2)));
        assert_eq!(valid.event.occurred_at, Micros(1_800_000_000_123_000));
        assert_eq!(valid.event.payload, r#"{"score" : 1}"#);
    });
}

#[test]
fn occurred_at_is_required_unless_the_id_tells_it() {
    let millis = (NOW.0 / 1_000) as u128 - 5_000;
    let v7 = Uuid::from_u128(millis << 80 | 0x7 << 76 | 0x8 << 60 | 5);
    judge(&format!(r#"{{"event_id":"{v7}","type":"t","player_id":"p"}}"#), |valid| {
        assert_eq!(valid.unwrap().event.occurred_at, NOW.plus_seconds(-5));
    });
    let v4 = "5f0c1c2e-2f0e-4e42-9d5c-0f5f3a1b2c3d";
    for id in [v4, "match-17"] {
        let json = format!(r#"{{"event_id":"{id}","type":"t","player_id":"p"}}"#);
        assert_eq!(refusal(&json), Refusal::OccurredAtRequired);
    }
    let old = Uuid::from_u128(0x7 << 76 | 0x8 << 60 | 5);
    let json = format!(r#"{{"event_id":"{old}","type":"t","player_id":"p"}}"#);
    assert_eq!(refusal(&json), Refusal::OccurredAtTooOld);
}

#[test]
fn the_server_assigns_what_is_absent() {
    judge(r#"{"type":"t","player_id":"p","event_id":null}"#, |valid| {
        let valid = valid.unwrap();
        assert!(valid.assigned);
        assert_eq!(valid.event.event_id, assigned_id(Uuid::from_u128(0xB000), 3));
        assert_eq!((valid.event.occurred_at, valid.event.payload), (NOW, "{}"));
    });
    let ids: std::collections::HashSet<_> = (0..100).map(|i| assigned_id(Uuid::from_u128(0xB000), i)).collect();
    assert_eq!(ids.len(), 100);
}

#[test]
fn an_id_that_is_no_uuid_becomes_one_always_the_same() {
    let json = format!(r#"{{"event_id":"match-17","type":"t","player_id":"p","occurred_at":"{}"}}"#, at(1_800_000_000));
    judge(&json, |valid| {
        // uuid.uuid5(uuid.UUID("2b1b71db-ab1a-5bd2-ba5e-34af93c28135"), "match-17") in Python
        assert_eq!(valid.unwrap().event.event_id, Uuid::new_v5(&EVENT_ID_NAMESPACE, b"match-17"));
    });
}

#[test]
fn clocks_may_be_off_by_so_much_and_no_more() {
    let event = |seconds: i64| format!(r#"{{"type":"t","player_id":"p","occurred_at":"{}"}}"#, at(seconds));
    let now = 1_800_000_000;
    judge(&event(now - 7 * 86_400), |valid| assert!(valid.is_ok()));
    judge(&event(now + 600), |valid| assert!(valid.is_ok()));
    assert_eq!(refusal(&event(now - 7 * 86_400 - 1)), Refusal::OccurredAtTooOld);
    assert_eq!(refusal(&event(now + 601)), Refusal::OccurredAtInFuture);
}

#[test]
fn each_bad_field_is_named() {
    let with = |field: &str| format!(r#"{{"type":"t","player_id":"p","occurred_at":1800000000000,{field}}}"#);
    for (json, refused) in [
        (r#"{"player_id":"p"}"#.to_owned(), Refusal::Type(TextProblem::Missing)),
        (r#"{"type":7,"player_id":"p"}"#.to_owned(), Refusal::Type(TextProblem::NotText)),
        (r#"{"type":"t"}"#.to_owned(), Refusal::PlayerId(TextProblem::Missing)),
        (
            r#"{"type":"t","player_id":"undefined"}"#.to_owned(),
            Refusal::PlayerId(TextProblem::Id(IdProblem::Placeholder)),
        ),
        (r#"{"type":"t","player_id":"{x}*"}"#.to_owned(), Refusal::PlayerId(TextProblem::Id(IdProblem::BadCharacter))),
        (with(r#""event_id":[1]"#), Refusal::EventId(TextProblem::NotText)),
        (
            with(r#""event_id":"00000000-0000-0000-0000-000000000000""#),
            Refusal::EventId(TextProblem::Id(IdProblem::Placeholder)),
        ),
        (
            with(r#""event_id":"00000000000000000000000000000000""#),
            Refusal::EventId(TextProblem::Id(IdProblem::Placeholder)),
        ),
        (with(r#""session_id":"""#), Refusal::SessionId(TextProblem::Id(IdProblem::Empty))),
        (with(r#""schema_version":1.5"#), Refusal::SchemaVersion),
        (with(r#""schema_version":2147483648"#), Refusal::SchemaVersion),
        (with(r#""payload":[]"#), Refusal::Payload(PayloadProblem::NotAnObject)),
        (with(r#""payload":{"a":"\ud800"}"#), Refusal::Payload(PayloadProblem::LoneSurrogate)),
        (with(r#""type":"again""#), Refusal::RepeatedField),
        (r#"{"type":"t","player_id":"p","occurred_at":"yesterday"}"#.to_owned(), Refusal::OccurredAtInvalid),
        (r#"{"type":"t","player_id":"p","occurred_at":9223372036854775807}"#.to_owned(), Refusal::OccurredAtInvalid),
        (r#"{"type":"t","player_id":"p","occurred_at":{"a":[1,{}]}}"#.to_owned(), Refusal::OccurredAtInvalid),
        ("[1,[2]]".to_owned(), Refusal::NotAnObject),
        ("\"x\"".to_owned(), Refusal::NotAnObject),
        ("null".to_owned(), Refusal::NotAnObject),
    ] {
        assert_eq!(refusal(&json), refused, "{json}");
    }
}

fn scalar() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("{}".to_owned()),
        Just("[[1],{\"a\":2}]".to_owned()),
        any::<i64>().prop_map(|v| v.to_string()),
        any::<f64>().prop_filter("JSON has no NaN", |v| v.is_finite()).prop_map(|v| v.to_string()),
        ".{0,40}".prop_map(|v| serde_json::to_string(&v).unwrap()),
        "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z".prop_map(|v| format!("\"{v}\"")),
        any::<u128>().prop_map(|v| format!("\"{}\"", Uuid::from_u128(v))),
    ]
}

proptest! {
    #[test]
    fn validation_never_panics(fields in proptest::collection::vec((0usize..8, scalar()), 0..10)) {
        let names =
            ["event_id", "type", "player_id", "session_id", "schema_version", "occurred_at", "payload", "\\u0074ype"];
        let members: Vec<String> = fields.iter().map(|(n, v)| format!("\"{}\":{v}", names[*n])).collect();
        judge(&format!("{{{}}}", members.join(",")), |judged| {
            if let Ok(valid) = judged {
                let e = valid.event;
                prop_assert!(check_identifier(e.player_id).is_ok() && check_identifier(e.event_type).is_ok());
                prop_assert!(!e.event_id.is_nil());
            }
            Ok(())
        })?;
    }

    #[test]
    fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = serde_json::from_slice::<WireEvent<'_>>(&bytes);
        let _ = serde_json::from_slice::<Vec<WireEvent<'_>>>(&bytes);
    }
}
