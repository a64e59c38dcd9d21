//! Writing the directory: from Postgres to Redis.

use std::sync::LazyLock;

use crate::store::pool::Pool;
use redis::Script;
use redis::aio::ConnectionLike;

use super::snapshot::Snapshot;

/// Replaces the snapshot, unless somebody has meanwhile written a newer one.
///
/// `KEYS[1]` the hash; `ARGV`: version and mark that the caller saw before it read Postgres (empty: none), the new version
/// and mark, the channel, then field and value by turns. A version that is no higher than the stored one is written only
/// over the very one that the caller saw: then Postgres was restored from a backup, and not somebody else faster.
static REPLACE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"local stored = redis.call('HMGET', KEYS[1], 'version', 'mark')
          local version, mark = stored[1] or '', stored[2] or ''
          if version == ARGV[3] and mark == ARGV[4] then return 0 end
          local seen = version == ARGV[1] and mark == ARGV[2]
          if not seen and version ~= '' and tonumber(version) >= tonumber(ARGV[3]) then return 0 end
          redis.call('DEL', KEYS[1])
          redis.call('HSET', KEYS[1], 'version', ARGV[3], 'mark', ARGV[4])
          for i = 6, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
          redis.call('PUBLISH', ARGV[5], ARGV[3])
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
    let (version, mark): (Option<String>, Option<String>) =
        redis::cmd("HMGET").arg(&key).arg("version").arg("mark").query_async(redis).await?;
    let seen = (version.unwrap_or_default(), mark.unwrap_or_default());
    let (version, mark) = crate::store::directory::version(pool).await?;
    if seen == (version.to_string(), mark) {
        return Ok(false);
    }
    let snapshot = crate::store::directory::snapshot(pool).await?;
    write(redis, &key, &seen, &snapshot).await
}

async fn write<C: ConnectionLike>(
    redis: &mut C,
    key: &str,
    seen: &(String, String),
    snapshot: &Snapshot,
) -> Result<bool, DirectoryError> {
    let mut call = REPLACE.prepare_invoke();
    call.key(key).arg(&seen.0).arg(&seen.1).arg(snapshot.version).arg(&snapshot.mark).arg(key);
    for game in &snapshot.games {
        call.arg(format!("g:{}", game.id)).arg(&game.json);
    }
    let wrote: i32 = call.invoke_async(redis).await?;
    Ok(wrote == 1)
}
