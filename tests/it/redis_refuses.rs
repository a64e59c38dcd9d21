//! A Redis that answers and takes no writes, because it cannot save: the whole system refuses, says so once, loses
//! nothing and goes on by itself.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use scoreline::bench::rig::Role;
use uuid::Uuid;

use crate::support::redis::TestRedis;
use crate::support::system::{PATIENCE, System, system};
use crate::support::{eventually, http, nothing_happens_for};

/// After it is mended, work goes on within this time (README, "What is promised").
const RECOVERY: Duration = Duration::from_secs(5);

/// Has Redis save, and waits for how that ended.
async fn save(redis: &TestRedis, outcome: &str) {
    let mut connection = redis.connection();
    redis::cmd("BGSAVE").exec(&mut connection).unwrap();
    let line = format!("rdb_last_bgsave_status:{outcome}\r");
    eventually("Redis has tried to save", PATIENCE, || {
        let info: String = redis::cmd("INFO").arg("persistence").query(&mut connection).unwrap();
        std::future::ready(info.contains("rdb_bgsave_in_progress:0\r") && info.contains(&line))
    })
    .await;
}

/// What `/readyz` of a role answers.
async fn readiness(system: &System, role: Role) -> (u16, String) {
    http::get(system.rig.operations(role.name()).unwrap(), "/readyz").await
}

/// Sends one event, and returns the whole answer.
async fn send(system: &System) -> (u16, String) {
    let body = format!(
        r#"[{{"event_id":"{}","type":"level_progress","player_id":"p","occurred_at":"{}"}}]"#,
        Uuid::new_v4(),
        scoreline::runtime::clock::system().now()
    );
    let request = format!(
        "POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        system.server_key,
        body.len()
    );
    http::request(system.rig.ingest, &request).await
}

/// Lines of a role's log but those about single requests, of which there are at most five a second; and of them those
/// that say this.
fn lines(folder: &std::path::Path, role: Role, text: &str) -> (usize, Vec<String>) {
    let log = std::fs::read_to_string(folder.join(format!("{}.log", role.name()))).unwrap_or_default();
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains("batch not queued")).collect();
    (lines.len(), lines.iter().filter(|line| line.contains(text)).map(|line| (*line).to_owned()).collect())
}

#[tokio::test]
async fn a_redis_that_cannot_save_is_said_once_and_work_goes_on_when_it_can() {
    let mut system = system().await;
    let folder = std::env::temp_dir().join(format!("scoreline-refuses-{}", Uuid::new_v4()));
    std::fs::create_dir(&folder).unwrap();
    system.rig.logs = Some(folder.clone());
    system.rig.environment.push(("LOG".to_owned(), "info".to_owned()));
    system.start_all().await;
    let load = system.load(2, 20);
    system.progress(100).await;
    // A folder stands where the snapshot would be put: nobody's rights help against that.
    let mut connection = system.redis.connection();
    let settings: Vec<String> = redis::cmd("CONFIG").arg("GET").arg("dir").query(&mut connection).unwrap();
    let in_the_way: PathBuf = [settings[1].as_str(), "dump.rdb"].iter().collect();
    redis::cmd("CONFIG").arg("SET").arg("save").arg("86400 1").exec(&mut connection).unwrap();
    for turn in 1..=2 {
        let _ = std::fs::remove_file(&in_the_way); // the snapshot of the last turn
        std::fs::create_dir(&in_the_way).unwrap();
        std::fs::write(in_the_way.join("full"), "").unwrap();
        let before = Role::ALL.map(|role| lines(&folder, role, "").0);
        save(&system.redis, "err").await;
        let refused = load.refused();
        eventually("batches are refused", PATIENCE, || async { load.refused() > refused + 2 }).await;
        let (status, body) = send(&system).await;
        assert!(status == 503 && body.contains(r#""code":"queue_unreachable""#), "{status} {body}");
        for role in [Role::Ingest, Role::Worker, Role::Cron] {
            eventually("it says that it is not ready, and why", PATIENCE, || async {
                let (status, body) = readiness(&system, role).await;
                status == 503 && body.contains("MISCONF")
            })
            .await;
        }
        let (status, body) = readiness(&system, Role::Api).await;
        assert!(status == 200, "the api reads: {body}");
        // For as long as it lasts nobody changes their mind, nor repeats what they said.
        let acknowledged = load.acknowledged();
        let until = Instant::now() + Duration::from_secs(6);
        while Instant::now() < until {
            for role in [Role::Ingest, Role::Worker, Role::Cron] {
                let (status, body) = readiness(&system, role).await;
                assert_eq!(status, 503, "{}: {body}", role.name());
            }
            nothing_happens_for(Duration::from_millis(100)).await;
        }
        assert!(load.acknowledged() <= acknowledged, "nothing is acknowledged that Redis does not take");
        std::fs::remove_dir_all(&in_the_way).unwrap();
        save(&system.redis, "ok").await;
        let (stored, mended) = (system.stored().await, Instant::now());
        eventually("events are acknowledged and stored again", RECOVERY, || async {
            load.acknowledged() > acknowledged && system.stored().await > stored
        })
        .await;
        eprintln!("work went on {:?} after Redis could save", mended.elapsed());
        for role in [Role::Ingest, Role::Worker, Role::Cron] {
            eventually("it is ready again", RECOVERY, || async { readiness(&system, role).await.0 == 200 }).await;
        }
        for (role, before) in Role::ALL.into_iter().zip(before) {
            let (now, lost) = lines(&folder, role, "dependency lost");
            let said = now - before;
            assert!(said <= 30, "{} wrote {said} lines", role.name());
            // The queue and the boards are on this Redis; so are limits and the directory.
            let of = |name: &str| lost.iter().filter(|line| line.contains(name)).count();
            for name in ["redis_queue", "redis_ranking"] {
                assert!(of(name) <= turn, "{} said {} times that {name} is lost: {lost:#?}", role.name(), of(name));
            }
        }
        let (_, closed) = lines(&folder, Role::Ingest, "takes nothing; refusing batches");
        assert_eq!(closed.len(), turn, "{closed:#?}");
        assert!(closed.iter().all(|line| line.contains("MISCONF")), "{closed:#?}");
    }
    let accounts = load.stop().await;
    system.settle(&accounts).await;
    std::fs::remove_dir_all(folder).unwrap();
}
