//! The deployment document, `services-config.json` (`deployment-config.md §1`).
//!
//! ```text
//!   {"prod": Services, "test": Services}     a file, the environment, what is embedded
//!   Services                                 what a config bootstrapper answers
//! ```
//!
//! Either form is read, the other is written on demand. Members that nobody here knows are kept and come with a
//! warning. Whether what is written suffices to reach anything is asked separately ([`Services::findings`]).

use std::collections::BTreeMap;

use dmsg_engine::{client::ServerRecord, identity::PublicKey};

use super::{
    field::{Author, Field, ServiceUrl, Value, is_object, keep},
    json::{Cursor, Json, Object},
    problem::{Problem, Problems, Severity},
    server::DmsgServer,
};
use crate::{
    service::{Endpoints, ServiceKind},
    url::DmsgUrl,
};

/// Bytes of a document that are read. The real one has 6 KiB; 1 MiB is what a bootstrapper may answer.
pub const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// Which of the two deployments of a document.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Environment {
    /// The one for users.
    #[default]
    Prod,
    /// The one for developers.
    Test,
}

impl Environment {
    /// Its name in the document.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prod => "prod",
            Self::Test => "test",
        }
    }
}

/// A document with both deployments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// The deployment for users; empty if the document has none.
    pub prod: Services,
    /// The deployment for developers; empty if the document has none.
    pub test: Services,
    extra: Object,
}

/// One deployment: where its services are, and its relay servers, key sets and further members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    values: BTreeMap<Field, Value>,
    extra: Object,
}

impl Document {
    /// Reads a document; the warnings come with it. A flat object, as a config bootstrapper serves it, is taken for `prod`.
    pub fn parse(text: &str) -> Result<(Self, Problems), Problems> {
        let mut problems = Problems::default();
        match read_document(text, &mut problems) {
            Some(document) if !problems.has_errors() => Ok((document, problems)),
            _ => Err(problems),
        }
    }

    /// One of the two deployments.
    #[must_use]
    pub fn services(&self, environment: Environment) -> &Services {
        match environment {
            Environment::Prod => &self.prod,
            Environment::Test => &self.test,
        }
    }

    /// The document, for writing.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let mut object = Object::from([
            ("prod", Json::Object(self.prod.to_object())),
            ("test", Json::Object(self.test.to_object())),
        ]);
        self.extra.iter().for_each(|(name, value)| object.set(name, value.clone()));
        object.into()
    }
}

