//! What a Redis Cluster needs beside a connection: commands that go to the node of a key, and calls sent again only
//! where nobody has run them.
//!
//! The redis crate sends a command again by itself when its connection breaks. The node may have run it, so a fetch or
//! an enqueue would run twice. It is told not to, and what a node refused to run is sent again here.

use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::{Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};

use super::Timeouts;

/// How often a call is sent again after a node has refused to run it.
const MOST_REDIRECTS: u32 = 5;
/// The crate reads the map of slots anew after such a refusal; the pause grows with each.
const REDIRECT_PAUSE: Duration = Duration::from_millis(10);

/// The route to the node that owns `key`.
fn owner(key: &str) -> RoutingInfo {
    RoutingInfo::SingleNode(SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master)))
}

/// Sends `command`, to the owner of `key` where one is given, else where its own keys say. Calls `redirected` for each
/// node that says another one is to be asked.
///
/// # Errors
/// Redis cannot be reached (the command may have run), or says no.
pub(super) async fn send(
    mut connection: ClusterConnection,
    command: &Cmd,
    key: Option<&str>,
    credentials: &str,
    timeouts: Timeouts,
    redirected: impl Fn(),
) -> RedisResult<Value> {
    let mut refusals = 0;
    loop {
        let answer = match key {
            Some(key) => connection.route_command(command.clone(), owner(key)).await,
            None => connection.req_packed_command(command).await,
        };
        let Err(error) = answer else { return answer };
        if is_redirect(&error) {
            redirected();
        }
        refusals += 1;
        if refusals > MOST_REDIRECTS {
            return Err(error);
        }
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::Ask) => return ask(command, &error, credentials, timeouts).await,
            ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::TryAgain) => {
                tokio::time::sleep(REDIRECT_PAUSE * refusals).await;
            }
            _ => return Err(error),
        }
    }
}

/// Whether a node says that another one is to be asked. No connection breaks for it, also where a replica took over.
fn is_redirect(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(ServerErrorKind::Ask | ServerErrorKind::Moved))
}

/// A slot is moving, and its new node answers for this key already: it is asked once, over a connection of its own,
/// because that node may own no slot yet and be unknown.
async fn ask(command: &Cmd, redirect: &RedisError, credentials: &str, timeouts: Timeouts) -> RedisResult<Value> {
    let Some((address, _slot)) = redirect.redirect_node() else { return Err(redirect.clone()) };
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timeouts.connect))
        .set_response_timeout(Some(timeouts.response));
    let client = redis::Client::open(format!("redis://{credentials}{address}"))?;
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let mut both = redis::pipe();
    both.cmd("ASKING").ignore().add_command(command.clone());
    let (answer,): (Value,) = both.query_async(&mut connection).await?;
    Ok(answer)
}
