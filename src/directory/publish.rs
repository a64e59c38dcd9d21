//! Writing the directory: from Postgres to Redis.

use std::sync::LazyLock;

use crate::store::pool::Pool;
use redis::Script;
use redis::aio::ConnectionLike;

use super::snapshot::Snapshot;

/// Replaces the snapshot, unless somebody has meanwhile written a newer one.
///
/// `KEYS[1]` the hash; `ARGV`: the version that the caller saw before it read Postgres (empty: none), the new
/// version, the channel, then field and value by turns. A version below the stored one is written only over the
/// very version that the caller saw: then Postgres was restored from a backup, and not somebody else faster.
static REPLACE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"local current = redis.call('HGET', KEYS[1], 'version') or ''
          if current == ARGV[2] then return 0 end
          if current ~= ARGV[1] and current ~= '' and tonumber(current) >= tonumber(ARGV[2]) then return 0 end
          redis.call('DEL', KEYS[1])
          redis.call('HSET', KEYS[1], 'version', ARGV[2])
          for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
          redis.call('PUBLISH', ARGV[3], ARGV[2])
          return 1",
    )
});

/// Why the directory was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Redis did not answer, or not as expected.
    #[error("the directory in Redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// Postgres did not answer.
    #[error("reading the directory from Postgres: {0}")]
    Postgres(#[from] sqlx::Error),
    /// A game's snapshot could not be written or read as JSON.
    #[error("the snapshot of a game: {0}")]
    Json(#[from] serde_json::Error),
}

/// The hash that holds the directory; also the channel that announces a new version.
pub fn directory_key(prefix: &str) -> String {
    format!("{prefix}:directory")
}

/// Makes Redis hold what Postgres has, if it does not already; says whether it wrote. Called after each change, and
/// by cron each second (a lost publication, a flushed Redis).
///
/// # Errors
/// [`DirectoryError`]; the next call repairs.
pub async fn publish_if_stale<C: ConnectionLike>(
    pool: &Pool,
    redis: &mut C,
    prefix: &str,
) -> Result<bool, DirectoryError> {
    let key = directory_key(prefix);
    // Redis first: what is stored there when Postgres is read afterwards cannot be newer than Postgres.
    let seen: Option<String> = redis::cmd("HGET").arg(&key).arg("version").query_async(redis).await?;
    let version = crate::store::directory::version(pool).await?;
    if seen.as_deref() == Some(version.to_string().as_str()) {
        return Ok(false);
    }
    let snapshot = crate::store::directory::snapshot(pool).await?;
    write(redis, &key, seen.as_deref().unwrap_or_default(), &snapshot).await
}

async fn write<C: ConnectionLike>(
    redis: &mut C,
    key: &str,
    seen: &str,
    snapshot: &Snapshot,
) -> Result<bool, DirectoryError> {
    let mut call = REPLACE.prepare_invoke();
    call.key(key).arg(seen).arg(snapshot.version).arg(key);
    for game in &snapshot.games {
        call.arg(format!("g:{}", game.id)).arg(serde_json::to_string(game)?);
    }
    let wrote: i32 = call.invoke_async(redis).await?;
    Ok(wrote == 1)
}
