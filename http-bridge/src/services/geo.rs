//! Where addresses are: a table of networks that the operator supplies. Nobody is asked, over no network.
//!
//! ```text
//!   {"203.0.113.0/24": {"lat": 52.52, "lon": 13.4, "country": "DE", "region": "BE"}, "2001:db8::/32": {…}}
//!   an address is where its longest listed network is
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::service_discovery::Geo;

/// Bytes of a table; a hundred bytes each for all networks that a small deployment meets, and the countries' 200,000.
pub const TABLE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Networks of a table.
pub const NETWORKS_MAX: usize = 250_000;

/// Places by network. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct GeoTable(Arc<BTreeMap<u8, HashMap<u128, Geo>>>);

impl GeoTable {
    /// Reads a table's text.
    ///
    /// # Errors
    /// What is wrong with it, in a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let listed: BTreeMap<String, Geo> = serde_json::from_str(text).map_err(|error| {
            format!("no table of places, {{\"NETWORK/BITS\": {{\"lat\": …}}}}: {error}")
        })?;
        if listed.len() > NETWORKS_MAX {
            return Err(format!("more than {NETWORKS_MAX} networks"));
        }
        let mut table: BTreeMap<u8, HashMap<u128, Geo>> = BTreeMap::new();
        for (network, mut geo) in listed {
            let (bits, prefix) = parse_network(&network)?;
            if !(geo.lat.abs() <= 90.0 && geo.lon.abs() <= 180.0) {
                return Err(format!("{network}: no place on earth"));
            }
            // As precise as deployed services are.
            geo.lat = (geo.lat * 100.0).round() / 100.0;
            geo.lon = (geo.lon * 100.0).round() / 100.0;
            if table.entry(bits).or_default().insert(prefix, geo).is_some() {
                return Err(format!("{network}: listed twice"));
            }
        }
        Ok(Self(Arc::new(table)))
    }

    /// Where an address is, if a network of it is listed.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<&Geo> {
        let number = number(address);
        let by_length = self.0.iter().rev();
        by_length.filter_map(|(bits, networks)| networks.get(&masked(number, *bits))).next()
    }
}

/// An address as a number; IPv4 in the place that IPv6 has for it.
fn number(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn masked(number: u128, bits: u8) -> u128 {
    number & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

/// Bits of the prefix, and the prefix.
fn parse_network(text: &str) -> Result<(u8, u128), String> {
    let wrong = |what: &str| format!("{text:?}: {what}");
    let (address, bits) = text.split_once('/').ok_or_else(|| wrong("ADDRESS/BITS is wanted"))?;
    let address: IpAddr = address.parse().map_err(|_| wrong("no IP address"))?;
    let (max, above) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
    let bits: u8 =
        bits.parse().ok().filter(|bits| *bits <= max).ok_or_else(|| wrong("too many bits"))?;
    let (bits, number) = (bits + above, number(address));
    if masked(number, bits) != number {
        return Err(wrong("it has bits beyond its prefix"));
    }
    Ok((bits, number))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_longest_network_decides() {
        let table = GeoTable::parse(
            r#"{"203.0.113.0/24":{"lat":52.5163,"lon":13.377,"country":"DE","region":"BE"},
                "203.0.113.7/32":{"country":"AT"},"2001:db8::/32":{"country":"FR"},"0.0.0.0/0":{"country":"ZZ"}}"#,
        )
        .unwrap();
        let country = |address: &str| {
            table.find(address.parse().unwrap()).map(|geo| geo.country.clone()).unwrap_or_default()
        };
        for (address, expected) in [
            ("203.0.113.7", "AT"),
            ("203.0.113.8", "DE"),
            ("::ffff:203.0.113.8", "DE"),
            ("203.0.114.8", "ZZ"),
            ("2001:db8:1::1", "FR"),
            ("2001:db9::1", ""),
        ] {
            assert_eq!(country(address), expected, "{address}");
        }
        let geo = table.find("203.0.113.9".parse().unwrap()).unwrap();
        assert_eq!((geo.lat, geo.lon), (52.52, 13.38));
    }

    #[test]
    fn what_is_wrong_with_a_table_is_said() {
        for (text, said) in [
            ("[]", "no table of places"),
            (r#"{"203.0.113.0":{}}"#, "ADDRESS/BITS"),
            (r#"{"host/8":{}}"#, "no IP address"),
            (r#"{"203.0.113.0/33":{}}"#, "too many bits"),
            (r#"{"203.0.113.1/24":{}}"#, "beyond its prefix"),
            (r#"{"203.0.113.0/24":{"lat":91}}"#, "no place on earth"),
            (r#"{"203.0.113.0/24":{},"::ffff:203.0.113.0/120":{}}"#, "listed twice"),
        ] {
            let error = GeoTable::parse(text).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        assert!(GeoTable::default().find("203.0.113.1".parse().unwrap()).is_none());
    }
}
