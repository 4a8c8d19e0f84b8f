//! The configuration of a visor, as far as it comes from the deployment (`deployment-config.md §6`).
//!
//! ```text
//!   version sk pk · dmsg {discovery discovery_dmsg sessions_count servers} · transport {…} · routing {…}
//!   uptime_tracker {…} · launcher {…} · survey_whitelist stun_servers geoip conf_service … · local_path log_level
//! ```
//!
//! One table says which member holds which field of the deployment; writing, reading and updating go through it.
//! Updating a file keeps its keys, what the operator changed, and whatever is not in the table.

use dmsg_engine::identity::{PublicKey, SecretKey};
use zeroize::{Zeroize, Zeroizing};

use super::{
    document::Services,
    field::{Author, Field, ServiceUrl, Value},
    json::{Cursor, Json, Kind, Object},
    problem::{Problem, Problems, Severity},
    refresh::{Change, merge},
};
use crate::service::ServiceKind::{
    AddressResolver, ConfigBootstrapper, DmsgDiscovery, RouteFinder, ServiceDiscovery,
    TransportDiscovery, UptimeTracker,
};

/// What wrote the file.
const VERSION: &str = concat!("dmsg-", env!("CARGO_PKG_VERSION"));

/// Which addresses a configuration shall have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Output {
    /// Both, each in its member.
    #[default]
    Dual,
    /// Those over DMSG, in both members: visors of spring 2026 read the one, later ones the other.
    DmsgOnly,
    /// Those over HTTP.
    HttpOnly,
}

impl Output {
    const ALL: [Self; 3] = [Self::Dual, Self::DmsgOnly, Self::HttpOnly];

    fn name(self) -> &'static str {
        match self {
            Self::Dual => "dual",
            Self::DmsgOnly => "dmsg-only",
            Self::HttpOnly => "http",
        }
    }
}

/// The member of a record that says which kind of output it was written for.
const OUTPUT: &str = "output";

/// What became of an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updated {
    /// Each field that the deployment says otherwise than the configuration did.
    pub changes: Vec<(Field, Change)>,
    /// What the deployment last set, to be remembered until the next update.
    pub record: Services,
}

/// Where the fields of a deployment stand. An empty section is the top.
const MEMBERS: [(&str, &str, Field); 22] = [
    ("dmsg", "discovery", Field::Service(DmsgDiscovery)),
    ("dmsg", "discovery_dmsg", Field::ServiceDmsg(DmsgDiscovery)),
    ("dmsg", "servers", Field::DmsgServers),
    ("transport", "discovery", Field::Service(TransportDiscovery)),
    ("transport", "discovery_dmsg", Field::ServiceDmsg(TransportDiscovery)),
    ("transport", "address_resolver", Field::Service(AddressResolver)),
    ("transport", "address_resolver_dmsg", Field::ServiceDmsg(AddressResolver)),
    ("transport", "transport_setup", Field::TransportSetup),
    ("routing", "route_setup_nodes", Field::RouteSetupNodes),
    ("routing", "route_finder", Field::Service(RouteFinder)),
    ("routing", "route_finder_dmsg", Field::ServiceDmsg(RouteFinder)),
    ("uptime_tracker", "addr", Field::Service(UptimeTracker)),
    ("uptime_tracker", "addr_dmsg", Field::ServiceDmsg(UptimeTracker)),
    ("launcher", "service_discovery", Field::Service(ServiceDiscovery)),
    ("launcher", "service_discovery_dmsg", Field::ServiceDmsg(ServiceDiscovery)),
    ("", "conf_service", Field::Service(ConfigBootstrapper)),
    ("", "conf_service_dmsg", Field::ServiceDmsg(ConfigBootstrapper)),
    ("", "survey_whitelist", Field::SurveyWhitelist),
    ("", "stun_servers", Field::StunServers),
    ("", "geoip", Field::Geoip),
    ("", "reward_system", Field::RewardSystem),
    ("", "reward_system_dmsg", Field::RewardSystemDmsg),
];

