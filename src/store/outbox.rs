//! What a look at an outbox tells those who take nothing from it. The ids of its rows grow; those that were taken leave
//! dead ones, over which a look walks that does not begin behind them.

use sqlx::{AssertSqlSafe, PgConnection};

use super::StoreError;

/// What a look has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// How much waits.
    pub count: i64,
    /// The lowest id that waits behind where the look began.
    pub oldest: Option<i64>,
    /// The highest id that was given out.
    pub issued: i64,
}

fn glance((count, oldest, issued): (i64, Option<i64>, i64)) -> Glance {
    Glance { count, oldest, issued }
}

/// What waits to be taken, a table each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outbox {
    /// Facts to be folded: a row has many.
    Facts,
    /// Markers to be published.
    Markers,
}

impl Outbox {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Facts, Self::Markers];

    /// A statement for this one: `{outbox}` is its table, and `{held}` how much a row of it holds.
    pub fn fill(self, statement: &str) -> String {
        let (table, held) = match self {
            Self::Facts => ("score_facts", "fact_count"),
            Self::Markers => ("dirty_entries", "1"),
        };
        statement.replace("{outbox}", table).replace("{held}", held)
    }

    /// Whether rows of these shards wait behind `after`: the count is 1 or 0.
    pub async fn any(self, connection: &mut PgConnection, shards: &[i16], after: i64) -> Result<Glance, StoreError> {
        let statement = self.fill(
            "SELECT (oldest IS NOT NULL)::int::bigint, oldest, issued
               FROM (SELECT (SELECT id FROM {outbox} WHERE shard = ANY ($1) AND id > $2 ORDER BY id LIMIT 1) AS oldest,
                            (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {outbox}_id_seq) AS issued) AS seen",
        );
        sqlx::query_as(AssertSqlSafe(statement)).bind(shards).bind(after).fetch_one(connection).await.map(glance)
    }

    /// How much waits: in at most 10,000 rows behind `after`. What was put aside waits for another program.
    pub async fn waiting(self, connection: &mut PgConnection, after: i64) -> Result<Glance, StoreError> {
        let statement = self.fill(
            "WITH few AS MATERIALIZED (
                 SELECT id, {held} AS held FROM {outbox} WHERE shard >= 0 AND id > $1 ORDER BY id LIMIT 10000)
             SELECT (SELECT coalesce(sum(held), 0) FROM few)::bigint,
                    (SELECT min(id) FROM few),
                    (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {outbox}_id_seq)",
        );
        sqlx::query_as(AssertSqlSafe(statement)).bind(after).fetch_one(connection).await.map(glance)
    }

    /// How much was put aside: in at most 10,000 rows.
    pub async fn aside(self, connection: &mut PgConnection) -> Result<i64, StoreError> {
        let statement = self.fill(
            "SELECT coalesce(sum(held), 0)::bigint
               FROM (SELECT {held} AS held FROM {outbox} WHERE shard < 0 ORDER BY id LIMIT 10000) AS aside",
        );
        sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(connection).await
    }
}
