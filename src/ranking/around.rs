//! The entries around a player.

use std::sync::LazyLock;

use redis::Script;

use super::connection::Ranking;
use super::error::ReadError;
use super::gather::{self, Asks, Desk};
use super::questions::{Around, BoardPeriod, MAX_PAGE, Page};
use super::read::{page_of, period_keys, period_name, readable, reading, tie_code};

static AROUND: LazyLock<Script> = LazyLock::new(|| reading(include_str!("scripts/around.lua")));

/// ready, version, total, published, then for each player: before, tied, members
type AroundReply = (i64, i64, u64, i64, Vec<(u64, u64, Vec<Vec<u8>>)>);

impl Ranking {
    /// The entries around a player: `limit` of them, with the player in the middle unless an end is near. No entries
    /// when the player has none.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn around(&self, board: &BoardPeriod, player_id: &str, limit: usize) -> Result<Page, ReadError> {
        gather::ask(self, Around { board: *board, limit: limit.clamp(1, MAX_PAGE) }, player_id).await
    }
}

impl Asks<Around> for Ranking {
    fn desk(&self) -> &Desk<Around> {
        self.arounds()
    }

    async fn ask(&self, question: &Around, players: &[&str]) -> Result<Vec<Page>, ReadError> {
        let Around { board, limit } = question;
        let base = self.base(board.generation);
        let name = period_name(&board.period);
        let (rank, member) = period_keys(&base, &name);
        let mut call = AROUND.prepare_invoke();
        call.key(format!("{base}ready")).key(format!("{base}version")).key(format!("{base}periods"));
        call.key(rank).key(member).arg(name).arg(*limit).arg(tie_code(board.tie_policy)).arg(players);
        let (ready, version, total, published, parts): AroundReply = self.call(&call).await?;
        readable(ready)?;
        let page = |(before, tied, members)| page_of(board, (ready, version, total, published, before, tied, members));
        parts.into_iter().map(page).collect()
    }
}
