//! `dmsg config`: look at a deployment, and make a visor's configuration of it; and the options that choose one.

mod check;
mod generate;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::exit::{Exit, Failure, tell};
use crate::deployment::{Environment, LoadError, Loaded, Problems, Services, load};

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say what is wrong with a deployment document; with --probe, try everything that it names.
    Check(check::CheckArgs),
    /// Write a visor's configuration: the deployment is asked for over DMSG, then over HTTP.
    Gen(generate::GenerateArgs),
}

impl ConfigArgs {
    /// Into a pipe goes JSON alone, and beside it what fails.
    pub(super) fn default_log(&self) -> &'static str {
        match &self.command {
            ConfigCommand::Gen(args) if args.is_for_stdout() => "error",
            _ => "warn",
        }
    }
}

pub(super) async fn run(args: ConfigArgs) -> Result<(), Failure> {
    match args.command {
        ConfigCommand::Check(args) => check::run(args).await,
        ConfigCommand::Gen(args) => generate::run(args).await,
    }
}

/// Which deployment.
#[derive(Debug, Args)]
pub(super) struct DeploymentFlags {
    /// File with the deployment document; else the one that SKYDEPLOY names, else the public deployment.
    #[arg(long, value_name = "FILE")]
    pub(super) deployment: Option<PathBuf>,

    /// Use the document's deployment for developers (test) rather than the one for users (prod).
    #[arg(long)]
    pub(super) testenv: bool,
}

/// Warnings about a document that are logged; `config check` tells all of them.
const WARNINGS_LOGGED_MAX: usize = 10;

/// Logs what is strange about a document that is used.
fn log_warnings(from: &dyn std::fmt::Display, warnings: &Problems) {
    for warning in warnings.iter().take(WARNINGS_LOGGED_MAX) {
        tracing::warn!("{from}:{warning}");
    }
    let others = warnings.iter().count().saturating_sub(WARNINGS_LOGGED_MAX) + warnings.left_out();
    if others > 0 {
        tracing::warn!("{from}: and {others} more like these");
    }
}

impl DeploymentFlags {
    /// The document; its warnings are logged.
    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        let loaded = self.load_silently()?;
        log_warnings(&loaded.origin, &loaded.warnings);
        Ok(loaded)
    }

    fn load_silently(&self) -> Result<Loaded, Failure> {
        let variable = std::env::var_os("SKYDEPLOY");
        Ok(load(self.deployment.as_deref(), variable.as_deref())?)
    }

    /// Which of the document's deployments.
    pub(super) fn environment(&self) -> Environment {
        if self.testenv { Environment::Test } else { Environment::Prod }
    }

    /// The deployment that is meant.
    pub(super) fn services(&self) -> Result<Services, Failure> {
        let loaded = self.load()?;
        let services = loaded.document.services(self.environment()).clone();
        if services.is_empty() {
            return Err(Failure::usage(format!(
                "{}: {} is empty: fill it, or choose the other one ({} --testenv)",
                loaded.origin,
                self.environment().name(),
                if self.testenv { "without" } else { "with" },
            )));
        }
        Ok(services)
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let exit = match error {
            LoadError::Unreadable { .. } => Exit::Read,
            _ => Exit::Usage,
        };
        Self::new(exit, error.to_string())
    }
}
