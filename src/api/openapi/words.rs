//! Texts that have a shape, for the document. What checks them is `domain::ids`, `domain::name` and serde.

/// A player, an event type, a session: opaque text chosen by the game. The values that broken clients send for
/// "nothing" (`null`, `undefined`, …) are refused.
#[derive(utoipa::ToSchema)]
#[schema(min_length = 1, max_length = 128, pattern = r"^[A-Za-z0-9._:@+=/~|-]+$")]
#[expect(dead_code, reason = "describes what `domain::ids` checks")]
pub struct Identifier(String);

/// A name in URLs.
#[derive(utoipa::ToSchema)]
#[schema(min_length = 1, max_length = 64, pattern = "^[a-z0-9][a-z0-9_-]*$")]
#[expect(dead_code, reason = "describes what `domain::ids` checks")]
pub struct Slug(String);

/// A name for people: no control characters, and not only white space.
#[derive(utoipa::ToSchema)]
#[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
#[expect(dead_code, reason = "describes what `domain::name` checks")]
pub struct Name(String);

/// What a key may do.
#[derive(utoipa::ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "describes a kind of key as serde writes and reads it")]
pub enum KeyKind {
    /// Publishable: post events, read public data.
    Client,
    /// Secret: everything of its game.
    Server,
}

/// A leaderboard's definition; `definition.json` says what is in it.
pub struct LeaderboardDefinition;

impl utoipa::PartialSchema for LeaderboardDefinition {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::Ref::from_schema_name("LeaderboardDefinition").into()
    }
}

impl utoipa::ToSchema for LeaderboardDefinition {}

/// A UUID.
#[derive(utoipa::ToSchema)]
#[schema(pattern = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]
#[expect(dead_code, reason = "describes what `uuid` reads")]
pub struct Uuid(String);
