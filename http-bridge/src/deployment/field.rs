//! The members of a deployment, and what each may hold (`deployment-config.md §1`).
//!
//! One table: reading, writing, supplementing, refreshing and the tests all go through [`Field::ALL`].

use std::{fmt, net::IpAddr};

use dmsg_engine::identity::PublicKey;

use super::{
    json::{Cursor, Json, Kind, Object},
    problem::Problems,
    server::DmsgServer,
};
use crate::{
    service::ServiceKind,
    url::{DmsgUrl, check_host_port, has_valid_port},
};

/// A member that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// Where a service is: over HTTP, or over DMSG in documents that have one member for both.
    Service(ServiceKind),
    /// Where a service is over DMSG.
    ServiceDmsg(ServiceKind),
    /// Reward pages.
    RewardSystem,
    /// The same over DMSG.
    RewardSystemDmsg,
    /// Back end of the wallet.
    SkycoinNodeDmsg,
    /// Relay servers to begin with.
    DmsgServers,
    /// Keys of the nodes that set routes up.
    RouteSetupNodes,
    /// Keys that may tell a visor to make transports.
    TransportSetup,
    /// Keys that may fetch the hardware survey.
    SurveyWhitelist,
    /// STUN servers.
    StunServers,
    /// The resolver to use.
    DnsServer,
    /// Where an IP address's place is asked for; never over DMSG, which hides the address.
    Geoip,
    /// Domain of the servers' WebSocket addresses.
    WssDomainSuffix,
    /// Domain under which mesh sites are browsed.
    BrowseOriginSuffix,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `http://`, `https://`, `dmsg://` or `key:port`.
    Url,
    /// `http://` or `https://`.
    WebUrl,
    /// `dmsg://` or `key:port`.
    DmsgUrl,
    /// A list of public keys.
    Keys,
    /// A list of `host:port`.
    HostPorts,
    /// An IP address.
    Ip,
    /// Part of a domain name.
    Domain,
    /// A list of relay servers.
    Servers,
}

impl Field {
    /// All of them, in the order in which they are written.
    pub const ALL: [Self; 26] = {
        let k = ServiceKind::ALL;
        [
            Self::Service(k[0]),
            Self::ServiceDmsg(k[0]),
            Self::Service(k[1]),
            Self::ServiceDmsg(k[1]),
            Self::Service(k[2]),
            Self::ServiceDmsg(k[2]),
            Self::Service(k[3]),
            Self::ServiceDmsg(k[3]),
            Self::Service(k[4]),
            Self::ServiceDmsg(k[4]),
            Self::Service(k[5]),
            Self::ServiceDmsg(k[5]),
            Self::Service(k[6]),
            Self::ServiceDmsg(k[6]),
            Self::RewardSystem,
            Self::RewardSystemDmsg,
            Self::SkycoinNodeDmsg,
            Self::RouteSetupNodes,
            Self::TransportSetup,
            Self::SurveyWhitelist,
            Self::StunServers,
            Self::DnsServer,
            Self::Geoip,
            Self::DmsgServers,
            Self::WssDomainSuffix,
            Self::BrowseOriginSuffix,
        ]
    };

