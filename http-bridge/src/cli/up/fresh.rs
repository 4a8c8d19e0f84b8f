//! Keeps the visor's file fresh while the visor runs (`deployment-config.md §5`).
//!
//! ```text
//!   bootstrapper ─ 2 min after the start and then hourly ─▶ the file: what the deployment had set is brought up to date,
//!                                                          what the operator changed stays
//! ```
//!
//! Sets of keys count at once, also those that the operator changed in the file; everything else after a restart. The file is
//! replaced as a whole, and not at all when nothing is new or something is wrong: then the log says so, and the next time comes.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Weak,
    time::Duration,
};

use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use crate::{
    deployment::{
        DOCUMENT_BYTES_MAX, Field, Services,
        file::{self, Access},
        refresh::{Change, FIRST_DELAY, LastGood, REFRESH_TIMEOUT, jittered},
        visor::{self, VisorConfig},
    },
    services::config_bootstrapper::ConfigBootstrapperClient,
    visor::Visor,
};

/// What is kept fresh, and how often.
pub(super) struct Fresh {
    /// The visor's configuration.
    pub(super) config: PathBuf,
    /// What the deployment last set.
    pub(super) last: LastGood,
    /// Between two times.
    pub(super) interval: Duration,
}

impl Fresh {
    /// Asks and updates, over and over; never ends. The visor is not kept running by it.
    pub(super) async fn keep(self, bootstrapper: ConfigBootstrapperClient, visor: Weak<Visor>) {
        sleep(FIRST_DELAY.min(self.interval)).await;
        loop {
            sleep(jittered(self.interval)).await;
            let updated = match timeout(REFRESH_TIMEOUT, fetch(&bootstrapper)).await {
                Err(_) => Err(format!("no answer within {REFRESH_TIMEOUT:?}")),
                Ok(Err(why)) => Err(why),
                Ok(Ok(services)) => {
                    let (config, last) = (self.config.clone(), self.last.clone());
                    tokio::task::spawn_blocking(move || update(&config, &last, &services))
                        .await
                        .unwrap_or_else(|error| Err(error.to_string()))
                }
            };
            match updated {
                Ok(updated) => {
                    if visor
                        .upgrade()
                        .is_some_and(|visor| visor.refresh_key_sets(&updated.services))
                    {
                        tracing::info!("the deployment's sets of keys are new, and in use");
                    }
                    self.tell(&updated.fields);
                }
                Err(why) => tracing::warn!("the deployment was not refreshed: {why}"),
            }
        }
    }

    fn tell(&self, fields: &[Field]) {
        let late: Vec<&str> =
            fields.iter().filter(|field| !field.is_key_set()).map(|field| field.name()).collect();
        if late.is_empty() {
            tracing::debug!("nothing of the deployment waits for a restart");
        } else {
            tracing::warn!(
                file = %self.config.display(),
                "the deployment has changed; restart the visor to use: {}", late.join(", ")
            );
        }
    }
}

/// What a refresh did.
struct Updated {
    /// Fields of the file that are new.
    fields: Vec<Field>,
    /// The deployment as the file has it now.
    services: Services,
}

async fn fetch(bootstrapper: &ConfigBootstrapperClient) -> Result<Services, String> {
    let document = bootstrapper.document().await.map_err(|error| error.to_string())?;
    let text = std::str::from_utf8(&document).map_err(|_| "the answer is no text".to_owned())?;
    match Services::parse(text) {
        Ok((services, _)) => Ok(services),
        Err(problems) => {
            let first = problems.iter().next().map(ToString::to_string).unwrap_or_default();
            Err(format!("the answer is no deployment: {first}"))
        }
    }
}

/// Brings the file up to date.
fn update(path: &Path, last: &LastGood, new: &Services) -> Result<Updated, String> {
    let named = |error: io::Error| format!("{}: {error}", path.display());
    let text = file::read_existing(path, DOCUMENT_BYTES_MAX).map(Zeroizing::new).map_err(named)?;
    let mut config = VisorConfig::parse(&text)
        .map_err(|problems| problems.in_file(&path.display().to_string()))?;
    let recorded = last.read();
    let output = config.output(recorded.as_ref());
    let visor::Updated { changes, record } = config.update(recorded.as_ref(), new, output);
    let with = |wanted| {
        let those = changes.iter().filter(move |(_, change)| *change == wanted);
        those.map(|(field, _)| *field).collect::<Vec<Field>>()
    };
    let (fields, kept) = (with(Change::Updated), with(Change::Kept));
    if recorded.is_none() && !kept.is_empty() {
        let names: Vec<&str> = kept.iter().map(|field| field.name()).collect();
        tracing::warn!(
            file = %path.display(),
            "what the deployment last set is not on record; these differ from it and stay as yours: {}",
            names.join(", ")
        );
    }
    // The file first: the other way round, a kill in between would make the operator's what is merely old.
    if !fields.is_empty() {
        file::replace(path, config.to_pretty().as_bytes(), Access::Private).map_err(named)?;
    }
    if recorded.as_ref() != Some(&record) {
        last.write(&record).map_err(|error| format!("{}: {error}", last.path().display()))?;
    }
    Ok(Updated { fields, services: config.services() })
}