/// Members that a visor expects and no deployment says, with the values that visors begin with.
fn skeleton() -> Object {
    let object = |members: Vec<(&str, Json)>| {
        let mut object = Object::default();
        members.into_iter().for_each(|(name, value)| object.set(name, value));
        Json::Object(object)
    };
    let none = || Json::List(Vec::new());
    let log_store = object(vec![
        ("type", "file".into()),
        ("location", "./local/transport_logs".into()),
        ("rotation_interval", "168h0m0s".into()),
    ]);
    let mut top = Object::default();
    for (name, value) in [
        (
            "dmsg",
            vec![
                ("discovery", "".into()),
                ("discovery_dmsg", "".into()),
                ("sessions_count", 2.into()),
                ("servers", none()),
                ("servers_type", "all".into()),
            ],
        ),
        (
            "dmsgpty",
            vec![
                ("dmsg_port", 22.into()),
                ("cli_network", "unix".into()),
                ("cli_address", "/tmp/dmsgpty.sock".into()),
                ("whitelist", none()),
            ],
        ),
        ("skywire-tcp", vec![("pk_table", Json::Null), ("listening_address", ":7777".into())]),
        (
            "transport",
            vec![
                ("discovery", "".into()),
                ("discovery_dmsg", "".into()),
                ("address_resolver", "".into()),
                ("address_resolver_dmsg", "".into()),
                ("public_autoconnect", true.into()),
                ("transport_setup", none()),
                ("log_store", log_store),
                ("stcpr_port", 0.into()),
                ("sudph_port", 0.into()),
            ],
        ),
        (
            "routing",
            vec![
                ("route_setup_nodes", none()),
                ("route_finder", "".into()),
                ("route_finder_dmsg", "".into()),
                ("route_finder_timeout", "10s".into()),
                ("min_hops", 0.into()),
            ],
        ),
        ("uptime_tracker", vec![("addr", "".into()), ("addr_dmsg", "".into())]),
        (
            "launcher",
            vec![
                ("service_discovery", "".into()),
                ("service_discovery_dmsg", "".into()),
                ("apps", none()),
                ("server_addr", "localhost:5505".into()),
                ("bin_path", "./apps".into()),
                ("display_node_ip", false.into()),
            ],
        ),
    ] {
        top.set(name, object(value));
    }
    for (name, value) in [
        ("survey_whitelist", none()),
        ("hypervisors", none()),
        ("cli_addr", "localhost:3435".into()),
        ("log_level", "info".into()),
        ("local_path", "./local".into()),
        ("stun_servers", none()),
        ("shutdown_timeout", "10s".into()),
        ("is_public", false.into()),
        ("geoip", "".into()),
        ("persistent_transports", Json::Null),
    ] {
        top.set(name, value);
    }
    top
}

/// A visor's configuration.
#[derive(Debug, Clone)]
pub struct VisorConfig {
    /// All of them, but for `sk`, which is an empty text here.
    members: Object,
    secret_key: SecretKey,
}

impl VisorConfig {
    /// A new configuration for this key.
    #[must_use]
    pub fn new(key: &SecretKey, services: &Services, output: Output) -> Self {
        let mut members = Object::from([
            ("version", VERSION.into()),
            ("sk", "".into()),
            ("pk", key.public_key().to_string().into()),
        ]);
        skeleton().iter().for_each(|(name, value)| members.set(name, value.clone()));
        let mut config = Self { members, secret_key: key.clone() };
        let values = shaped(services, output);
        for (section, name, field) in MEMBERS {
            config.put(section, name, values.get(field));
        }
        config
    }