    /// The member's name in the document.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Service(kind) => kind.member(),
            Self::ServiceDmsg(kind) => kind.dmsg_member(),
            Self::RewardSystem => "reward_system",
            Self::RewardSystemDmsg => "reward_system_dmsg",
            Self::SkycoinNodeDmsg => "skycoin_node_dmsg",
            Self::DmsgServers => "dmsg_servers",
            Self::RouteSetupNodes => "route_setup_nodes",
            Self::TransportSetup => "transport_setup",
            Self::SurveyWhitelist => "survey_whitelist",
            Self::StunServers => "stun_servers",
            Self::DnsServer => "dns_server",
            Self::Geoip => "geoip",
            Self::WssDomainSuffix => "wss_domain_suffix",
            Self::BrowseOriginSuffix => "browse_origin_suffix",
        }
    }

    /// The field of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }

    /// What it holds.
    #[must_use]
    pub fn form(self) -> Form {
        match self {
            Self::Service(_) | Self::RewardSystem => Form::Url,
            Self::ServiceDmsg(_) | Self::RewardSystemDmsg | Self::SkycoinNodeDmsg => Form::DmsgUrl,
            Self::DmsgServers => Form::Servers,
            Self::RouteSetupNodes | Self::TransportSetup | Self::SurveyWhitelist => Form::Keys,
            Self::StunServers => Form::HostPorts,
            Self::DnsServer => Form::Ip,
            Self::Geoip => Form::WebUrl,
            Self::WssDomainSuffix | Self::BrowseOriginSuffix => Form::Domain,
        }
    }

    /// Whether it is a set of keys, which takes effect while a visor runs (`§5`).
    #[must_use]
    pub fn is_key_set(self) -> bool {
        self.form() == Form::Keys
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whose text it is that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Author {
    /// An operator, who is told of all that is wrong and corrects it.
    Operator,
    /// The network: an answer, or a file that was made of one. Anybody may register a server, so a bad one is left out
    /// with a warning, and takes nothing else along (`§1`).
    Network,
}

/// What a field was found to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// [`Form::Url`], [`Form::WebUrl`], [`Form::DmsgUrl`]
    Url(ServiceUrl),
    /// [`Form::Keys`]
    Keys(Vec<PublicKey>),
    /// [`Form::HostPorts`]
    Texts(Vec<String>),
    /// [`Form::Ip`], [`Form::Domain`]
    Text(String),
    /// [`Form::Servers`]
    Servers(Vec<DmsgServer>),
}

/// The address of a service, without a slash at the end: paths are appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceUrl {
    /// `http://` or `https://`.
    Http(http::Uri),
    /// `dmsg://`, always written with its port.
    Dmsg(DmsgUrl),
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(uri) => f.write_str(uri.to_string().trim_end_matches('/')),
            Self::Dmsg(url) => write!(f, "dmsg://{}", url.addr()),
        }
    }
}

impl ServiceUrl {
    /// Reads an address in any of the forms that are in use: with a scheme, or a bare `key` or `key:port`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            Some("http" | "https") => Self::parse_http(text),
            Some("dmsg") | None => {
                let addr = DmsgUrl::parse_addr(text).map_err(|error| error.to_string())?;
                // Through the text, so that the port is shown in the Host header, as everybody else does.
                let url = format!("dmsg://{addr}").parse::<DmsgUrl>();
                url.map(Self::Dmsg).map_err(|error| error.to_string())
            }
            Some(scheme) => {
                Err(format!("the scheme is {scheme:?}; http, https and dmsg are known"))
            }
        }
    }

    fn parse_http(text: &str) -> Result<Self, String> {
        // Without its slashes, the scheme would pass for a host.
        if text.split_once("://").is_some_and(|(_, rest)| rest.trim_matches('/').is_empty()) {
            return Err("it has no host".to_owned());
        }
        let uri: http::Uri = text
            .trim_end_matches('/')
            .parse()
            .map_err(|error: http::uri::InvalidUri| format!("no URL: {error}"))?;
        let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        let host = uri.host().unwrap_or_default();
        let wrong = if host.is_empty() {
            "it has no host"
        } else if authority.contains('@') {
            "it has a user name or password"
        } else if !has_valid_port(authority) {
            "its port is not a number from 1 to 65535"
        } else if uri.query().is_some() || text.contains('#') {
            "it has a query or a fragment, and paths are appended to it"
        } else if host.len() == 2 * PublicKey::LEN && host.bytes().all(|b| b.is_ascii_hexdigit()) {
            "its host is a public key, which is reached by dmsg://"
        } else {
            return Ok(Self::Http(uri));
        };
        Err(wrong.to_owned())
    }
}

impl Value {
    /// As it is written into the document.
    #[must_use]
    pub fn to_json(&self) -> Json {
        match self {
            Self::Url(url) => url.to_string().into(),
            Self::Keys(keys) => keys.iter().map(ToString::to_string).collect::<Vec<_>>().into(),
            Self::Texts(texts) => texts.clone().into(),
            Self::Text(text) => text.as_str().into(),
            Self::Servers(servers) => {
                servers.iter().map(DmsgServer::to_json).collect::<Vec<_>>().into()
            }
        }
    }
}

