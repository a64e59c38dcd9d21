//! Leases are renewed each second: nothing may lock their table for longer.

use crate::support::postgres::database;

/// To cut a table it locks it against everybody, for as long as the disk takes.
#[tokio::test]
async fn vacuum_does_not_cut_the_table_of_leases() {
    let database = database().await;
    for statement in
        ["INSERT INTO leases SELECT 'x-' || n, 'h', n, now() FROM generate_series(1, 2000) n", "DELETE FROM leases"]
    {
        sqlx::query(statement).execute(&database.pool).await.unwrap();
    }
    let size = async || {
        let size = "SELECT pg_relation_size('leases')";
        sqlx::query_scalar::<_, i64>(size).fetch_one(&database.pool).await.unwrap()
    };
    let before = size().await;
    assert!(before > 0);
    sqlx::raw_sql("VACUUM leases").execute(&mut database.superuser().await).await.unwrap();
    assert_eq!(size().await, before);
}
