//! `scoreline game` and `scoreline key`.

use clap::{Args, Subcommand, ValueEnum};
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::With;
use super::reach::{Answer, Failure};
use super::table::table;
use crate::domain::ids::Slug;
use crate::domain::keys::KeyKind;
use crate::domain::name::check_name;
use crate::services;
use crate::services::author::Author;
use crate::store::audit_log::Actor;
use crate::store::{games, keys};

const ACTOR: Actor = Actor::CommandLine;

/// `scoreline game`.
#[derive(Subcommand, Debug, Clone)]
pub enum GameCommand {
    /// Create a game; prints its first client and server key, which are shown only now.
    Create(Box<With<NewGame>>),
    /// All games.
    List(Box<With<super::boards::Nothing>>),
}

/// A game to create.
#[derive(Args, Debug, Clone)]
pub struct NewGame {
    /// Its name in URLs.
    slug: String,
    /// Its name for people; the slug when absent.
    #[arg(long)]
    name: Option<String>,
}

/// `scoreline key`.
#[derive(Subcommand, Debug, Clone)]
pub enum KeyCommand {
    /// Make a key; it is shown only now.
    Create(Box<With<NewKey>>),
    /// All keys of a game.
    List(Box<With<OfGame>>),
    /// Revoke a key: within a second nobody takes it any more.
    Revoke(Box<With<Revoke>>),
}

/// A key to make.
#[derive(Args, Debug, Clone)]
pub struct NewKey {
    /// Whose.
    #[arg(long)]
    game: String,
    /// What it may do.
    #[arg(long)]
    kind: Kind,
    /// What to call it.
    #[arg(long)]
    label: Option<String>,
}

/// What a key may do.
#[derive(ValueEnum, Debug, Clone, Copy)]
pub enum Kind {
    /// Publishable: post events, read public data.
    Client,
    /// Secret: everything of its game.
    Server,
}

/// A game.
#[derive(Args, Debug, Clone)]
pub struct OfGame {
    /// Which game.
    #[arg(long)]
    pub game: String,
}

/// A key to revoke.
#[derive(Args, Debug, Clone)]
pub struct Revoke {
    /// Its number (`key list`).
    id: i32,
}

/// Runs `scoreline game`.
pub async fn run_game(command: GameCommand) -> (bool, Result<Answer, Failure>) {
    match command {
        GameCommand::Create(with) => (with.reach.json, create(*with).await),
        GameCommand::List(with) => (with.reach.json, list(*with).await),
    }
}

async fn create(with: With<NewGame>) -> Result<Answer, Failure> {
    let slug = Slug::parse(&with.what.slug).map_err(|e| Failure::Input(format!("the slug {e}")))?;
    let name = with.what.name.as_deref().unwrap_or(slug.as_str());
    check_name(name).map_err(|e| Failure::Input(e.to_string()))?;
    let pool = with.reach.pool()?;
    let new = services::games::create(&pool, &slug, name, ACTOR).await?;
    let new = new.ok_or_else(|| Failure::Refused(format!("there is a game '{slug}' already")))?;
    with.reach.directory_changed(&pool).await;
    let (client, server) = (new.client_key.secret.expose_secret(), new.server_key.secret.expose_secret());
    let text = format!("game        {slug}\nclient key  {client}\nserver key  {server}\nThe keys are shown only now.");
    Ok(Answer::new(&json!({ "game": new.game, "client_key": client, "server_key": server }), text))
}

async fn list(with: With<super::boards::Nothing>) -> Result<Answer, Failure> {
    let all = games::list(&with.reach.pool()?).await?;
    let limit = |limit: Option<i32>| limit.map_or("default".to_owned(), |l| l.to_string());
    let rows: Vec<[String; 5]> = all
        .iter()
        .map(|g| {
            let limits = (limit(g.limit_player_events), limit(g.limit_game_events));
            [g.id.to_string(), g.slug.clone(), g.name.clone(), limits.0, limits.1]
        })
        .collect();
    let text = table(["ID", "GAME", "NAME", "EVENTS/MIN/PLAYER", "EVENTS/MIN"], &rows, "no games");
    Ok(Answer::new(&json!({ "games": all }), text))
}

/// Runs `scoreline key`.
pub async fn run_key(command: KeyCommand) -> (bool, Result<Answer, Failure>) {
    match command {
        KeyCommand::Create(with) => (with.reach.json, create_key(*with).await),
        KeyCommand::List(with) => (with.reach.json, list_keys(*with).await),
        KeyCommand::Revoke(with) => (with.reach.json, revoke(*with).await),
    }
}

async fn create_key(with: With<NewKey>) -> Result<Answer, Failure> {
    let pool = with.reach.pool()?;
    let game = with.reach.game(&pool, &with.what.game).await?;
    let kind = match with.what.kind {
        Kind::Client => KeyKind::Client,
        Kind::Server => KeyKind::Server,
    };
    let label = with.what.label.as_deref();
    if let Some(Err(error)) = label.map(check_name) {
        return Err(Failure::Input(format!("the label: {error}")));
    }
    let made = services::keys::create(&pool, game.id, kind, label, &Author::COMMAND_LINE).await?;
    with.reach.directory_changed(&pool).await;
    let (secret, id) = (made.secret.expose_secret(), made.stored.id);
    let text = format!("{secret}\nKey {id} of '{}'. It is shown only now.", game.slug);
    Ok(Answer::new(&json!({ "key": secret, "id": id, "kind": kind, "game": game.slug }), text))
}

async fn list_keys(with: With<OfGame>) -> Result<Answer, Failure> {
    let pool = with.reach.pool()?;
    let game = with.reach.game(&pool, &with.what.game).await?;
    let all = keys::list(&pool, game.id).await?;
    let rows: Vec<[String; 6]> = all
        .iter()
        .map(|k| {
            let revoked = k.revoked_at.map_or(String::new(), |at| at.to_string());
            let label = k.label.clone().unwrap_or_default();
            let hint = format!("{}…", k.hint);
            [k.id.to_string(), k.kind.name().to_owned(), hint, label, k.created_at.to_string(), revoked]
        })
        .collect();
    let text = table(["ID", "KIND", "KEY", "LABEL", "CREATED", "REVOKED"], &rows, "no keys");
    Ok(Answer::new(&json!({ "keys": all }), text))
}

async fn revoke(with: With<Revoke>) -> Result<Answer, Failure> {
    let pool = with.reach.pool()?;
    let id = with.what.id;
    let revoked = services::keys::revoke(&pool, None, id, ACTOR).await?;
    let revoked = revoked.ok_or_else(|| Failure::NotFound(format!("there is no key {id}")))?;
    with.reach.directory_changed(&pool).await;
    Ok(Answer::new(&revoked, format!("key {id} ({}…) is revoked", revoked.hint)))
}
