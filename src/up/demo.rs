//! The demo game: made once, with keys that stay the same from run to run.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use secrecy::{ExposeSecret, SecretString};

use crate::directory::{self, Directory, KeyKind};
use crate::domain::board::LeaderboardSpec;
use crate::domain::ids::{GameId, Slug};
use crate::redis_connection::settings::{RedisConfig, RedisUse};
use crate::redis_connection::{Connection, Timeouts};
use crate::services::directory_publication::publish_if_stale;
use crate::stack::Home;
use crate::store::audit_log::Actor;
use crate::store::pool::Pool;
use crate::store::settings::PostgresConfig;
use crate::store::{games, keys, leaderboards};

/// Where the keys are kept, as JSON.
const FILE: &str = "demo.json";
/// The game's name in URLs.
pub const GAME: &str = "demo";

/// Its leaderboards, as one would write them for `scoreline leaderboard apply`.
const LEADERBOARDS: [&str; 3] = [
    r#"{"slug":"global","name":"Global","public":true,"event_type":"game_ended","score":"/score","operator":"best","order":"descending","reset":"never"}"#,
    r#"{"slug":"weekly","name":"This week","public":true,"event_type":"game_ended","score":"/score","operator":"best","order":"descending","reset":"weekly"}"#,
    r#"{"slug":"wins","name":"Most wins","public":true,"event_type":"game_won","score":1,"operator":"incr","order":"descending","reset":"never"}"#,
];

/// The game and its keys.
#[derive(Debug, Clone)]
pub struct Demo {
    /// Publishable.
    pub client_key: SecretString,
    /// Secret.
    pub server_key: SecretString,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Kept {
    client_key: String,
    server_key: String,
}

/// Makes the game, its keys and its leaderboards where they are missing, and publishes the directory.
///
/// # Errors
/// Postgres, Redis or the home cannot be used.
pub async fn prepare(postgres: &PostgresConfig, redis: &RedisConfig, home: &Home) -> Result<Demo, String> {
    let pool = Pool::lazy(postgres, "up").map_err(|e| e.to_string())?;
    let demo = prepare_with(&pool, redis, home).await;
    pool.close().await;
    demo
}

async fn prepare_with(pool: &Pool, redis: &RedisConfig, home: &Home) -> Result<Demo, String> {
    let game = make_game(pool).await?;
    let mut redis_connection =
        Connection::open(redis.url_of(RedisUse::Cache), Timeouts::default()).map_err(|e| e.to_string())?;
    let prefix = redis.redis_prefix.as_str();
    publish_if_stale(pool, &mut redis_connection, prefix).await.map_err(|e| e.to_string())?;
    let known = directory::load(&mut redis_connection, prefix).await.map_err(|e| e.to_string())?.unwrap_or_default();
    let demo = match kept(home, &known) {
        Some(demo) => demo,
        None => {
            let demo = make_keys(pool, game).await?;
            keep(home, &demo)?;
            demo
        }
    };
    make_leaderboards(pool, game, &known).await?;
    publish_if_stale(pool, &mut redis_connection, prefix).await.map_err(|e| e.to_string())?;
    Ok(demo)
}

async fn make_game(pool: &Pool) -> Result<GameId, String> {
    if let Some(game) = games::by_slug(pool, GAME).await.map_err(|e| e.to_string())? {
        return Ok(game.id);
    }
    let slug = Slug::parse(GAME).map_err(|e| e.to_string())?;
    let mut transaction = pool.begin().await.map_err(|e| e.to_string())?;
    let made = games::create(&mut transaction, &slug, "Demo", Actor::CommandLine).await.map_err(|e| e.to_string())?;
    transaction.commit().await.map_err(|e| e.to_string())?;
    made.map(|game| game.id).ok_or_else(|| "somebody else makes the demo game at this moment".to_owned())
}

/// The keys of an earlier run, if they still open the game's doors.
fn kept(home: &Home, known: &Directory) -> Option<Demo> {
    let kept: Kept = serde_json::from_slice(&std::fs::read(home.join(FILE)).ok()?).ok()?;
    let opens = |key: &str, kind: KeyKind| {
        known.keys.get(&directory::hash_key(key)).is_some_and(|k| k.kind == kind && k.game.slug.as_str() == GAME)
    };
    (opens(&kept.client_key, KeyKind::Client) && opens(&kept.server_key, KeyKind::Server)).then(|| Demo {
        client_key: SecretString::from(kept.client_key),
        server_key: SecretString::from(kept.server_key),
    })
}

async fn make_keys(pool: &Pool, game: GameId) -> Result<Demo, String> {
    let mut random = StdRng::from_os_rng();
    let mut transaction = pool.begin().await.map_err(|e| e.to_string())?;
    let mut made = Vec::with_capacity(2);
    for kind in [KeyKind::Client, KeyKind::Server] {
        let (_, key) =
            keys::create(&mut transaction, game, kind, Some("made by up"), Actor::CommandLine, random.random())
                .await
                .map_err(|e| e.to_string())?;
        made.push(key);
    }
    transaction.commit().await.map_err(|e| e.to_string())?;
    match <[SecretString; 2]>::try_from(made) {
        Ok([client_key, server_key]) => Ok(Demo { client_key, server_key }),
        Err(_) => Err("two keys were not made".to_owned()),
    }
}

fn keep(home: &Home, demo: &Demo) -> Result<(), String> {
    let kept = Kept {
        client_key: demo.client_key.expose_secret().to_owned(),
        server_key: demo.server_key.expose_secret().to_owned(),
    };
    let text = serde_json::to_vec_pretty(&kept).map_err(|e| e.to_string())?;
    home.write_private(FILE, &text).map_err(|e| e.to_string())
}

/// Leaves alone what is there: somebody may have edited it.
async fn make_leaderboards(pool: &Pool, game: GameId, known: &Directory) -> Result<(), String> {
    let existing = known.games.values().find(|g| g.id == game);
    for text in LEADERBOARDS {
        let spec: LeaderboardSpec = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if existing.is_some_and(|game| game.leaderboards.contains_key(&spec.slug)) {
            continue;
        }
        let mut transaction = pool.begin().await.map_err(|e| e.to_string())?;
        leaderboards::apply(&mut transaction, game, &spec, false, Actor::CommandLine)
            .await
            .map_err(|e| e.to_string())?;
        transaction.commit().await.map_err(|e| e.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_leaderboards_are_valid_and_named_as_promised() {
        let specs = LEADERBOARDS.map(|text| serde_json::from_str::<LeaderboardSpec>(text).unwrap());
        assert_eq!(specs.map(|spec| spec.slug.to_string()), ["global", "weekly", "wins"]);
    }
}