impl Field {
    /// Reads a member's value. `None` for `null`, an empty text, and what is wrong, which is noted.
    pub(super) fn read(
        self,
        at: &Cursor<'_>,
        author: Author,
        problems: &mut Problems,
    ) -> Option<Value> {
        if at.is_null() {
            return None;
        }
        match self.form() {
            Form::Keys => {
                let items = at.items(problems)?;
                Some(Value::Keys(items.iter().filter_map(|at| read_key(at, problems)).collect()))
            }
            Form::HostPorts => {
                let items = at.items(problems)?;
                let texts = items.iter().filter_map(|at| read_host_port(at, problems));
                Some(Value::Texts(texts.collect()))
            }
            Form::Servers => {
                let items = at.items(problems)?;
                let mut servers: Vec<DmsgServer> = Vec::with_capacity(items.len());
                for at in items {
                    let Some(server) = DmsgServer::read(&at, author, problems) else { continue };
                    if servers.iter().take(SERVERS_COMPARED_MAX).any(|s| s.key == server.key) {
                        let what = format!("server {} is listed before", server.key);
                        at.warn(what, "keep the element with its present address", problems);
                    }
                    servers.push(server);
                }
                Some(Value::Servers(servers))
            }
            form => {
                let text = at.text(problems)?;
                let text = text.trim();
                if text.is_empty() {
                    return None;
                }
                read_text(form, text).map_err(|what| at.error(what, advice(form), problems)).ok()
            }
        }
    }
}

/// Elements that a new one is compared with, so that a huge list costs no square of its length.
const SERVERS_COMPARED_MAX: usize = 1024;

fn read_text(form: Form, text: &str) -> Result<Value, String> {
    let url = || ServiceUrl::parse(text).map_err(|what| format!("{text:?} is no address: {what}"));
    match form {
        Form::Url => url().map(Value::Url),
        Form::WebUrl => match url()? {
            ServiceUrl::Dmsg(_) => Err(format!("{text:?} hides the caller's IP address")),
            url => Ok(Value::Url(url)),
        },
        Form::DmsgUrl => match url()? {
            ServiceUrl::Http(_) => Err(format!("{text:?} is no dmsg:// address")),
            url => Ok(Value::Url(url)),
        },
        Form::Ip => match text.parse::<IpAddr>() {
            Ok(_) => Ok(Value::Text(text.to_owned())),
            Err(_) => Err(format!("{text:?} is no IP address")),
        },
        _ if is_domain(text) => Ok(Value::Text(text.to_owned())),
        _ => Err(format!("{text:?} is no part of a domain name")),
    }
}

fn advice(form: Form) -> &'static str {
    match form {
        Form::Url => {
            "write http://HOST[:PORT], dmsg://KEY:PORT, or \"\" for a service that is not there"
        }
        Form::WebUrl => "write http://HOST[:PORT] or https://HOST[:PORT]",
        Form::DmsgUrl => "write dmsg://KEY:PORT with the 66 hex digits of the service's key",
        Form::Ip => "write an address such as 1.1.1.1, without a port",
        _ => "write letters, digits, dots and hyphens",
    }
}

fn is_domain(text: &str) -> bool {
    let name = text.strip_prefix('.').unwrap_or(text);
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

const KEY_ADVICE: &str = "write the 66 hex digits of a public key, as `dmsg key public` prints it";

pub(super) fn read_key(at: &Cursor<'_>, problems: &mut Problems) -> Option<PublicKey> {
    let text = at.text(problems)?;
    text.trim()
        .parse()
        .map_err(|error| at.error(format!("{text:?} is no key: {error}"), KEY_ADVICE, problems))
        .ok()
}

pub(super) fn read_host_port(at: &Cursor<'_>, problems: &mut Problems) -> Option<String> {
    let text = at.text(problems)?;
    let text = text.trim();
    match check_host_port(text) {
        Ok(()) => Some(text.to_owned()),
        Err(what) => {
            at.error(format!("{text:?}: {what}"), "write host:port", problems);
            None
        }
    }
}

/// Keeps a member that nobody here knows, and says so.
pub(super) fn keep(object: &mut Object, name: &str, value: &Cursor<'_>, problems: &mut Problems) {
    let what = format!("{name:?} is not known here");
    value.warn(what, "it is kept as it is; look whether the name is right", problems);
    object.set(name, value.to_json(problems));
}

/// Whether a value is an object, for deciding what a document is.
pub(super) fn is_object(at: &Cursor<'_>) -> bool {
    at.kind() == Kind::Object
}
