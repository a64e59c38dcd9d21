//! Dead letters leave Redis once they are stored, and come back when they are replayed
//! (docs/rules.md#dead-letters-can-be-replayed).

use std::time::Duration;

use scoreline::domain::clock::Micros;
use scoreline::queue::{DeadJob, Lane, Queue, Settlement, Timeouts};

use super::backlog::slow_link;
use super::rig::{SOON, Worker, options, payload, rig, settle};
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_taken_and_replayed_many_times() {
    let rig = rig().await;
    rig.queue.push(Lane::Low, "bad", &payload("bad")).await.unwrap();
    let worker = Worker::start(&rig.queue, options(), async |job| {
        let bad = job.bytes == payload("bad");
        let settlement = if bad { Settlement::fail("data_error", "no such thing") } else { Settlement::Done };
        settle(&job, settlement).await;
    });
    eventually("it is dead", SOON, async || rig.queue.status().await.unwrap().dead == 1).await;
    assert!(!rig.queue.push(Lane::Low, "bad", &payload("bad")).await.unwrap(), "its name is taken");

    let dead = rig.queue.take_dead(10).await.unwrap().remove(0);
    assert_eq!(rig.queue.take_dead(10).await.unwrap(), std::slice::from_ref(&dead), "taking does not remove");
    assert_eq!((dead.reason.as_str(), dead.error.as_str(), dead.attempts), ("data_error", "no such thing", 1));
    assert_eq!((dead.lane, dead.bytes.clone()), (Lane::Low, payload("bad")));
    assert_eq!(rig.queue.forget_dead(&[&dead]).await.unwrap(), 1);
    assert_eq!(rig.queue.forget_dead(&[&dead]).await.unwrap(), 0);
    rig.drained().await;

    // Held, so that the second replay meets the first.
    rig.queue.pause().await.unwrap();
    let replay = async |bytes: &[u8]| rig.queue.replay(&dead.job_id, dead.lane, bytes, dead.received_at).await.unwrap();
    assert!(replay(&payload("fixed")).await);
    assert!(!replay(&payload("fixed")).await, "it waits already");
    assert_eq!(rig.queue.low_water(Micros(i64::MAX)).await.unwrap().oldest(), Some(dead.received_at));
    rig.queue.resume().await.unwrap();
    worker.saw(2).await;
    assert_eq!(worker.seen()[1].received_at, dead.received_at);
    assert_eq!(worker.seen()[1].attempts, 0, "a fresh count of attempts");
    rig.drained().await;
    worker.stop().await;
    rig.nothing_stays_behind().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_forget_does_not_remove_a_replayed_letter() {
    let rig = rig().await;
    rig.queue.push(Lane::High, "bad", &[]).await.unwrap();
    let worker = Worker::start(&rig.queue, options(), async |job| settle(&job, Settlement::Done).await);
    eventually("it is dead", SOON, async || rig.queue.status().await.unwrap().dead == 1).await;
    let dead = rig.queue.take_dead(1).await.unwrap().remove(0);
    rig.queue.pause().await.unwrap();
    assert!(rig.queue.replay(&dead.job_id, dead.lane, &payload("good"), dead.received_at).await.unwrap());
    assert_eq!(rig.queue.forget_dead(&[&dead]).await.unwrap(), 0);
    rig.queue.resume().await.unwrap();
    worker.saw(1).await;
    assert_eq!(worker.seen()[0].bytes, payload("good"));
    rig.drained().await;
    worker.stop().await;
    rig.nothing_stays_behind().await;
}

/// The mover was frozen between storing a letter and having it forgotten; meanwhile an operator replayed the job, and
/// it died as it did before, word by word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_forget_does_not_remove_the_letter_of_the_next_death() {
    let rig = rig().await;
    rig.queue.push(Lane::Low, "bad", &payload("bad")).await.unwrap();
    let worker = Worker::start(&rig.queue, options(), async |job| {
        settle(&job, Settlement::fail("data_error", "no such thing")).await;
    });
    eventually("it is dead", SOON, async || rig.queue.status().await.unwrap().dead == 1).await;
    let first = rig.queue.take_dead(1).await.unwrap().remove(0);
    assert!(rig.queue.replay(&first.job_id, first.lane, &first.bytes, first.received_at).await.unwrap());
    worker.saw(2).await;
    eventually("it is dead again", SOON, async || rig.queue.status().await.unwrap().dead == 1).await;
    assert_eq!(rig.queue.forget_dead(&[&first]).await.unwrap(), 0);
    let second = rig.queue.take_dead(1).await.unwrap().remove(0);
    assert_eq!((&second.error, second.attempts, &second.bytes), (&first.error, first.attempts, &first.bytes));
    assert_eq!(rig.queue.forget_dead(&[&first]).await.unwrap(), 0, "nor once the other was taken");
    assert_eq!(rig.queue.forget_dead(&[&second]).await.unwrap(), 1);
    rig.drained().await;
    worker.stop().await;
    rig.nothing_stays_behind().await;
}

/// Asked for in one answer they would not come in time, nor would the heartbeat, whose connection it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_dead_letters_come_over_a_slow_link() {
    let rig = rig().await;
    let (mut connection, keys) = (rig.redis.connection(), rig.queue.keys());
    for id in rig.fill(Lane::Low, 60, &payload(&"x".repeat(200_000))) {
        let mut dies = redis::pipe();
        dies.lrem(keys.lane(Lane::Low), 1, &id).hset(keys.dead(), &id, "test 1 0 dead").exec(&mut connection).unwrap();
    }
    let (url, _link) = slow_link(rig.redis.port).await;
    let timeouts = Timeouts { response: Duration::from_secs(1), connect: Duration::from_secs(2) };
    let queue = Queue::connect(&url, "sl", "q0", timeouts).await.unwrap();
    let mut moved = 0;
    while moved < 60 {
        let taken = queue.take_dead(250).await.unwrap();
        assert!(!taken.is_empty() && taken.iter().all(|letter| letter.bytes.len() == 200_002));
        let bytes: usize = taken.iter().map(|letter| letter.bytes.len()).sum();
        assert!(bytes <= 8 << 20, "{bytes} bytes at once");
        moved += queue.forget_dead(&taken.iter().collect::<Vec<&DeadJob>>()).await.unwrap();
    }
    assert!(rig.keys().is_empty(), "{:?}", rig.keys());
}
