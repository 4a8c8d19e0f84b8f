//! What one deployment may take from another: never more than belongs to the very same one (`deployment-config.md §2, §6`).
//!
//! A private deployment must not touch the public fleet. So each rule asks for proof that both are the same: the
//! discovery's key for the list of servers, the HTTP address of a service for its DMSG address.

use super::{
    document::Services,
    field::{Field, Value},
};
use crate::service::ServiceKind;

impl Services {
    /// Takes the list of servers, if there is none and the discovery's key is the same. Whether it did.
    pub fn borrow_servers(&mut self, lender: &Self) -> bool {
        let key = |services: &Self| services.discovery_dmsg().map(|url| url.addr().key);
        let is_same = key(self).is_some_and(|ours| key(lender) == Some(ours));
        if !is_same || !self.servers().is_empty() || lender.servers().is_empty() {
            return false;
        }
        self.set(Field::DmsgServers, Value::Servers(lender.servers().to_vec()));
        true
    }

    /// Adds the DMSG addresses that a bootstrapper of 2024 does not know: for each service whose HTTP address is the same
    /// as `embedded`'s, and then the servers by the rule of [`Services::borrow_servers`]. Says what was added.
    pub fn supplement(&mut self, embedded: &Self) -> Vec<Field> {
        let mut added = Vec::new();
        for kind in ServiceKind::ALL {
            let (ours, theirs) = (self.endpoints(kind), embedded.endpoints(kind));
            let is_same = ours.http.is_some() && ours.http == theirs.http;
            let field = Field::ServiceDmsg(kind);
            if let (true, None, Some(value)) = (is_same, &ours.dmsg, embedded.get(field)) {
                self.set(field, value.clone());
                added.push(field);
            }
        }
        if self.borrow_servers(embedded) {
            added.push(Field::DmsgServers);
        }
        added
    }
}