    /// Reads a configuration; what the table does not name is kept unread.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let config = Cursor::document(text, &mut problems).and_then(|at| {
            let mut keys = (None, None);
            for (name, value) in at.members(&mut problems)? {
                match name.as_str() {
                    "sk" => keys.0 = read_key::<SecretKey>(&value, "secret", &mut problems),
                    "pk" => keys.1 = read_key::<PublicKey>(&value, "public", &mut problems),
                    _ => {}
                }
            }
            let Some(secret) = keys.0 else {
                if !problems.has_errors() {
                    at.error("it has no sk", "this is no visor's configuration", &mut problems);
                }
                return None;
            };
            if keys.1.is_some_and(|public| public != secret.public_key()) {
                at.error("pk is not the public key of sk", "correct or remove pk", &mut problems);
            }
            let Json::Object(mut members) = at.to_json(&mut problems) else { return None };
            if let Some(Json::Text(text)) = members.get_mut("sk") {
                text.zeroize();
            }
            read(&at, &mut problems);
            Some(Self { members, secret_key: secret })
        });
        match config {
            Some(config) if !problems.has_errors() => Ok(config),
            _ => Err(problems),
        }
    }

    /// Whose configuration it is.
    #[must_use]
    pub fn secret_key(&self) -> &SecretKey {
        &self.secret_key
    }

    /// What is to be remembered of a new configuration.
    #[must_use]
    pub fn record(services: &Services, output: Output) -> Services {
        let mut record = services.clone();
        record.set_note(OUTPUT, output.name());
        record
    }

    /// Which kind of output it is: what the record says, else both, unless one of the two is nowhere.
    #[must_use]
    pub fn output(&self, record: Option<&Services>) -> Output {
        let name = record.and_then(|record| record.note(OUTPUT));
        if let Some(output) = Output::ALL.into_iter().find(|output| Some(output.name()) == name) {
            return output;
        }
        let services = self.services();
        let (mut http, mut dmsg) = (false, false);
        for kind in crate::service::ServiceKind::ALL {
            let endpoints = services.endpoints(kind);
            http |= endpoints.http.is_some();
            dmsg |= endpoints.dmsg.is_some();
        }
        // A deployment may list servers without saying which services are behind them.
        dmsg |= !services.servers().is_empty();
        match (http, dmsg) {
            (false, true) => Output::DmsgOnly,
            (true, false) => Output::HttpOnly,
            _ => Output::Dual,
        }
    }

    /// Where the visor keeps its files, as written.
    #[must_use]
    pub fn local_path(&self) -> &str {
        self.members.get("local_path").and_then(Json::as_text).unwrap_or("./local")
    }

    /// Sessions to hold.
    #[must_use]
    pub fn sessions_count(&self) -> usize {
        let dmsg = self.members.get("dmsg").map(|dmsg| match dmsg {
            // Newer visors may have a list of deployments here; the first one is the visor's own.
            Json::List(items) => items.first().unwrap_or(&Json::Null),
            dmsg => dmsg,
        });
        let count = dmsg.and_then(Json::as_object);
        match count.and_then(|dmsg| dmsg.get("sessions_count")) {
            Some(Json::Number(text)) => text.parse().unwrap_or(2),
            _ => 2,
        }
    }

    /// The deployment that it names.
    #[must_use]
    pub fn services(&self) -> Services {
        let text = Json::Object(self.members.clone()).to_string();
        let mut problems = Problems::default();
        Cursor::document(&text, &mut problems)
            .map(|at| read(&at, &mut problems))
            .unwrap_or_default()
    }

    /// Brings the configuration up to date: a value that the deployment had set (`last`) gets the new one, one that the
    /// operator changed or emptied stays, and so does what the new deployment does not say. Members that are missing are
    /// added. Without a record of what the deployment set, all that is there counts as the operator's.
    pub fn update(&mut self, last: Option<&Services>, new: &Services, output: Output) -> Updated {
        let current = self.services();
        let shapes = last.map(|last| shapes(last, self.output(Some(last)))).unwrap_or_default();
        let said = last.cloned().unwrap_or_default().overlaid(new);
        let wanted = shaped(&said, output);
        let (merged, mut changes) = merge(&current, &shapes, &wanted);
        // What this kind of output leaves out goes, unless the operator put it there.
        let mut gone = Vec::new();
        for (_, _, field) in MEMBERS {
            let is_ours = |value| shapes.iter().any(|last| last.get(field) == Some(value));
            let is_left_out = wanted.get(field).is_none() && said.get(field).is_some();
            if is_left_out && current.get(field).is_some_and(is_ours) {
                gone.push(field);
                changes.push((field, Change::Updated));
            }
        }
        for (section, name, field) in MEMBERS {
            if gone.contains(&field) {
                self.put(section, name, None);
            } else if merged.get(field) != current.get(field) {
                self.put(section, name, merged.get(field));
            }
        }
        self.complete();
        changes.retain(|(field, _)| MEMBERS.iter().any(|(_, _, known)| known == field));
        Updated { changes, record: Self::record(&said, output) }
    }

    /// Adds the members that a visor expects.
    fn complete(&mut self) {
        for (name, value) in skeleton().iter() {
            match (self.members.get_mut(name), value) {
                (None, _) => self.members.set(name, value.clone()),
                (Some(Json::Object(section)), Json::Object(wanted)) => {
                    for (name, value) in wanted.iter() {
                        if section.get(name).is_none() {
                            section.set(name, value.clone());
                        }
                    }
                }
                _ => {}
            }
        }
        self.members.set("version", VERSION);
        self.members.set("pk", self.secret_key.public_key().to_string());
    }

    fn put(&mut self, section: &str, name: &str, value: Option<&Value>) {
        let value = value.map(Value::to_json);
        let place = if section.is_empty() {
            &mut self.members
        } else {
            if self.members.get(section).is_none_or(|json| *json == Json::Null) {
                self.members.set(section, Object::default());
            }
            match self.members.get_mut(section) {
                Some(Json::Object(object)) => object,
                Some(Json::List(items)) => match items.first_mut() {
                    Some(Json::Object(object)) => object,
                    _ => return,
                },
                _ => return,
            }
        };
        match value {
            Some(value) => place.set(name, value),
            None => {
                // An empty member stays where a visor expects one, so that people see what could stand there.
                if let Some(old) = place.get_mut(name) {
                    *old = match old {
                        Json::List(_) => Json::List(Vec::new()),
                        _ => "".into(),
                    };
                }
            }
        }
    }

    /// The configuration as a file; it holds the secret key.
    #[must_use]
    pub fn to_pretty(&self) -> Zeroizing<String> {
        let mut members = self.members.clone();
        members.set("sk", self.secret_key.to_hex().as_str());
        let text = Zeroizing::new(Json::Object(members.clone()).to_pretty());
        if let Some(Json::Text(text)) = members.get_mut("sk") {
            text.zeroize();
        }
        text
    }

    /// What is missing for this kind of output.
    #[must_use]
    pub fn findings(services: &Services, output: Output) -> Vec<Problem> {
        let mut findings = shaped(services, output).findings("$");
        findings.retain(|finding| finding.severity == Severity::Error);
        findings
    }
}

