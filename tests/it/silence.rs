//! Connections on which nobody answers any more and that nobody ends, as behind a firewall that forgot them: they are
//! given up and replaced.

use std::sync::Arc;

use scoreline::chaos::proxy::Proxy;
use scoreline::directory::DirectorySource;
use scoreline::ranking::Ranking;
use tokio_util::sync::CancellationToken;

use crate::support::redis::{TestRedis, redis};
use crate::support::{eventually, system::PATIENCE};

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
    let directory = source.wait_for_first(&stop).await.unwrap();
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
