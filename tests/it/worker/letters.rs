//! Dead letters reach Postgres whatever they hold, and none holds up another.

use scoreline::store::dead_letter_intake::{self, NewDeadLetter};
use scoreline::store::dead_letters::{self, DeadLetterFilter, decide};
use uuid::Uuid;

use super::{Bench, SOON, event, job, now};
use crate::support::eventually;

impl Bench {
    async fn letters(&self) -> i64 {
        self.count("SELECT count(*) FROM dead_letters").await
    }

    /// A trigger that refuses the letters of jobs whose id says so.
    async fn refuse_letters(&self) {
        self.run(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NEW.job_id LIKE '%refused%' THEN RAISE EXCEPTION 'not this one'; END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON dead_letters FOR EACH ROW EXECUTE FUNCTION refuse();",
        )
        .await;
    }
}

#[tokio::test]
async fn a_letter_whose_text_is_refused_is_kept_without_it() {
    let bench = Bench::new().await;
    // As a database does that has no such characters.
    bench.run("ALTER TABLE dead_letters ADD CONSTRAINT no_text CHECK (body IS NULL AND error ~ '^[ -~]*$')").await;
    // No JSON: the door would have refused it; here it stands for whatever the database will not take.
    bench.push("bad", &job(1, &[event(1, "p-1", r#"{"name":"日本"#), event(2, "p-2", "{}")])).await;
    bench.start_worker().await;
    bench.drained().await;
    let (reason, error, payload): (String, String, Vec<u8>) =
        sqlx::query_as("SELECT reason, error, payload FROM dead_letters").fetch_one(bench.pool()).await.unwrap();
    assert_eq!(
        error, "a text is no valid JSON, or no valid value of its kind (SQLSTATE 22P02)",
        "not Postgres's words"
    );
    assert_eq!((reason.as_str(), bench.events().await), ("data_refused", 1));
    assert!(payload.windows(6).any(|bytes| bytes == "日本".as_bytes()), "nothing is lost");
}

#[tokio::test]
async fn a_letter_that_cannot_be_kept_at_all_stops_no_writer() {
    let bench = Bench::new().await;
    bench.run("ALTER TABLE dead_letters ADD CONSTRAINT none CHECK (false)").await;
    for i in 0..4u128 {
        bench.push(&format!("bad-{i}"), &job(1, &[event(i, "p-1", "{"), event(100 + i, "p-2", "{}")])).await;
    }
    bench.start_worker().await;
    eventually("the other events are stored", SOON, || async { bench.events().await == 4 }).await;
    bench.push("later", &job(1, &[event(200, "p-3", "{}")])).await;
    eventually("and later ones are", SOON, || async { bench.events().await == 5 }).await;
    assert_eq!(bench.queue.status().await.unwrap().blocked.len(), 1);
    bench.run("ALTER TABLE dead_letters DROP CONSTRAINT none").await;
    bench.drained().await;
    assert_eq!((bench.events().await, bench.letters().await), (5, 4));
}

#[tokio::test]
async fn many_dead_letters_are_moved_without_a_pause_and_one_that_is_refused_stays() {
    let bench = Bench::new().await;
    bench.refuse_letters().await;
    bench.push("refused", b"nonsense").await;
    let mut redis = bench.redis.connection();
    let mut all = redis::pipe();
    for i in 0..3_000 {
        let id = format!("{}-n:dead-{i}-h", now().0);
        all.hset("{sl:q0}:jobs", &id, b"nonsense").hset("{sl:q0}:dead", &id, "undecodable 1 0 no");
    }
    all.exec(&mut redis).unwrap();
    bench.start_worker().await;
    // A hundred every two seconds would take a minute.
    eventually("all others are moved", SOON, || async { bench.letters().await == 3_000 }).await;
    eventually("only the refused one is left", SOON, || async { bench.queue.status().await.unwrap().dead == 1 }).await;
    bench.run("DROP TRIGGER refuse ON dead_letters").await;
    bench.drained().await;
    assert_eq!(bench.letters().await, 3_001);
}

/// Together they are more than what is moved at once.
#[tokio::test]
async fn large_letters_that_are_refused_stand_in_nobodys_way() {
    let bench = Bench::new().await;
    bench.refuse_letters().await;
    let (mut redis, large) = (bench.redis.connection(), vec![b'x'; 500_000]);
    for (name, letters, bytes) in [("refused", 20, large.as_slice()), ("good", 100, b"nonsense")] {
        for i in 0..letters {
            let id = format!("{}-n:{name}-{i}-h", now().0);
            let mut both = redis::pipe();
            both.hset("{sl:q0}:jobs", &id, bytes).hset("{sl:q0}:dead", &id, "undecodable 1 0 no");
            both.exec(&mut redis).unwrap();
        }
    }
    bench.start_worker().await;
    eventually("all others are moved", SOON * 2, || async { bench.letters().await == 100 }).await;
    bench.run("DROP TRIGGER refuse ON dead_letters").await;
    bench.drained().await;
    assert_eq!(bench.letters().await, 120);
}

/// A mover has seen the letter and is late; meanwhile another has moved it and an operator has replayed it.
#[tokio::test]
async fn a_late_mover_does_not_undo_a_replay() {
    let bench = Bench::new().await;
    let mut connection = bench.pool().acquire().await.unwrap();
    let letter = NewDeadLetter {
        id: Uuid::new_v4(),
        job_id: "1-n:late-h".to_owned(),
        queue: "q0".to_owned(),
        lane: "high".to_owned(),
        kind: "unknown".to_owned(),
        game_id: None,
        reason: "undecodable".to_owned(),
        error: "no".to_owned(),
        attempts: 1,
        crashes: 0,
        payload: b"nonsense".to_vec(),
        body: None,
        received_at: now(),
    };
    let all = [letter];
    let seen_at = dead_letter_intake::now(&mut connection).await.unwrap();
    assert_eq!(dead_letter_intake::keep_all(&mut connection, &all, Some(seen_at)).await.unwrap(), 1);
    decide(&mut connection, None, &[all[0].id], "replayed").await.unwrap();
    assert_eq!(dead_letter_intake::keep_all(&mut connection, &all, Some(seen_at)).await.unwrap(), 0);
    let ids = [all[0].job_id.as_str()];
    let kept = dead_letter_intake::kept(&mut connection, &ids).await.unwrap();
    assert_eq!(kept, Vec::<String>::new(), "and Redis is not told to forget it");
    // It ran and died again: seen after the decision, it waits again.
    let seen_at = dead_letter_intake::now(&mut connection).await.unwrap();
    assert_eq!(dead_letter_intake::keep_all(&mut connection, &all, Some(seen_at)).await.unwrap(), 1);
    assert_eq!(dead_letter_intake::kept(&mut connection, &ids).await.unwrap(), ids);
}

/// One that an earlier version kept, with what sqlx says of Postgres's sources.
#[tokio::test]
async fn a_letter_of_before_is_shown_without_the_line_of_postgres_own_source() {
    let bench = Bench::new().await;
    bench
        .run(
            "INSERT INTO dead_letters (id, job_id, queue, lane, kind, reason, error, attempts, crashes, payload, received_at)
             VALUES (gen_random_uuid(), 'j', 'q0', 'high', 'k', 'data_refused',
                     'error returned from database: invalid input syntax for type json at line 414', 1, 0, '', now())",
        )
        .await;
    let letters = dead_letters::list(bench.pool(), &DeadLetterFilter::default(), 10).await.unwrap();
    assert_eq!(letters[0].error, "the database says: invalid input syntax for type json");
    let (letter, _) = dead_letters::read(bench.pool(), None, letters[0].id).await.unwrap().unwrap();
    assert_eq!(letter.error, letters[0].error);
}
