//! Connections on which nobody answers any more and that nobody ends, as behind a firewall that forgot them: they are
//! given up and replaced.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use scoreline::chaos::proxy::Proxy;
use scoreline::directory::DirectorySource;
use scoreline::ranking::Ranking;
use scoreline::redis_connection::{Connection, Timeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::redis::{TestRedis, redis};
use crate::support::{eventually, system::PATIENCE};

/// An answer of Redis within a test takes less.
const SOON: Duration = Duration::from_millis(500);

async fn proxy_before(redis: &TestRedis) -> (Proxy, String) {
    let proxy = Proxy::before(([127, 0, 0, 1], redis.port).into()).await.unwrap();
    let url = format!("redis://{}", proxy.address);
    (proxy, url)
}

#[tokio::test]
async fn a_silent_connection_to_the_leaderboards_is_replaced() {
    let redis = redis();
    let (proxy, url) = proxy_before(&redis).await;
    let ranking = Ranking::open(&url, "sl").unwrap();
    ranking.ping().await.unwrap();
    assert_eq!(proxy.silence(), 1);
    assert!(ranking.ping().await.is_err(), "nobody answers");
    eventually("the leaderboards are reached again", PATIENCE, async || ranking.ping().await.is_ok()).await;
}

#[tokio::test]
async fn a_follower_of_the_directory_that_met_silence_while_connecting_hears_of_changes_again() {
    let redis = redis();
    let publish = |version: i64| {
        redis::cmd("HSET").arg("sl:directory").arg("version").arg(version).exec(&mut redis.connection()).unwrap();
    };
    publish(1);
    let (proxy, url) = proxy_before(&redis).await;
    let source = DirectorySource::open(&url, "sl").unwrap();
    let stop = CancellationToken::new();
    let directory = source.wait_for_first(None, &stop).await.unwrap();
    let following = tokio::spawn(source.follow(Arc::clone(&directory), stop.clone()));
    publish(2);
    eventually("a change is heard of", PATIENCE, async || directory.load().version == 2).await;
    // It connects anew, and what it connects to never says a word.
    proxy.hole(true);
    proxy.reset();
    eventually("it connects again", PATIENCE, async || proxy.held() > 0).await;
    proxy.silence();
    proxy.hole(false);
    publish(3);
    eventually("changes are heard of again", PATIENCE, async || directory.load().version == 3).await;
    stop.cancel();
    following.await.unwrap();
}

/// Stands before a Redis and answers everything but the first few SUBSCRIBEs. It ends with the set of tasks.
async fn deaf_to_subscriptions(redis: &TestRedis, first: u64) -> (String, Arc<AtomicU64>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let (server, asked) = (SocketAddr::from(([127, 0, 0, 1], redis.port)), Arc::<AtomicU64>::default());
    let (counted, mut tasks) = (Arc::clone(&asked), JoinSet::new());
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            connections.spawn(carry(client, server, Arc::clone(&counted), first));
        }
    });
    (url, asked, tasks)
}

async fn carry(mut client: TcpStream, server: SocketAddr, asked: Arc<AtomicU64>, first: u64) {
    let mut server = TcpStream::connect(server).await.unwrap();
    let (mut up, mut down) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    loop {
        let carried = tokio::select! {
            read = client.read(&mut up) => match read {
                Ok(bytes @ 1..) => {
                    let subscribes = up[..bytes].windows(9).any(|word| word == b"SUBSCRIBE");
                    if subscribes && asked.fetch_add(1, Ordering::SeqCst) < first {
                        continue;
                    }
                    server.write_all(&up[..bytes]).await
                }
                _ => return,
            },
            read = server.read(&mut down) => match read {
                Ok(bytes @ 1..) => client.write_all(&down[..bytes]).await,
                _ => return,
            },
        };
        if carried.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_subscription_that_is_not_answered_is_given_up() {
    let redis = redis();
    let (url, asked, _tasks) = deaf_to_subscriptions(&redis, 1).await;
    let timeouts = Timeouts { response: SOON, ..Timeouts::default() };
    let connection = Connection::open(&url, timeouts).unwrap();
    let silent = tokio::time::timeout(PATIENCE, connection.subscriber(0, "channel")).await.expect("it is given up");
    assert!(silent.is_err_and(|error| error.is_timeout()));
    connection.subscriber(1, "channel").await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn everybody_who_subscribes_tries_again_when_there_is_no_answer() {
    let redis = redis();
    let publish = |version: i64| {
        redis::cmd("HSET").arg("sl:directory").arg("version").arg(version).exec(&mut redis.connection()).unwrap();
    };
    publish(1);
    let stop = CancellationToken::new();
    let (url, asked, _followers) = deaf_to_subscriptions(&redis, 1).await;
    let source = DirectorySource::open(&url, "sl").unwrap();
    let directory = source.wait_for_first(None, &stop).await.unwrap();
    let following = tokio::spawn(source.follow(Arc::clone(&directory), stop.clone()));
    eventually("it subscribes", PATIENCE, async || asked.load(Ordering::SeqCst) > 0).await;
    publish(2);
    eventually("a change is heard of", PATIENCE, async || directory.load().version == 2).await;

    let (url, asked, _listeners) = deaf_to_subscriptions(&redis, 1).await;
    let ranking = Ranking::open(&url, "sl").unwrap();
    let heard = Arc::<AtomicU64>::default();
    let (count, stopped) = (Arc::clone(&heard), stop.clone());
    let listening = tokio::spawn(async move {
        ranking.listen(stopped, |_| _ = count.fetch_add(1, Ordering::SeqCst)).await;
    });
    eventually("the boards are listened to", PATIENCE, async || heard.load(Ordering::SeqCst) > 0).await;
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    stop.cancel();
    following.await.unwrap();
    listening.await.unwrap();
}
