//! Stream responses: what a destination answers (`wire.md §4.2`, `§4.5`), and what a server
//! answers to an IP lookup (`§5.1`) or an announcement (`§5.3`).

use std::sync::LazyLock;

use super::{
    Dialect, ErrorCode, GobError, ObjectError, SignedObject,
    gob::{self, Slot, Target, encode, id},
};
use crate::identity::PublicKey;

/// The answer to a [`StreamRequest`](super::StreamRequest) (`wire.md §4.5`).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StreamResponse {
    /// SHA-256 of the request's signed object.
    pub req_hash: [u8; 32],
    /// Whether the stream is open.
    pub accepted: bool,
    /// 4 or 16 bytes in an IP answer, else empty; not in [`Dialect::G23`]. The decoder takes any
    /// length.
    pub ip: Vec<u8>,
    /// ISO country; this and the other places only in [`Dialect::G26`].
    pub geo_country: String,
    /// ISO region.
    pub geo_region: String,
    /// Latitude in degrees.
    pub geo_lat: f64,
    /// Longitude in degrees.
    pub geo_lon: f64,
    /// Code of `wire.md §4.9`, 0 if accepted.
    pub err_code: u16,
    /// Second KK message.
    pub noise_msg: Vec<u8>,
}

/// Room for everything of a value but its strings and bytes: message header 12, hash 66, flag 2,
/// four string headers of 6, two floats of 10, code 4, header of the noise message 6, end 1.
const VALUE_BYTES: usize = 160;

/// Ids in the order in which a fresh encoder meets the types.
const RESPONSE: i64 = id::FIRST_OWN;
const HASH: i64 = RESPONSE + 1;

static DEFINITIONS: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| Dialect::ALL.map(definitions));

fn definitions(dialect: Dialect) -> Vec<u8> {
    let mut fields = vec![("ReqHash", HASH), ("Accepted", id::BOOL)];
    if dialect >= Dialect::G24 {
        fields.push(("IP", id::BYTES));
    }
    if dialect >= Dialect::G26 {
        fields.extend([("GeoCountry", id::STRING), ("GeoRegion", id::STRING)]);
        fields.extend([("GeoLat", id::FLOAT), ("GeoLon", id::FLOAT)]);
    }
    fields.extend([("ErrCode", id::UINT), ("NoiseMsg", id::BYTES)]);
    let mut out = Vec::new();
    encode::define_struct(&mut out, "StreamResponse", RESPONSE, &fields);
    encode::define_array(&mut out, "SHA256", HASH, id::UINT, 32);
    out
}

impl StreamResponse {
    /// Gob bytes, exactly as Go's fresh encoder gives them (`wire.md §4.3`). Fields the dialect
    /// does not have are left out.
    #[must_use]
    pub fn encode(&self, dialect: Dialect) -> Vec<u8> {
        let definitions = &DEFINITIONS[dialect as usize];
        let variable =
            self.noise_msg.len() + self.ip.len() + self.geo_country.len() + self.geo_region.len();
        let mut out = Vec::with_capacity(definitions.len() + VALUE_BYTES + variable);
        out.extend_from_slice(definitions);
        encode::value(&mut out, |fields| {
            fields.array(&self.req_hash);
            fields.bool(self.accepted);
            if dialect >= Dialect::G24 {
                fields.bytes(&self.ip);
            }
            if dialect >= Dialect::G26 {
                fields.bytes(self.geo_country.as_bytes());
                fields.bytes(self.geo_region.as_bytes());
                fields.float(self.geo_lat);
                fields.float(self.geo_lon);
            }
            fields.uint(u64::from(self.err_code));
            fields.bytes(&self.noise_msg);
        });
        out
    }

    /// Decodes the gob of any dialect, in any form Go takes (`wire.md §4.3`).
    pub fn decode(gob: &[u8]) -> Result<Self, GobError> {
        let mut response = Self::default();
        gob::decode(gob, &mut response)?;
        Ok(response)
    }

    /// Checks 2 to 4 of `wire.md §4.5`, in that order: hash, signature by the destination,
    /// accepted. `object` is the one whose gob this response was decoded from.
    pub fn verify(
        &self,
        object: &SignedObject,
        req_hash: &[u8; 32],
        destination: &PublicKey,
    ) -> Result<(), ObjectError> {
        self.verify_hash(req_hash)?;
        object.verify(destination).map_err(ObjectError::ResponseSignature)?;
        self.verify_accepted()
    }

    /// The checks of a server that knows by the session whose response it is: hash and accepted. The signature is for the
    /// initiator to check, and costs as much as all else that a server does for a dial.
    pub(crate) fn verify_routed(&self, req_hash: &[u8; 32]) -> Result<(), ObjectError> {
        self.verify_hash(req_hash)?;
        self.verify_accepted()
    }

    fn verify_hash(&self, req_hash: &[u8; 32]) -> Result<(), ObjectError> {
        if self.req_hash == *req_hash { Ok(()) } else { Err(ObjectError::ResponseHash) }
    }

    fn verify_accepted(&self) -> Result<(), ObjectError> {
        if self.accepted {
            return Ok(());
        }
        let known = ErrorCode::from_code(self.err_code);
        Err(ObjectError::Refused(known.unwrap_or(ErrorCode::Refused)))
    }
}

impl Target for StreamResponse {
    fn slot(&mut self, name: &[u8]) -> Option<Slot<'_>> {
        Some(match name {
            b"ReqHash" => Slot::Hash(&mut self.req_hash),
            b"Accepted" => Slot::Bool(&mut self.accepted),
            b"IP" => Slot::Bytes(&mut self.ip),
            b"GeoCountry" => Slot::String(&mut self.geo_country),
            b"GeoRegion" => Slot::String(&mut self.geo_region),
            b"GeoLat" => Slot::Float(&mut self.geo_lat),
            b"GeoLon" => Slot::Float(&mut self.geo_lon),
            b"ErrCode" => Slot::Uint16(&mut self.err_code),
            b"NoiseMsg" => Slot::Bytes(&mut self.noise_msg),
            _ => return None,
        })
    }
}