fn read_key<T: std::str::FromStr>(
    at: &Cursor<'_>,
    kind: &str,
    problems: &mut Problems,
) -> Option<T> {
    let text = Zeroizing::new(at.text(problems)?);
    let key = text.trim().parse().ok();
    if key.is_none() {
        // The text stays out of the message: a mistyped secret is most of a secret.
        at.error(format!("this is no {kind} key"), "write the key in hex digits", problems);
    }
    key
}

/// The fields of the deployment in a configuration.
fn read(top: &Cursor<'_>, problems: &mut Problems) -> Services {
    let mut services = Services::default();
    read_section("", top, &mut services, problems);
    for (name, value) in top.members(problems).unwrap_or_default() {
        let is_section = MEMBERS.iter().any(|(section, _, _)| *section == name);
        match value.kind() {
            Kind::Null => {}
            _ if !is_section => {}
            // Newer visors may have a list of deployments here; the first one is the visor's own.
            Kind::List => {
                if let Some(first) = value.items(problems).unwrap_or_default().first() {
                    read_section(&name, first, &mut services, problems);
                }
            }
            _ => read_section(&name, &value, &mut services, problems),
        }
    }
    services
}

fn read_section(section: &str, at: &Cursor<'_>, services: &mut Services, problems: &mut Problems) {
    for (name, value) in at.members(problems).unwrap_or_default() {
        let known = MEMBERS.iter().find(|(s, n, _)| *s == section && *n == name);
        let Some((_, _, field)) = known else { continue };
        if let Some(read) = field.read(&value, Author::Operator, problems) {
            services.set(*field, read);
        }
    }
}

/// Every shape in which a deployment may have been written before, its own first.
fn shapes(services: &Services, own: Output) -> Vec<Services> {
    let others = Output::ALL.into_iter().filter(|output| *output != own);
    std::iter::once(own).chain(others).map(|output| shaped(services, output)).collect()
}

/// The deployment with the addresses that this kind of output has.
fn shaped(services: &Services, output: Output) -> Services {
    let mut shaped = services.clone();
    for field in Field::ALL {
        let sibling = match field {
            Field::Service(kind) => Field::ServiceDmsg(kind),
            Field::RewardSystem => Field::RewardSystemDmsg,
            _ => continue,
        };
        let (one, other) = (services.get(field).cloned(), services.get(sibling).cloned());
        let is_dmsg = |value: &Value| matches!(value, Value::Url(ServiceUrl::Dmsg(_)));
        let (http, dmsg) = match one {
            Some(value) if is_dmsg(&value) => (None, Some(value)),
            http => (http, other),
        };
        let (one, other) = match output {
            Output::Dual => (http.or_else(|| dmsg.clone()), dmsg),
            Output::DmsgOnly => (dmsg.clone(), dmsg),
            Output::HttpOnly => (http, None),
        };
        for (field, value) in [(field, one), (sibling, other)] {
            match value {
                Some(value) => shaped.set(field, value),
                None => drop(shaped.remove(field)),
            }
        }
    }
    if output == Output::HttpOnly {
        shaped.remove(Field::DmsgServers);
    }
    shaped
}

#[cfg(test)]
mod tests;
