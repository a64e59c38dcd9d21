//! (tests)

use scoreline::domain::clock::Micros;

use crate::support;

#[tokio::test]
async fn moments_pass_through_postgres_exactly() {
    let database = support::postgres::database().await;
    for micros in [0, 1, -1, 1_763_719_200_123_457, -62_135_596_800_000_000] {
        let moment = Micros(micros);
        let (back, text): (Micros, String) =
            sqlx::query_as("SELECT $1, to_char($1 AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US')")
                .bind(moment)
                .fetch_one(&database.pool)
                .await
                .unwrap();
        assert_eq!(back, moment, "{text}");
        let many: Vec<Micros> = sqlx::query_scalar("SELECT unnest($1::timestamptz[])")
            .bind(vec![moment; 2])
            .fetch_all(&database.pool)
            .await
            .unwrap();
        assert_eq!(many, [moment; 2]);
    }
}
