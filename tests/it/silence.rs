//! Connections on which nobody answers any more and that nobody ends, as behind a firewall that forgot them: they are
//! given up and replaced.

use scoreline::chaos::proxy::Proxy;
use scoreline::ranking::Ranking;

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
