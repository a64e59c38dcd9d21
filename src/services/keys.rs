//! Making and revoking keys of a game.

use secrecy::SecretString;

use super::author::Author;
use crate::domain::ids::GameId;
use crate::domain::keys::KeyKind;
use crate::store::audit_log::Actor;
use crate::store::game_bounds::{self, OverBound};
use crate::store::keys::{self, ApiKey};
use crate::store::{Pool, StoreError};

/// A key that was just made.
#[derive(Debug)]
pub struct NewKey {
    /// What is remembered of it.
    pub stored: ApiKey,
    /// The key itself: known now and never again.
    pub secret: SecretString,
}

impl From<(ApiKey, SecretString)> for NewKey {
    fn from((stored, secret): (ApiKey, SecretString)) -> Self {
        Self { stored, secret }
    }
}

/// Makes a key. The label has been checked.
///
/// # Errors
/// [`OverBound`].
pub async fn create(
    pool: &Pool,
    game: GameId,
    kind: KeyKind,
    label: Option<&str>,
    author: &Author<'_>,
) -> Result<NewKey, OverBound> {
    if let Some(bounds) = author.bounds {
        game_bounds::may_change(pool, game, bounds).await?;
    }
    let mut transaction = pool.begin().await?;
    if let Some(bounds) = author.bounds {
        game_bounds::check_keys(&mut transaction, game, bounds).await?;
        game_bounds::count_change(&mut transaction, game, bounds).await?;
    }
    let made = keys::create(&mut transaction, game, kind, label, author.actor, rand::random()).await?;
    transaction.commit().await?;
    Ok(made.into())
}

/// Revokes a key, of `game` only where one is given: within a second nobody takes it any more. `None`: there is none of
/// that number. It is never refused for a bound.
///
/// # Errors
/// [`StoreError`].
pub async fn revoke(pool: &Pool, game: Option<GameId>, id: i32, actor: Actor) -> Result<Option<ApiKey>, StoreError> {
    let mut transaction = pool.begin().await?;
    let Some(revoked) = keys::revoke(&mut transaction, game, id, actor).await? else { return Ok(None) };
    transaction.commit().await?;
    Ok(Some(revoked))
}
