//! Somebody who edits, recomputes and deletes a live board all the time, whatever else happens.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;

use super::ChaosError;
use super::boards::Board;
use super::command_line::CommandLine;
use super::world::{GAME, PATIENCE, World};

/// How long a command may take; what became of one that took longer is not known, and does not matter.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(10);

/// Edits until it is stopped.
#[derive(Debug)]
pub struct Editor {
    stop: Arc<AtomicBool>,
    editing: JoinHandle<u64>,
}

impl Editor {
    /// Begins.
    ///
    /// # Errors
    /// The program's folder is not known.
    pub fn start(world: &World, seed: u64) -> Result<Self, ChaosError> {
        let command = CommandLine::of(&world.rig.services, &world.scenario)?;
        let file = world.stack.home().join("edited.json");
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let editing = tokio::spawn(async move {
            let (mut random, mut done) = (StdRng::seed_from_u64(seed ^ 0xed17), 0);
            while !stopped.load(Ordering::Relaxed) {
                let change = change(&command, &file, &mut random);
                if let Ok(Ok(true)) = tokio::time::timeout(GIVEN_UP_AFTER, change).await {
                    done += 1;
                }
                tokio::time::sleep(Duration::from_millis(random.random_range(500..3_500))).await;
            }
            done
        });
        Ok(Self { stop, editing })
    }

    /// The end of it: how many changes were made.
    pub async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.editing.await.unwrap_or_default()
    }
}

/// One change; whether it was made.
async fn change(command: &CommandLine, file: &Path, random: &mut StdRng) -> Result<bool, ChaosError> {
    let slug = Board::EDITED;
    let (code, _) = match random.random_range(0..10) {
        0 => command.run(&["leaderboard", "delete", slug, "--game", GAME, "--json"]).await?,
        1 | 2 => command.run(&["recompute", "--game", GAME, "--leaderboard", slug, "--no-wait", "--json"]).await?,
        choice => apply(command, file, &Board::edited(choice)?).await?,
    };
    Ok(code == Some(0))
}

async fn apply(
    command: &CommandLine,
    file: &Path,
    board: &Board,
) -> Result<(Option<i32>, serde_json::Value), ChaosError> {
    std::fs::write(file, board.json.to_string()).map_err(|e| ChaosError::Io("a leaderboard's file", e))?;
    let file = file.display().to_string();
    command.run(&["leaderboard", "apply", &file, "--game", GAME, "--json"]).await
}

impl World {
    /// After all the edits one more, whose outcome is known: this is what the board must show.
    ///
    /// # Errors
    /// It cannot be made; [`ChaosError::Interrupted`].
    pub async fn edit_for_good(&mut self, choice: u32) -> Result<(), ChaosError> {
        let board = Board::edited(choice)?;
        let command = CommandLine::of(&self.rig.services, &self.scenario)?;
        let file: PathBuf = self.stack.home().join("edited.json");
        let made = async |_: &Self| Ok(apply(&command, &file, &board).await?.0 == Some(0));
        if self.holds_within(PATIENCE, made).await?.is_none() {
            self.report.violated("a leaderboard that was edited all the time cannot be edited any more");
            return Ok(());
        }
        self.boards.push(board);
        Ok(())
    }
}
