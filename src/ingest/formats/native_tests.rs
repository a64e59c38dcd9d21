use super::super::super::wire_event::Field;
use super::*;

const BOUNDS: Bounds = Bounds { events: 100, event_bytes: 32 * 1024 };

fn json(body: &str) -> Result<Vec<WireEvent<'_>>, BodyProblem> {
    read(Format::Json, body.as_bytes(), BOUNDS)
}

fn types(events: &[WireEvent<'_>]) -> Vec<String> {
    events.iter().map(|e| if let Field::Text(t) = &e.event_type { t.to_string() } else { "-".into() }).collect()
}

#[test]
fn every_shape_of_a_batch_is_read() {
    let one = r#"{"type":"a","payload":{"x":[1]}}"#;
    for body in [
        format!("[{one}]"),
        one.to_owned(),
        format!("{{\"events\":[{one}],\"sent_at\":\"2026-11-21T10:00:00Z\"}}"),
        format!("{{\"sent_at\":5,\"events\":[{one}],\"type\":7}}"),
        format!("\u{FEFF} [ {one} ] "),
    ] {
        let events = json(&body).unwrap();
        assert_eq!(types(&events), ["a"], "{body}");
        assert_eq!(events[0].payload, Some(r#"{"x":[1]}"#));
    }
    let lines = format!("{one}\r\n\n  {one}\n");
    assert_eq!(types(&read(Format::NdJson, lines.as_bytes(), BOUNDS).unwrap()), ["a", "a"]);
}

#[test]
fn a_body_that_is_no_batch_is_refused_as_a_whole() {
    for body in ["", "  ", "{", "[", "[{]", "[{\"type\":\"a\"},", "NaN", "[1,2", "[{\"type\":\"a\"}]x", "{\"a\":01}"] {
        assert!(matches!(json(body), Err(BodyProblem::NotJson(_))), "{body}");
    }
    for body in ["1", "\"x\"", "null", "true", r#"{"events":{}}"#, r#"{"events":7}"#] {
        assert_eq!(json(body).unwrap_err(), BodyProblem::WrongShape, "{body}");
    }
    for body in ["[]", r#"{"events":[]}"#] {
        assert_eq!(json(body).unwrap_err(), BodyProblem::Empty, "{body}");
    }
    assert_eq!(read(Format::Json, b"[\"\xff\"]", BOUNDS).unwrap_err(), BodyProblem::NotUtf8);
    assert_eq!(read(Format::NdJson, b"\n\n", BOUNDS).unwrap_err(), BodyProblem::Empty);
    assert!(matches!(read(Format::NdJson, b"hello\nworld", BOUNDS), Err(BodyProblem::NotJson(_))));
    let deep = "[".repeat(200_000);
    assert!(matches!(json(&deep), Err(BodyProblem::NotJson(_))));
}

#[test]
fn one_bad_event_never_costs_a_good_one() {
    let good = r#"{"type":"a"}"#;
    let long = format!(r#"{{"type":"b","other":"{}"}}"#, "x".repeat(33_000));
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for (bad, defect) in [
        ("17", Refusal::NotAnObject),
        ("[[]]", Refusal::NotAnObject),
        ("null", Refusal::NotAnObject),
        (&deep, Refusal::NotAnObject),
        (r#"{"type":"\ud800"}"#, Refusal::Malformed),
        (r#"{"type":1e999}"#, Refusal::Malformed),
        (r#"{"type":"a","type":"b"}"#, Refusal::RepeatedField),
        (&long, Refusal::TooLarge),
    ] {
        let body = format!("[{good},{bad},{good}]");
        let events = json(&body).unwrap();
        assert_eq!(events.len(), 3, "{bad:.40}");
        assert_eq!(events[1].defect, Some(defect), "{bad:.40}");
        assert_eq!((events[0].defect, events[2].defect), (None, None), "{bad:.40}");
        let enveloped = format!("{{\"events\":{body}}}");
        assert_eq!(json(&enveloped).unwrap()[1].defect, Some(defect), "{bad:.40}");
    }
    let mut lines = b"{\"type\":\"a\"}\n{\"type\":\n\xff\xfe\n".to_vec();
    lines.extend_from_slice(b"{\"type\":\"b\"}");
    let events = read(Format::NdJson, &lines, BOUNDS).unwrap();
    assert_eq!(types(&events), ["a", "-", "-", "b"]);
    assert_eq!(events[1].defect, Some(Refusal::Malformed));
}

#[test]
fn one_event_too_many_refuses_the_batch() {
    let events = vec!["{}"; 101].join(",");
    let problem = BodyProblem::TooManyEvents { limit: 100 };
    assert_eq!(json(&format!("[{events}]")).unwrap_err(), problem);
    assert_eq!(json(&format!("{{\"events\":[{events}]}}")).unwrap_err(), problem);
    let lines = vec!["{}"; 101].join("\n");
    assert_eq!(read(Format::NdJson, lines.as_bytes(), BOUNDS).unwrap_err(), problem);
    assert_eq!(json(&format!("[{}]", vec!["{}"; 100].join(","))).unwrap().len(), 100);
}

#[test]
fn large_bodies_of_small_events_are_read_in_one_pass() {
    let event = format!(r#"{{"type":"a","payload":{{"x":"{}"}}}}"#, "y".repeat(1_000));
    let body = format!("[{}]", vec![event; 100].join(","));
    let events = json(&body).unwrap();
    assert!(body.len() > BOUNDS.event_bytes && small_enough(body.len(), &events, BOUNDS));
}
