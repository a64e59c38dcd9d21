//! Every stable code of both doors with its meaning, for the document. A test holds this to the sources.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

/// Codes of problems: what a whole request is refused with.
pub const PROBLEMS: &[(&str, &str)] = &[
    ("address_limit", "This address has made more requests than a minute allows."),
    ("admin_token_required", "Only the operators' admin token may do it."),
    ("after_invalid", "`after` is no `next_after` of another page."),
    ("all_events_rejected", "Every event of the batch is refused for good; `results` says why."),
    ("batch_empty", "The batch has no events."),
    ("batch_too_long", "The batch has more events than `limit`."),
    ("before_invalid", "`before` is no moment."),
    ("body_incomplete", "The body broke off."),
    ("body_invalid", "The body is not what this route takes; `detail` says what was expected."),
    ("body_not_json", "The body is no JSON."),
    ("body_not_utf8", "The body is not UTF-8."),
    ("body_timeout", "The body did not arrive in time."),
    ("body_too_large", "The body has more bytes than `limit`, packed or unpacked."),
    ("body_wrong_shape", "The JSON is no event, no list of events and no object with `events`."),
    ("bounds_invalid", "`min_score` is above `max_score`."),
    ("content_encoding_invalid", "The body is not packed as `Content-Encoding` says."),
    ("content_encoding_unknown", "`Content-Encoding` is none of those that are taken."),
    ("content_type_unknown", "`Content-Type` is neither JSON nor NDJSON."),
    ("cursor_invalid", "The cursor is damaged, or of another leaderboard."),
    ("database_unavailable", "The database does not answer; try again after `retry_after`."),
    ("dead_letter_not_found", "There is no such dead letter, or not of this game."),
    ("definition_invalid", "The definition cannot be used."),
    ("definitions_too_large", "All definitions of the game together would have more bytes than `limit`."),
    ("directory_unavailable", "This ingest does not know games and keys yet; try again after `retry_after`."),
    ("events_over_limit", "Every event of the batch is over a limit; send them again after `retry_after`."),
    ("field_invalid", "A member of the definition cannot be what it is; `field` names it."),
    ("field_missing", "A member that a definition needs is absent; `field` names it."),
    ("field_unknown", "A definition has no such member; `field` names it."),
    ("filter_invalid", "`kind` or `reason` is no identifier."),
    ("game_exists", "There is a game of this name already."),
    ("game_not_found", "There is no such game, or not for this key."),
    ("game_required", "With the admin token `?game=` is needed."),
    ("game_share", "The queue is filling up and this game has its share of it; try again after `retry_after`."),
    ("history_incomplete", "The change needs events that are no longer stored."),
    ("idempotency_exhausted", "All games together have as many `Idempotency-Key`s in use as there may be."),
    ("idempotency_full", "This game has as many `Idempotency-Key`s in use as it may have."),
    ("idempotency_key_invalid", "The `Idempotency-Key` is too short, too long, or has other characters."),
    ("idempotency_key_reused", "The `Idempotency-Key` was used with another body."),
    ("idempotency_unreadable", "The receipt of this `Idempotency-Key` was written by a newer version."),
    ("include_invalid", "`include` names something else than `plays` and `metadata`."),
    ("internal_error", "A bug, which is logged."),
    ("key_missing", "No key was sent."),
    ("key_not_found", "This game has no such key."),
    ("key_unknown", "The key does not exist, or was revoked."),
    ("label_invalid", "The label is no name for people."),
    ("leaderboard_not_found", "There is no such leaderboard, or not for this key."),
    ("leaderboard_rebuilding", "The leaderboard is being made; try again after `retry_after`."),
    ("limit_invalid", "`limit` is no number from 1 to 1000."),
    ("match_invalid", "A condition of `match` cannot be used, or there are too many."),
    ("method_not_allowed", "The route exists, but not with this method."),
    ("name_invalid", "The name is no name for people."),
    ("no_entry", "The player has no entry in this period."),
    ("not_found", "Ingest has no such route; events go to `POST /v1/events`."),
    ("number_invalid", "A parameter is no number; `field` names it."),
    ("path_invalid", "The path is not percent-encoded UTF-8."),
    ("period_invalid", "`period` is neither `current` nor `previous` nor an id."),
    ("period_not_found", "The leaderboard has no such period."),
    ("player_id_invalid", "The player's id is no identifier."),
    ("pointer_invalid", "A JSON pointer of the definition cannot be used; `field` says which."),
    ("queue_full", "The backlog is at its cap; try again after `retry_after`."),
    ("queue_memory_full", "The queue is nearly out of memory; try again after `retry_after`."),
    ("queue_not_found", "There is no such queue."),
    ("queue_refused", "The queue refused the batch; sending it again unchanged is safe."),
    ("queue_unreachable", "The queue does not answer; sending the same again unchanged is safe."),
    ("rebuild_failed", "The rebuild did not finish; the leaderboard is as it was."),
    ("rebuild_under_way", "The leaderboard is being rebuilt already."),
    ("recompute_under_way", "The leaderboard is being computed anew already."),
    ("reset_invalid", "The reset cannot be used."),
    ("route_not_found", "The api has no such route."),
    ("server_key_required", "A client key may not do it."),
    ("slug_mismatch", "The definition's slug is not the one in the path."),
    ("state_invalid", "`state` is none of those that dead letters have."),
    ("time_zone_unknown", "There is no such IANA time zone."),
    ("too_many_changes", "The game has made as many changes as a minute allows; try again after `retry_after`."),
    (
        "too_many_changes_at_once",
        "Too many changes are under way, of this game or of all; try again after `retry_after`.",
    ),
    ("too_many_connections", "Too many connections are open, in all or from this address."),
    ("too_many_dead_letters", "More dead letters at once than may be decided together."),
    ("too_many_keys", "The game has as many keys as it may have."),
    ("too_many_leaderboards", "The game has as many leaderboards as it may have."),
    ("too_many_leaderboards_of_type", "As many leaderboards count this event type as may."),
    ("too_many_players", "More players at once than may be looked up together."),
    ("too_many_reads", "This address has read too much without a key that no cache answers; wait for `retry_after`."),
    ("too_many_unknown_keys", "This address has tried too many keys that do not exist; wait for `retry_after`."),
];