fn read_document(text: &str, problems: &mut Problems) -> Option<Document> {
    let at = Cursor::document(text, problems)?;
    let members = at.members(problems)?;
    let is_envelope = members.iter().any(|(name, _)| matches!(name.as_str(), "prod" | "test"));
    if !is_envelope {
        if !members.iter().any(|(name, _)| Field::named(name).is_some()) {
            let what = "neither prod nor test is there, nor any member of a deployment";
            at.error(what, r#"write {"prod":{…},"test":{}}"#, problems);
            return None;
        }
        let what = "this is one deployment without the members prod and test";
        at.warn(what, r#"it is taken for prod; write {"prod":{…},"test":{}}"#, problems);
        return Some(Document {
            prod: read_services(&at, Author::Operator, problems)?,
            ..Document::default()
        });
    }
    let mut document = Document::default();
    for (name, value) in members {
        let part = match name.as_str() {
            "prod" => &mut document.prod,
            "test" => &mut document.test,
            _ => {
                keep(&mut document.extra, &name, &value, problems);
                continue;
            }
        };
        if !value.is_null() {
            *part = read_services(&value, Author::Operator, problems).unwrap_or_default();
        }
    }
    Some(document)
}

fn read_services(at: &Cursor<'_>, author: Author, problems: &mut Problems) -> Option<Services> {
    let mut services = Services::default();
    let mut dmsg_places = BTreeMap::new();
    for (name, value) in at.members(problems)? {
        let Some(field) = Field::named(&name) else {
            let meant = Field::named(&name.to_ascii_lowercase());
            if let (Some(meant), Author::Operator) = (meant, author) {
                let what = format!("{name:?} is {meant} to programs in Go, and nothing to others");
                value.error(what, "write the name in small letters", problems);
            } else {
                keep(&mut services.extra, &name, &value, problems);
            }
            continue;
        };
        if let Some(read) = field.read(&value, author, problems) {
            if let Field::ServiceDmsg(kind) = field {
                dmsg_places.insert(kind, value);
            }
            services.values.insert(field, read);
        }
    }
    for (kind, at) in dmsg_places {
        let (both, dmsg) =
            (services.url(Field::Service(kind)), services.url(Field::ServiceDmsg(kind)));
        if let (Some(ServiceUrl::Dmsg(one)), Some(ServiceUrl::Dmsg(other))) = (both, dmsg)
            && one.addr() != other.addr()
        {
            let what = format!("{} names another dmsg:// address, {}", kind.member(), one.addr());
            at.error(what, "remove one of them, or make them equal", problems);
        }
    }
    Some(services)
}

impl Services {
    /// Reads what a config bootstrapper answers: a flat object, or the form of a file, of which `prod` is taken.
    /// What names neither a bootstrapper nor a discovery nor a server is no deployment (`§4`). A server that is no server
    /// is left out with a warning, since anybody may have registered it.
    pub fn parse(text: &str) -> Result<(Self, Problems), Problems> {
        let mut problems = Problems::default();
        let services = Cursor::document(text, &mut problems).and_then(|at| {
            let members = at.members(&mut problems)?;
            let inner = members.into_iter().find(|(name, at)| name == "prod" && is_object(at));
            let at = inner.map_or(at, |(_, prod)| prod);
            let services = read_services(&at, Author::Network, &mut problems)?;
            if !services.has_an_entrance() {
                let what = "none of conf_dmsg, dmsg_discovery_dmsg, dmsg_discovery and dmsg_servers is there";
                at.error(what, "this is no deployment; look at what answered", &mut problems);
            }
            Some(services)
        });
        match services {
            Some(services) if !problems.has_errors() => Ok((services, problems)),
            _ => Err(problems),
        }
    }

    /// Reads a flat object that may hold these fields and nothing else.
    pub(super) fn parse_fields(text: &str, fields: &[Field]) -> Result<(Self, Problems), Problems> {
        let mut problems = Problems::default();
        let services = Cursor::document(text, &mut problems).and_then(|at| {
            for (name, value) in at.members(&mut problems)? {
                if !fields.iter().any(|field| field.name() == name) {
                    let names: Vec<&str> = fields.iter().map(|field| field.name()).collect();
                    let advice = format!("these may stand here: {}", names.join(", "));
                    value.error(format!("{name:?} does not belong here"), &advice, &mut problems);
                }
            }
            read_services(&at, Author::Operator, &mut problems)
        });
        match services {
            Some(services) if !problems.has_errors() => Ok((services, problems)),
            _ => Err(problems),
        }
    }

    fn has_an_entrance(&self) -> bool {
        let discovery = self.endpoints(ServiceKind::DmsgDiscovery);
        let conf = self.endpoints(ServiceKind::ConfigBootstrapper);
        discovery != Endpoints::default() || conf.dmsg.is_some() || !self.servers().is_empty()
    }

    /// The members, for writing: those we know first, then the others.
    #[must_use]
    pub fn to_object(&self) -> Object {
        let mut object = Object::default();
        for field in Field::ALL {
            if let Some(value) = self.values.get(&field) {
                object.set(field.name(), value.to_json());
            }
        }
        self.extra.iter().for_each(|(name, value)| object.set(name, value.clone()));
        object
    }

    /// Whether nothing is there at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.extra.is_empty()
    }

    /// What a field holds; `None` for an absent or empty one.
    #[must_use]
    pub fn get(&self, field: Field) -> Option<&Value> {
        self.values.get(&field)
    }

    /// Sets a field. The value must have the field's form, else it is not taken.
    pub fn set(&mut self, field: Field, value: Value) {
        use super::field::Form;
        let fits = matches!(
            (field.form(), &value),
            (Form::Url, Value::Url(_))
                | (Form::WebUrl, Value::Url(ServiceUrl::Http(_)))
                | (Form::DmsgUrl, Value::Url(ServiceUrl::Dmsg(_)))
                | (Form::Keys, Value::Keys(_))
                | (Form::HostPorts, Value::Texts(_))
                | (Form::Ip | Form::Domain, Value::Text(_))
                | (Form::Servers, Value::Servers(_))
        );
        debug_assert!(fits, "{field} does not hold {value:?}");
        if fits {
            self.values.insert(field, value);
        }
    }

    /// Takes a field out.
    pub fn remove(&mut self, field: Field) -> Option<Value> {
        self.values.remove(&field)
    }

    /// The last word on each field: a newer document's, and of what that does not say the word before it, or the next one
    /// would count as an operator's.
    #[must_use]
    pub fn overlaid(&self, newer: &Self) -> Self {
        let mut last = self.clone();
        last.values.extend(newer.values.iter().map(|(field, value)| (*field, value.clone())));
        last
    }

    /// A text that was put beside what is read.
    pub(super) fn note(&self, name: &str) -> Option<&str> {
        self.extra.get(name).and_then(Json::as_text)
    }

    pub(super) fn set_note(&mut self, name: &str, text: &str) {
        self.extra.set(name, text);
    }

    /// Names of the members that nobody here knows.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        self.extra.iter().map(|(name, _)| name)
    }

    /// Where a service is reached.
    #[must_use]
    pub fn endpoints(&self, kind: ServiceKind) -> Endpoints {
        let mut endpoints = Endpoints::default();
        for field in [Field::Service(kind), Field::ServiceDmsg(kind)] {
            match self.url(field) {
                Some(ServiceUrl::Http(uri)) => endpoints.http = Some(uri.clone()),
                Some(ServiceUrl::Dmsg(url)) => endpoints.dmsg = Some(url.clone()),
                None => {}
            }
        }
        endpoints
    }

    /// The address in a field.
    #[must_use]
    pub fn url(&self, field: Field) -> Option<&ServiceUrl> {
        if let Some(Value::Url(url)) = self.values.get(&field) { Some(url) } else { None }
    }

    /// The relay servers to begin with.
    #[must_use]
    pub fn servers(&self) -> &[DmsgServer] {
        match self.values.get(&Field::DmsgServers) {
            Some(Value::Servers(servers)) => servers,
            _ => &[],
        }
    }

    /// The same, as the engine wants them; each key once, the last one counts.
    #[must_use]
    pub fn server_records(&self) -> Vec<ServerRecord> {
        let mut records: Vec<ServerRecord> = Vec::new();
        let mut places = std::collections::HashMap::new();
        for server in self.servers() {
            let place = *places.entry(server.key).or_insert(records.len());
            match records.get_mut(place) {
                Some(record) => *record = server.record(),
                None => records.push(server.record()),
            }
        }
        records
    }

    /// The sets of keys alone, which take effect while a program runs (`§5`).
    #[must_use]
    pub fn key_sets(&self) -> Self {
        let mut sets = Self::default();
        for field in Field::ALL.into_iter().filter(|field| field.is_key_set()) {
            if let Some(value) = self.get(field) {
                sets.set(field, value.clone());
            }
        }
        sets
    }

    /// A set of keys; empty for a field that holds none.
    #[must_use]
    pub fn keys(&self, field: Field) -> &[PublicKey] {
        if let Some(Value::Keys(keys)) = self.values.get(&field) { keys } else { &[] }
    }

    /// A list of texts, such as the STUN servers.
    #[must_use]
    pub fn texts(&self, field: Field) -> &[String] {
        if let Some(Value::Texts(texts)) = self.values.get(&field) { texts } else { &[] }
    }

    /// The discovery's DMSG address.
    #[must_use]
    pub fn discovery_dmsg(&self) -> Option<DmsgUrl> {
        self.endpoints(ServiceKind::DmsgDiscovery).dmsg
    }

    /// Keys of all services that are reached over DMSG: peers to be found behind the servers without asking a discovery.
    #[must_use]
    pub fn service_keys(&self) -> Vec<PublicKey> {
        let mut keys: Vec<PublicKey> = ServiceKind::ALL
            .iter()
            .filter_map(|kind| self.endpoints(*kind).dmsg.map(|url| url.addr().key))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Whether the services can be reached over DMSG without anything else (`§3`).
    #[must_use]
    pub fn is_usable_over_dmsg(&self) -> bool {
        !self.servers().is_empty() && self.discovery_dmsg().is_some()
    }

    /// What is wrong with the deployment as a whole (`§3`); `path` is where it stands in its document.
    #[must_use]
    pub fn findings(&self, path: &str) -> Vec<Problem> {
        let mut findings = Vec::new();
        let mut note = |severity, name: &str, what: &str, advice: &str| {
            findings.push(Problem::missing(severity, format!("{path}.{name}"), what, advice));
        };
        let has_servers = !self.servers().is_empty();
        // A discovery over HTTP lists servers, behind which services over DMSG are found.
        let names_servers = self.endpoints(ServiceKind::DmsgDiscovery).http.is_some();
        for kind in ServiceKind::ALL {
            let endpoints = self.endpoints(kind);
            let (name, advice) = (kind.member(), "write its address, or leave it so");
            match (endpoints.http, endpoints.dmsg) {
                (None, None) if kind == ServiceKind::DmsgDiscovery => note(
                    Severity::Error,
                    name,
                    "the deployment has no discovery, so nobody can be found",
                    "write dmsg_discovery_dmsg, dmsg_discovery, or both",
                ),
                (None, None) if OPTIONAL.contains(&kind) => {}
                (None, None) => {
                    note(Severity::Warning, name, "the service is not there: it is off", advice);
                }
                (None, Some(_)) if !has_servers && !names_servers => note(
                    Severity::Error,
                    kind.dmsg_member(),
                    "the service is reached over DMSG only, and no relay server is listed, nor a discovery over HTTP \
                     that would name some",
                    "write dmsg_servers, or the service's http:// address",
                ),
                _ => {}
            }
        }
        let is_over_dmsg = |kind: &ServiceKind| {
            let endpoints = self.endpoints(*kind);
            endpoints.http.is_none() && endpoints.dmsg.is_some()
        };
        if !has_servers && names_servers && ServiceKind::ALL.iter().any(is_over_dmsg) {
            let what =
                "there are services over DMSG only, whose relay servers only the discovery names";
            note(Severity::Warning, "dmsg_servers", what, "write some, to do without plain HTTP");
        }
        if has_servers && self.discovery_dmsg().is_none() {
            let what = "relay servers are listed, but the discovery has no DMSG address";
            note(
                Severity::Warning,
                "dmsg_discovery_dmsg",
                what,
                "write it, to do without plain HTTP",
            );
        }
        findings
    }
}

/// Services that many deployments do without (`§3`).
const OPTIONAL: [ServiceKind; 2] = [ServiceKind::RouteFinder, ServiceKind::UptimeTracker];
