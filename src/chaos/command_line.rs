//! The operators' command line, with nothing in its way.

use std::path::PathBuf;

use serde_json::Value;

use super::ChaosError;
use super::prepare::{environment, own_folder};
use super::scenario::Scenario;
use crate::bench::rig::Services;

/// How a command is run.
#[derive(Debug, Clone)]
pub struct CommandLine {
    program: PathBuf,
    environment: Vec<(String, String)>,
}

impl CommandLine {
    /// On these services, with the clock of this scenario.
    ///
    /// # Errors
    /// The program's folder is not known.
    pub fn of(services: &Services, scenario: &Scenario) -> Result<Self, ChaosError> {
        let mut environment = environment(scenario);
        environment.push(("DATABASE_URL".to_owned(), services.database_url.clone()));
        environment.push(("REDIS_URL".to_owned(), services.redis_url.clone()));
        Ok(Self { program: own_folder()?.join("scoreline"), environment })
    }

    /// Runs a command; its exit code and its JSON, or what it complained of. It ends with this future.
    ///
    /// # Errors
    /// It cannot be run.
    pub async fn run(&self, arguments: &[&str]) -> Result<(Option<i32>, Value), ChaosError> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        let output = command.kill_on_drop(true).output().await.map_err(|e| ChaosError::Io("a command", e))?;
        let answer = serde_json::from_slice(&output.stdout);
        let complaint = || Value::String(String::from_utf8_lossy(&output.stderr).into_owned());
        Ok((output.status.code(), answer.unwrap_or_else(|_| complaint())))
    }
}
