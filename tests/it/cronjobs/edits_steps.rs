//! What happens to a board in the lives that `edits_property.rs` plays.

use proptest::prelude::*;
use serde_json::{Value, json};

/// What happens to the board, or to the cron that works on it.
#[derive(Debug, Clone)]
pub enum Step {
    Edit(Value),
    Recompute,
    DeleteAndCreate(Value),
    /// Player, score, hours ago, whether of the first event type.
    Score(Vec<(u8, i64, i64, bool)>),
    Fold,
    /// Hours pass, and what is over is closed.
    Close(i64),
    Build,
    /// Cron dies while it builds, after so many looks.
    Die(u8),
    /// What is older than retention is dropped, and what nobody needs any more is removed.
    Drop,
    /// So many months pass that all is closed, and all events are dropped.
    Rest,
    /// What waits is published; boards that Redis does not have are rebuilt.
    Publish,
    /// Redis loses everything.
    Flush,
    /// All is compared, as at the end.
    Compare,
}

pub fn definition() -> impl Strategy<Value = Value> {
    (
        prop::sample::select(vec!["best", "set", "incr", "decr"]),
        prop::sample::select(vec!["ascending", "descending"]),
        prop::sample::select(vec![
            json!("never"),
            json!("daily"),
            json!("weekly"),
            json!({"cron": "0 0 * * *"}),
            json!({"cron": "0 */6 * * *"}),
        ]),
        prop::sample::select(vec!["UTC", "Europe/Berlin"]),
        prop::sample::select(vec![0, 600, 90_000]),
        prop::sample::select(vec!["game_ended", "race_ended"]),
        any::<bool>(),
    )
        .prop_map(|(operator, order, reset, zone, grace, event_type, public)| {
            json!({"operator": operator, "order": order, "reset": reset, "time_zone": zone, "grace_seconds": grace,
                   "event_type": event_type, "public": public, "metadata": "/level"})
        })
}

/// How some lives begin: resets become longer in the middle of a period whose first part is final. A first definition,
/// and what happens then.
pub fn longer_resets() -> impl Strategy<Value = (Value, Vec<Step>)> {
    let resets = prop::sample::select(vec![
        (json!({"cron": "0 */6 * * *"}), json!("daily")),
        (json!({"cron": "0 */6 * * *"}), json!("weekly")),
        (json!("daily"), json!("weekly")),
    ]);
    let scores = prop::collection::vec((0u8..5, -20i64..20, 0i64..6, Just(true)), 1..6);
    (definition(), resets, scores, 19i64..40).prop_map(|(mut first, (short, long), scores, hours)| {
        (first["reset"], first["grace_seconds"], first["event_type"]) = (short, json!(600), json!("game_ended"));
        let mut edited = first.clone();
        edited["reset"] = long;
        let steps = vec![Step::Score(scores), Step::Fold, Step::Close(hours), Step::Edit(edited), Step::Compare];
        (first, steps)
    })
}

/// How others begin: a studio edits its board for the next season, when of the last one nothing is left but
/// what is final.
pub fn next_season() -> impl Strategy<Value = (Value, Vec<Step>)> {
    let scores = prop::collection::vec((0u8..5, -20i64..20, 0i64..60, Just(true)), 1..6);
    let reset = prop::sample::select(vec!["daily", "weekly"]);
    (definition(), reset, definition(), scores).prop_map(|(mut first, reset, edited, scores)| {
        (first["reset"], first["event_type"]) = (json!(reset), json!("game_ended"));
        let played = vec![Step::Score(scores), Step::Fold, Step::Close(400), Step::Rest];
        // What is final needs no baseline an hour later.
        (first, [played, vec![Step::Close(2), Step::Drop, Step::Edit(edited)]].concat())
    })
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let scores = prop::collection::vec((0u8..5, -20i64..20, 0i64..60, prop::bool::weighted(0.8)), 1..12);
    let step = prop_oneof![
        3 => definition().prop_map(Step::Edit),
        1 => Just(Step::Recompute),
        1 => definition().prop_map(Step::DeleteAndCreate),
        4 => scores.prop_map(Step::Score),
        3 => Just(Step::Fold),
        3 => (1i64..40).prop_map(Step::Close),
        2 => Just(Step::Build),
        2 => (0u8..12).prop_map(Step::Die),
        1 => Just(Step::Drop),
        1 => Just(Step::Rest),
        2 => Just(Step::Publish),
        1 => Just(Step::Flush),
    ];
    prop::collection::vec(step, 6..18)
}
