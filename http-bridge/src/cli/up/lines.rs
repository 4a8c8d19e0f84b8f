//! The status for whoever is no terminal: one line for each change, with the time since the start.

use std::fmt::Write;

use super::spell;
use crate::{
    access::Path,
    visor::{ServiceView, VisorStatus},
};

pub(super) struct Lines {
    page: Option<String>,
    dmsg: String,
    published: bool,
    services: Vec<Shown>,
}

/// What was said of a service last.
#[derive(Default, Clone, PartialEq, Eq)]
struct Shown {
    path: Option<Path>,
    outcome: Option<Result<(), String>>,
    answered: [bool; 2],
}

impl Lines {
    pub(super) fn new(page: &str) -> Self {
        let page = Some(page.to_owned());
        Self { page, dmsg: String::new(), published: false, services: Vec::new() }
    }

    /// What has changed since the last call; empty if nothing has.
    pub(super) fn changes(&mut self, status: &VisorStatus) -> String {
        let mut text = String::new();
        let at = format!("{:9.3}", status.uptime.as_secs_f64());
        if let Some(page) = self.page.take() {
            let _ = writeln!(text, "{at} visor {}", status.public_key);
            let _ = writeln!(text, "{at} status page {page}");
            for service in status.services.iter().filter(|service| !service.is_present()) {
                let _ = writeln!(text, "{at} {}: not in this deployment", service.access.service);
            }
        }
        let dmsg = status.readiness.to_string();
        if dmsg != self.dmsg {
            let _ = writeln!(text, "{at} DMSG {dmsg}");
            self.dmsg = dmsg;
        }
        if status.published && !self.published {
            let _ = writeln!(text, "{at} DMSG our entry is in the discovery");
        }
        self.published = status.published;
        self.services.resize(status.services.len(), Shown::default());
        for (shown, service) in self.services.iter_mut().zip(&status.services) {
            shown.update(service, &at, &mut text);
        }
        text
    }
}

impl Shown {
    fn update(&mut self, service: &ServiceView, at: &str, text: &mut String) {
        let name = service.access.service;
        for (index, path) in Path::ALL.into_iter().enumerate() {
            let first = service.path(path).and_then(|path| path.first_answer);
            if let Some(after) = first.filter(|_| !self.answered[index]) {
                let _ =
                    writeln!(text, "{at} {name}: first answer over {path} after {}", spell(after));
                self.answered[index] = true;
            }
        }
        let outcome = service.last_call.as_ref().map(|call| call.outcome.clone());
        let plain = outcome.clone().map(|outcome| outcome.map(drop));
        if plain != self.outcome || service.access.in_use != self.path {
            self.outcome = plain;
            self.path = service.access.in_use;
            match (outcome, self.path) {
                (Some(Ok(answer)), Some(path)) => {
                    let _ = writeln!(text, "{at} {name}: answers over {path} ({answer})");
                }
                (Some(Err(error)), _) => {
                    let _ = writeln!(text, "{at} {name}: {error}");
                }
                _ => {}
            }
        }
    }
}
