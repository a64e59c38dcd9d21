//! Making a game, with the keys by which its first events and its first leaderboard come.

use super::keys::NewKey;
use crate::domain::ids::Slug;
use crate::domain::keys::KeyKind;
use crate::store::audit_log::Actor;
use crate::store::games::{self, Game};
use crate::store::{Pool, StoreError, keys};

/// A new game with its first keys.
#[derive(Debug)]
pub struct NewGame {
    /// The game.
    pub game: Game,
    /// For the game's binary.
    pub client_key: NewKey,
    /// For the studio's servers.
    pub server_key: NewKey,
}

/// Makes a game with a client and a server key; `None`: there is one of that name.
///
/// # Errors
/// [`StoreError`].
pub async fn create(pool: &Pool, slug: &Slug, name: &str, actor: Actor) -> Result<Option<NewGame>, StoreError> {
    let mut transaction = pool.begin().await?;
    let Some(game) = games::create(&mut transaction, slug, name, actor).await? else { return Ok(None) };
    let client = keys::create(&mut transaction, game.id, KeyKind::Client, None, actor, rand::random()).await?;
    let server = keys::create(&mut transaction, game.id, KeyKind::Server, None, actor, rand::random()).await?;
    transaction.commit().await?;
    Ok(Some(NewGame { game, client_key: client.into(), server_key: server.into() }))
}
