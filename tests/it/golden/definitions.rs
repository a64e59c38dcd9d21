//! Leaderboards as people write them: what is taken and how it is stored, and what is refused in which words.

use std::fmt::Write as _;

use scoreline::domain::board_text::parse_spec;

use super::compare;

/// What stands beside slug, event type and score in a definition that is whole without it.
const BESIDE: [&str; 46] = [
    "",
    r#","name":"Weekly best""#,
    r#","public":true,"server_only":true,"tie_policy":"competition""#,
    r#","operator":"incr","order":"ascending""#,
    r#","order":"asc""#,
    r#","subscore":"/moves","metadata":"/replay""#,
    r#","subscore_pointer":"/moves""#,
    r#","subscore":7"#,
    r#","match":[{"pointer":"/mode","equals":"ranked"},{"pointer":"/map","any_of":["a",1,true,null]}]"#,
    r#","min_score":-1,"max_score":9223372036854775807"#,
    r#","reset":"daily","time_zone":"Europe/Berlin","grace_seconds":0"#,
    r#","reset":"weekly""#,
    r#","reset":"monthly""#,
    r#","reset":{"cron":"0 4 * * FRI"}"#,
    r#","reset":"never""#,
    r#","name":7"#,
    r#","name":"""#,
    r#","name":" x""#,
    r#","public":"yes""#,
    r#","server_only":1"#,
    r#","tie_policy":"dense""#,
    r#","operator":"sum""#,
    r#","order":"up""#,
    r#","subscore":true"#,
    r#","subscore":"moves""#,
    r#","metadata":"replay~2""#,
    r#","metadata":7"#,
    r#","match":{}"#,
    r#","match":[{"pointer":"/m"}]"#,
    r#","match":[{"pointer":"m","equals":1}]"#,
    r#","match":[{"pointer":"/m","equals":1,"any_of":[1]}]"#,
    r#","match":[{"pointer":"/m","any_of":[]}]"#,
    r#","min_score":2,"max_score":1"#,
    r#","min_score":"1""#,
    r#","max_score":1.5"#,
    r#","max_score":9223372036854775808"#,
    r#","reset":"hourly""#,
    r#","reset":{"cron":"x"}"#,
    r#","reset":{"cron":"* * * * *"}"#,
    r#","reset":{"lunar":1}"#,
    r#","time_zone":"Mars/Olympus""#,
    r#","time_zone":7"#,
    r#","grace_seconds":2678401"#,
    r#","grace_seconds":-1"#,
    r#","colour":"red""#,
    r#","eventType":"x""#,
];

/// Definitions that are wrong as a whole.
const WHOLE: [&str; 15] = [
    "",
    "[",
    "[]",
    "7",
    "{}",
    r#"{"slug":"g","score":"/s"}"#,
    r#"{"slug":"g","event_type":"e"}"#,
    r#"{"event_type":"e","score":1}"#,
    r#"{"slug":"G G","event_type":"e","score":1}"#,
    r#"{"slug":"g","event_type":"no type","score":1}"#,
    r#"{"slug":"g","event_type":"e","score":"s"}"#,
    r#"{"slug":"g","event_type":"e","score":null}"#,
    r#"{"slug":"g","event_type":"e","score":1.5}"#,
    r#"{"slug":"g","slug":"g","event_type":"e","score":1}"#,
    r#"{"slug":"g","event_type":"e","score":1,"name":"\u0000"}"#,
];

fn line(found: &mut String, text: &str, slug: Option<&str>) {
    let read = match parse_spec(text.as_bytes(), slug) {
        Ok(spec) => format!("stored as {}", serde_json::to_string(&spec).unwrap()),
        Err(problem) => format!("{} at '{}': {problem}", problem.code, problem.field),
    };
    writeln!(found, "{text}\n    {read}").unwrap();
}

#[test]
fn definitions_are_stored_and_refused_the_same() {
    let mut found = String::new();
    for beside in BESIDE {
        line(&mut found, &format!(r#"{{"slug":"g","event_type":"e","score":"/s"{beside}}}"#), None);
    }
    for text in WHOLE {
        line(&mut found, text, None);
    }
    for text in [r#"{"event_type":"e","score":1}"#, r#"{"slug":"h","event_type":"e","score":1}"#] {
        line(&mut found, text, Some("g"));
    }
    let long = format!(r#"{{"slug":"g","event_type":"e","score":"/{}"}}"#, "s".repeat(512));
    line(&mut found, &long, None);
    let many = vec![r#"{"pointer":"/m","equals":1}"#; 100].join(",");
    line(&mut found, &format!(r#"{{"slug":"g","event_type":"e","score":1,"match":[{many}]}}"#), None);
    compare("definitions.txt", &found);
}
