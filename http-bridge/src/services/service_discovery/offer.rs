//! What a visor offers, as it stands in the directory (`services.md §5.1`).

use std::{collections::HashMap, fmt, str::FromStr};

use dmsg_engine::identity::PublicKey;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, IgnoredAny},
};

/// `key:port`; the port may be absent when read, which is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OfferAddr {
    /// Who offers it.
    pub key: PublicKey,
    /// On which port of its own.
    pub port: u16,
}

impl fmt::Display for OfferAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.key, self.port)
    }
}

impl FromStr for OfferAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, port) = text.split_once(':').unwrap_or((text, ""));
        let port = if port.is_empty() { Ok(0) } else { port.parse() };
        let key = key.parse().map_err(|error| format!("{error}"))?;
        Ok(Self { key, port: port.map_err(|_| "the port is no number up to 65535".to_owned())? })
    }
}

impl Serialize for OfferAddr {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OfferAddr {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Where it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Geo {
    /// Degrees north.
    #[serde(skip_serializing_if = "is_zero")]
    pub lat: f64,
    /// Degrees east.
    #[serde(skip_serializing_if = "is_zero")]
    pub lon: f64,
    /// Two letters.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub country: String,
    /// The region's code.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub region: String,
}

/// How it fares.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OfferInfo {
    /// Milliseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub latency: f64,
    /// Percent.
    #[serde(skip_serializing_if = "is_zero")]
    pub uptime: f64,
    /// Users at once.
    #[serde(skip_serializing_if = "is_none")]
    pub connections: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_none(number: &u64) -> bool {
    *number == 0
}

/// A service that a visor offers. Members that are not known are passed over: newer services may tell more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// Who offers it, and where.
    pub address: OfferAddr,
    /// `vpn`, `skysocks` or `visor`, and what newer visors add.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it is; the service fills it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geo: Option<Geo>,
    /// Whether `local_ips` may be shown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub display_node_ip: bool,
    /// The visor's version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Addresses of the visor's interfaces.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub local_ips: Vec<String>,
    /// How it fares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<OfferInfo>,
}

/// The members of an offer.
const MEMBERS: [&str; 7] =
    ["address", "type", "geo", "display_node_ip", "version", "local_ips", "info"];

fn nullable<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Option::<Vec<String>>::deserialize(from).map(Option::unwrap_or_default)
}

impl Offer {
    /// Reads what somebody registers; a member that is not known is refused there (`services.md §5.2`).
    pub(super) fn parse_strictly(body: &[u8]) -> Result<Self, serde_json::Error> {
        let members: HashMap<String, IgnoredAny> = serde_json::from_slice(body)?;
        match members.keys().find(|name| !MEMBERS.contains(&name.as_str())) {
            Some(name) => Err(serde_json::Error::unknown_field(name, &MEMBERS)),
            None => serde_json::from_slice(body),
        }
    }

    /// An offer with nothing but its address and type.
    #[must_use]
    pub fn new(address: OfferAddr, kind: impl Into<String>) -> Self {
        Self {
            address,
            kind: kind.into(),
            geo: None,
            display_node_ip: false,
            version: String::new(),
            local_ips: Vec::new(),
            info: None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_example_of_the_specification_reads_and_writes() {
        let text = r#"{"address":"025a4f15656f2e8da5de6d6cddf2526262a0c06cdf58ece8996d1cef7b999a5a88:44","type":"vpn","geo":{"lat":1.5,"lon":-2.0,"country":"DE","region":"BE"},"display_node_ip":true,"version":"v1.3.29","local_ips":["10.0.0.2"]}"#;
        let offer: Offer = serde_json::from_str(text).unwrap();
        assert_eq!((offer.address.port, offer.geo.as_ref().unwrap().lon), (44, -2.0));
        assert_eq!(serde_json::to_string(&offer).unwrap(), text);
    }

    #[test]
    fn zero_values_are_left_out_and_unknown_members_refused() {
        let key = "025a4f15656f2e8da5de6d6cddf2526262a0c06cdf58ece8996d1cef7b999a5a88";
        let bare = format!(r#"{{"address":"{key}","type":"vpn","geo":{{}},"local_ips":null}}"#);
        let offer: Offer = serde_json::from_str(&bare).unwrap();
        let written = serde_json::to_string(&offer).unwrap();
        assert_eq!(written, format!(r#"{{"address":"{key}:0","type":"vpn","geo":{{}}}}"#));
        let odd = format!(r#"{{"address":"{key}:1","type":"vpn","evil":1}}"#);
        let refused = Offer::parse_strictly(odd.as_bytes()).unwrap_err().to_string();
        assert!(refused.contains("unknown field `evil`"), "{refused}");
        assert!(Offer::parse_strictly(bare.as_bytes()).is_ok());
        // Of a list nothing gets lost because its service is newer than we are.
        let list = format!("[{odd},{bare}]");
        let read = crate::services::call::read_list::<Offer>("/", list.as_bytes()).unwrap();
        assert_eq!(read.len(), 2);
        assert!(format!("{key}:65536").parse::<OfferAddr>().is_err());
    }
}