/// Codes of single events in a receipt.
pub const EVENTS: &[(&str, &str)] = &[
    ("duplicate_in_batch", "An earlier event of this batch has the same id and time."),
    ("event_field_repeated", "The event names one of its fields twice."),
    ("event_id_invalid", "`event_id` is no identifier."),
    ("event_malformed", "The event is not valid JSON, or has a text that is not valid Unicode."),
    ("event_not_an_object", "The event is no JSON object."),
    ("event_too_large", "The event has more bytes than an event may have."),
    ("game_limit", "The game has sent as many events as a minute allows; send it again after `retry_after`."),
    ("occurred_at_in_future", "It is too far ahead of the server's clock."),
    ("occurred_at_invalid", "`occurred_at` is neither RFC 3339 nor whole milliseconds since the Unix epoch."),
    ("occurred_at_required", "`occurred_at` is absent, and `event_id` is no UUIDv7 that tells it."),
    ("occurred_at_too_old", "It happened longer ago than an event may have."),
    ("payload_duplicate_key", "An object of the payload has a name twice."),
    ("payload_invalid", "The payload is not valid JSON."),
    ("payload_lone_surrogate", "A text of the payload has half of a surrogate pair."),
    ("payload_not_an_object", "The payload is no JSON object."),
    ("payload_null_character", "A text of the payload has U+0000, which the database cannot hold."),
    ("payload_number_out_of_range", "A number of the payload has too many characters, or an exponent beyond ±308."),
    ("payload_too_deep", "The payload is nested too deep."),
    ("player_id_invalid", "`player_id` is no identifier."),
    ("player_id_required", "`player_id` is absent."),
    ("player_limit", "The player has sent as many events as a minute allows; send it again after `retry_after`."),
    ("schema_version_invalid", "`schema_version` is no whole number from 0 to 2147483647."),
    ("score_out_of_bounds", "A warning: stored, but outside the bounds of a leaderboard."),
    ("score_unusable", "A warning: stored, but a leaderboard found no integral score in its payload."),
    ("session_id_invalid", "`session_id` is no identifier."),
    ("type_invalid", "`type` is no identifier."),
    ("type_required", "`type` is absent."),
];

/// A problem's code. Schema of the document.
pub struct ProblemCode;

/// An event's code or warning. Schema of the document.
pub struct EventCode;

fn described(what: &str, codes: &[(&str, &str)]) -> RefOr<Schema> {
    let mut text = format!("{what} Stable; later versions may add some.\n\n| code | meaning |\n|---|---|\n");
    for (code, meaning) in codes {
        text.extend(["| `", *code, "` | ", *meaning, " |\n"]);
    }
    ObjectBuilder::new().schema_type(Type::String).description(Some(text)).build().into()
}

impl utoipa::PartialSchema for ProblemCode {
    fn schema() -> RefOr<Schema> {
        described("Why a request was refused.", PROBLEMS)
    }
}

impl utoipa::ToSchema for ProblemCode {}

impl utoipa::PartialSchema for EventCode {
    fn schema() -> RefOr<Schema> {
        described("What is to be said of an event.", EVENTS)
    }
}

impl utoipa::ToSchema for EventCode {}
