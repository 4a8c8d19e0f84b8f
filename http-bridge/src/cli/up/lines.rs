//! The status for whoever is no terminal: one line for each change, with the time since the start.

use std::{collections::HashSet, fmt::Write};

use super::spell;
use crate::{
    access::Path,
    visor::{ServiceView, VisorStatus},
};

#[derive(Default)]
pub(super) struct Lines {
    page: Option<String>,
    /// The state of DMSG, and what was said of it.
    dmsg: (&'static str, Said),
    dmsg_text: String,
    published: bool,
    services: Vec<Shown>,
}

/// What was said of a service last.
#[derive(Default, Clone)]
struct Shown {
    path: Option<Path>,
    is_good: Option<bool>,
    errors: Said,
    answered: [bool; 2],
}

/// Texts that were said since the last change for the better. Several dead servers take turns in one error, and who reads
/// a log wants each of them once.
#[derive(Default, Clone)]
struct Said(HashSet<String>);

impl Said {
    /// Texts that are remembered; beyond it one may be said again.
    const MAX: usize = 64;

    /// Whether this is news.
    fn is_new(&mut self, text: &str) -> bool {
        if self.0.len() >= Self::MAX {
            self.0.clear();
        }
        self.0.insert(text.to_owned())
    }
}

impl Lines {
    pub(super) fn new(page: &str) -> Self {
        let page = Some(page.to_owned());
        Self { page, ..Self::default() }
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
        let (state, dmsg) = (status.readiness.name(), status.readiness.to_string());
        if state != self.dmsg.0 {
            self.dmsg = (state, Said::default());
        }
        if dmsg != self.dmsg_text && (status.readiness.is_ready() || self.dmsg.1.is_new(&dmsg)) {
            let _ = writeln!(text, "{at} DMSG {dmsg}");
        }
        self.dmsg_text = dmsg;
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
        let Some(call) = &service.last_call else { return };
        let (path, is_good) = (service.access.in_use, call.outcome.is_ok());
        let has_changed = (path, Some(is_good)) != (self.path, self.is_good);
        (self.path, self.is_good) = (path, Some(is_good));
        match (&call.outcome, path) {
            (Ok(answer), Some(path)) if has_changed => {
                let _ = writeln!(text, "{at} {name}: answers over {path} ({answer})");
                self.errors = Said::default();
            }
            (Err(error), _) if self.errors.is_new(error) => {
                let _ = writeln!(text, "{at} {name}: {error}");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_turns_is_said_once_and_not_remembered_for_ever() {
        let mut said = Said::default();
        let news = ["a", "b", "a", "b", "c"].map(|text| said.is_new(text));
        assert_eq!(news, [true, true, false, false, true]);
        for number in 0..1000 {
            said.is_new(&number.to_string());
            assert!(said.0.len() <= Said::MAX);
        }
    }
}
