//! Options that choose a deployment, shared by the subcommands that need one.

use std::path::PathBuf;

use clap::Args;

use super::exit::{Exit, Failure};
use crate::deployment::{Environment, LoadError, Loaded, Services, load};

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

impl DeploymentFlags {
    /// The document; its warnings are logged.
    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        let variable = std::env::var_os("SKYDEPLOY");
        let loaded = load(self.deployment.as_deref(), variable.as_deref())?;
        for warning in loaded.warnings.iter() {
            tracing::warn!("{}:{warning}", loaded.origin);
        }
        Ok(loaded)
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
