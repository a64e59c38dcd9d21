//! The directory in Redis: where it lies, which version it is of, and how another one takes its place.

use std::collections::HashMap;
use std::sync::LazyLock;

use redis::Script;
use redis::aio::ConnectionLike;

use super::snapshot::Snapshot;

/// Replaces the snapshot, or some games of it, unless somebody has meanwhile written a newer one.
///
/// `KEYS` the hash, and the hash of digests; `ARGV`: version and mark that the caller saw before it read Postgres
/// (empty: none), the new version and mark, the channel, `all` or `some`, then a game's field, text (empty: it is gone)
/// and digest by turns. A version that is no higher than the stored one is written only over the very one that the
/// caller saw: then Postgres was restored from a backup, and not somebody else faster. Answers -1 when `some` do not
/// do: what is stored is not what they were compared with, or an older program wrote it, which keeps no digests.
static REPLACE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"local stored = redis.call('HMGET', KEYS[1], 'version', 'mark')
          local version, mark = stored[1] or '', stored[2] or ''
          if version == ARGV[3] and mark == ARGV[4] then return 0 end
          local seen = version == ARGV[1] and mark == ARGV[2]
          if not seen and version ~= '' and tonumber(version) >= tonumber(ARGV[3]) then return 0 end
          if ARGV[6] == 'some' then
              local digests = redis.call('HMGET', KEYS[2], 'version', 'mark')
              if not seen or digests[1] ~= ARGV[1] or digests[2] ~= ARGV[2] then return -1 end
          else
              redis.call('DEL', KEYS[1], KEYS[2])
          end
          for i = 7, #ARGV, 3 do
              if ARGV[i + 1] == '' then
                  redis.call('HDEL', KEYS[1], ARGV[i])
                  redis.call('HDEL', KEYS[2], ARGV[i])
              else
                  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
                  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 2])
              end
          end
          for i = 1, 2 do redis.call('HSET', KEYS[i], 'version', ARGV[3], 'mark', ARGV[4]) end
          redis.call('PUBLISH', ARGV[5], ARGV[3])
          return 1",
    )
});

/// The directory was not read or written: Redis did not answer, or not as expected.
#[derive(Debug, thiserror::Error)]
#[error("the directory in Redis: {0}")]
pub struct DirectoryError(#[from] redis::RedisError);

/// Version and mark of what Redis holds; both empty: nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedVersion {
    version: String,
    mark: String,
}

impl PublishedVersion {
    /// Whether it is this one.
    pub fn is(&self, version: i64, mark: &str) -> bool {
        self.version == version.to_string() && self.mark == mark
    }
}

/// The hash that holds the directory; also the channel that announces a new version.
pub fn directory_key(prefix: &str) -> String {
    format!("{prefix}:directory")
}

/// The hash that holds a digest of each game's text, with the version and mark of the directory that they are of, in
/// the slot of [`directory_key`]. Who follows the directory reads only the games that differ; where it is missing, or
/// of another version, all of them.
pub fn digests_key(prefix: &str) -> String {
    format!("{{{}}}:digests", directory_key(prefix))
}

/// Which version Redis holds.
///
/// # Errors
/// [`DirectoryError`].
pub async fn published<C: ConnectionLike>(redis: &mut C, prefix: &str) -> Result<PublishedVersion, DirectoryError> {
    let mut command = redis::cmd("HMGET");
    command.arg(directory_key(prefix)).arg("version").arg("mark");
    let (version, mark): (Option<String>, Option<String>) = command.query_async(redis).await?;
    Ok(PublishedVersion { version: version.unwrap_or_default(), mark: mark.unwrap_or_default() })
}

/// Puts a snapshot in the place of what Redis holds; says whether it did. `seen` is what Redis held before the snapshot
/// was made ([`published`]): somebody else may have written a newer one since, which stays.
///
/// # Errors
/// [`DirectoryError`].
pub async fn replace<C: ConnectionLike>(
    redis: &mut C,
    prefix: &str,
    seen: &PublishedVersion,
    snapshot: &Snapshot,
) -> Result<bool, DirectoryError> {
    let key = directory_key(prefix);
    let begin = |which: &str| {
        let mut call = REPLACE.prepare_invoke();
        call.key(&key).key(digests_key(prefix));
        call.arg(&seen.version).arg(&seen.mark).arg(snapshot.version).arg(&snapshot.mark).arg(&key).arg(which);
        call
    };
    let games: Vec<(String, &str, String)> =
        snapshot.games.iter().map(|game| (format!("g:{}", game.id), game.json.as_str(), game.digest())).collect();
    let mut stored: HashMap<String, String> = redis::cmd("HGETALL").arg(digests_key(prefix)).query_async(redis).await?;
    let (version, mark) = (stored.remove("version"), stored.remove("mark"));
    if version.as_ref() == Some(&seen.version) && mark.as_ref() == Some(&seen.mark) {
        let mut call = begin("some");
        for (field, text, digest) in &games {
            if stored.remove(field).as_ref() != Some(digest) {
                call.arg(field).arg(*text).arg(digest);
            }
        }
        for gone in stored.keys() {
            call.arg(gone).arg("").arg("");
        }
        let wrote: i32 = call.invoke_async(redis).await?;
        if wrote >= 0 {
            return Ok(wrote == 1);
        }
    }
    let mut call = begin("all");
    for (field, text, digest) in &games {
        call.arg(field).arg(*text).arg(digest);
    }
    let wrote: i32 = call.invoke_async(redis).await?;
    Ok(wrote == 1)
}
