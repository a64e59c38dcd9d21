//! What a run prepares before anything is disturbed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use secrecy::ExposeSecret;

use super::ChaosError;
use super::boards::Board;
use super::proxy::Proxy;
use super::scenario::Scenario;
use super::world::{GAME, Link, NUISANCE, REFUSED_TYPE};
use crate::bench::rig::{Rig, Services};
use crate::directory::KeyKind;
use crate::domain::ids::Slug;
use crate::queue::{Queue, Timeouts};
use crate::runtime::clock::CLOCK_AHEAD;
use crate::stack::Stack;
use crate::store::audit_log::Actor;
use crate::store::pool::Pool;
use crate::store::{games, keys, leaderboards, migrations};

/// What is prepared on running services.
#[derive(Debug)]
pub struct Parts {
    /// See [`super::world::World`].
    pub rig: Rig,
    /// See [`super::world::World`].
    pub pool: Pool,
    /// See [`super::world::World`].
    pub admin: Pool,
    /// See [`super::world::World`].
    pub queue: Queue,
    /// See [`super::world::World`].
    pub key: String,
    /// See [`super::world::World`].
    pub nuisance_key: String,
    /// See [`super::world::World`].
    pub boards: Vec<Board>,
    /// See [`super::world::World`].
    pub proxies: BTreeMap<Link, Proxy>,
    /// See [`super::world::World`].
    pub redis: redis::Client,
}

impl Parts {
    /// Prepares schema, game, boards and proxies on running services.
    ///
    /// # Errors
    /// [`ChaosError`].
    pub async fn prepare(stack: &Stack, scenario: &Scenario) -> Result<Self, ChaosError> {
        let services = services(stack)?;
        let pool = sqlx::postgres::PgPoolOptions::new().max_connections(4).connect(&services.database_url).await?;
        let pool = Pool::new(pool);
        let owner = stack.postgres().map_or(&services.database_url, |postgres| &postgres.owner_url);
        migrations::update(owner, &services.database_url).await.map_err(|e| ChaosError::Setup(e.to_string()))?;
        let admin = stack.postgres().map_or(&services.database_url, |postgres| &postgres.admin_url);
        let admin = Pool::new(sqlx::postgres::PgPoolOptions::new().max_connections(2).connect(admin).await?);
        // The one way to a job that deserves to die without breaking anything: a rule that ingest does not know.
        let refuse = format!("ALTER TABLE events ADD CONSTRAINT chaos_refuses CHECK (type <> '{REFUSED_TYPE}')");
        sqlx::raw_sql(sqlx::AssertSqlSafe(refuse)).execute(pool.inner()).await?;
        let boards = Board::first_ones()?;
        let key = make_game(&pool, GAME, &boards).await?;
        let nuisance_key = make_game(&pool, NUISANCE, &[]).await?;
        let queue = Queue::connect(&services.redis_url, "sl", "q0", Timeouts::default())
            .await
            .map_err(|e| ChaosError::Setup(e.to_string()))?;
        let redis = redis::Client::open(services.redis_url.as_str())?;
        let mut rig = Rig::new(services, own_folder()?)?;
        rig.logs = Some(stack.home().path().to_owned());
        rig.environment = environment(scenario);
        let mut proxies = BTreeMap::new();
        for link in Link::all() {
            let to = match link {
                Link::Ingest => rig.ingest,
                Link::Api => rig.api,
                Link::Redis(_) => address_in(&rig.services.redis_url)?,
                Link::Postgres(_) => address_in(&rig.services.database_url)?,
            };
            proxies.insert(link, Proxy::before(to).await.map_err(|e| ChaosError::Io("a proxy", e))?);
        }
        Ok(Self { rig, pool, admin, queue, key, nuisance_key, boards, proxies, redis })
    }
}

/// What every process and command of a run is told.
pub fn environment(scenario: &Scenario) -> Vec<(String, String)> {
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    vec![
        set(CLOCK_AHEAD, &scenario.ahead.to_string()),
        // Few players play for many.
        set("RATE_LIMIT_PLAYER_EVENTS", "0"),
        // Closed periods leave Redis during a run.
        set("CLOSED_PERIOD_REDIS_TTL", "20"),
        set("LOG", &std::env::var("CHAOS_LOG").unwrap_or_else(|_| "info".to_owned())),
    ]
}

/// Where this program and the others are.
pub fn own_folder() -> Result<PathBuf, ChaosError> {
    let own = std::env::current_exe().map_err(|e| ChaosError::Io("the programs' folder", e))?;
    Ok(own.parent().map(PathBuf::from).unwrap_or_default())
}

/// The address in a URL, `…@127.0.0.1:5432/…`.
pub fn address_in(url: &str) -> Result<SocketAddr, ChaosError> {
    let after = url.rsplit_once('@').map_or(url, |(_, after)| after);
    let address = after.split('/').next().unwrap_or_default();
    address.parse().map_err(|_| ChaosError::Setup("a service has no address".to_owned()))
}

fn services(stack: &Stack) -> Result<Services, ChaosError> {
    let missing = || ChaosError::Setup("a service is missing".to_owned());
    Ok(Services {
        database_url: stack.database_url().ok_or_else(missing)?.to_owned(),
        postgres_pid: 0,
        redis_url: stack.redis_url().ok_or_else(missing)?.to_owned(),
        redis_pid: 0,
    })
}

/// A game with its leaderboards; returns its server key, to which the per-address limit does not apply.
async fn make_game(pool: &Pool, name: &str, boards: &[Board]) -> Result<String, ChaosError> {
    let setup = |what: String| ChaosError::Setup(format!("the game could not be made: {what}"));
    let slug = Slug::parse(name).map_err(|e| setup(e.to_string()))?;
    let mut transaction = pool.begin().await?;
    let game = games::create(&mut transaction, &slug, name, Actor::CommandLine)
        .await?
        .ok_or_else(|| setup("its name is taken".to_owned()))?;
    let kind = KeyKind::Server;
    let (_, key) = keys::create(&mut transaction, game.id, kind, None, Actor::CommandLine, rand::random()).await?;
    for board in boards {
        let applied = leaderboards::apply(&mut transaction, game.id, &board.spec, true, Actor::CommandLine).await;
        applied.map_err(|e| setup(e.to_string()))?;
    }
    transaction.commit().await?;
    Ok(key.expose_secret().to_owned())
}
