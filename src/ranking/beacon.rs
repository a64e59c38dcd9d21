//! What Redis knows of the database that its boards were made from: the last beacon it was told of, and the *era*. A
//! new era begins when the database has gone back in time: every board of an earlier one is doubtful.

use std::sync::LazyLock;

use redis::Script;
use uuid::Uuid;

use super::connection::Ranking;
use super::error::RankingError;

static TELL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/beacon.lua")));

/// The last beacon that Redis was told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldBeacon {
    /// Its number.
    pub sequence: i64,
    /// Its mark.
    pub mark: Uuid,
    /// Since when the database has not gone back, as far as Redis knows: a random name.
    pub era: String,
}

impl ToldBeacon {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let (sequence, mark) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Self { sequence, mark, era: parts.next()?.to_owned() })
    }

    pub(super) fn text(&self) -> String {
        format!("{} {} {}", self.sequence, self.mark.simple(), self.era)
    }
}

impl Ranking {
    /// The last beacon that Redis was told of; `None`: of none that can be read.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn beacon(&self) -> Result<Option<ToldBeacon>, RankingError> {
        Ok(ToldBeacon::parse(&self.beacon_text().await?))
    }

    pub(super) async fn beacon_text(&self) -> Result<String, RankingError> {
        let mut pipeline = redis::pipe();
        pipeline.get(self.beacon_key());
        let (told,): (Option<String>,) = self.pipe(&pipeline).await?;
        Ok(told.unwrap_or_default())
    }

    /// Tells of a newer beacon of the same era as `known`. `false`: somebody else told of one meanwhile.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn tell_beacon(&self, known: &ToldBeacon, sequence: i64, mark: Uuid) -> Result<bool, RankingError> {
        let told = ToldBeacon { sequence, mark, era: known.era.clone() };
        self.tell(&known.text(), &told, "").await
    }

    /// Begins a new era with this beacon, unless what Redis knows is not `known` any more: every board becomes
    /// doubtful, and everybody who listens is told that any may have changed.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn begin_era(&self, known: Option<&ToldBeacon>, sequence: i64, mark: Uuid) -> Result<bool, RankingError> {
        let known = match known {
            Some(known) => known.text(),
            // What cannot be read is replaced.
            None => self.beacon_text().await?,
        };
        let era = Uuid::new_v4().simple().to_string();
        let notice = format!("era {era}");
        self.tell(&known, &ToldBeacon { sequence, mark, era }, &notice).await
    }

    async fn tell(&self, known: &str, told: &ToldBeacon, notice: &str) -> Result<bool, RankingError> {
        let mut call = TELL.prepare_invoke();
        call.key(self.beacon_key()).arg(known).arg(told.text()).arg(self.channel()).arg(notice);
        Ok(self.call::<i64>(&call).await? == 1)
    }
}
