//! Stream requests: what an initiator asks for (`wire.md §4.2`, `§4.4`).

use std::sync::LazyLock;

use super::{
    Dialect, GobError, ObjectError, SignedObject, WireAddr,
    gob::{encode, id},
    raw::{KeyBytes, RawAddr, RawRequest, complete_addresses, terms},
};
use crate::identity::{KeyError, PublicKey};

/// A dial request (`wire.md §4.2`, `§4.4`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamRequest {
    /// Unix nanoseconds.
    pub timestamp: i64,
    /// The initiator and its ephemeral port.
    pub src: WireAddr,
    /// The destination.
    pub dst: WireAddr,
    /// Asks the server for the caller's address instead (`wire.md §5.1`); not in [`Dialect::G23`].
    pub ip_info: bool,
    /// Asks for a location too (`wire.md §5.2`); only in [`Dialect::G26`].
    pub geo_info: bool,
    /// First KK message.
    pub noise_msg: Vec<u8>,
}

/// Room for everything of a value but the noise message: message header 12, timestamp 10, two
/// addresses of 42, flags 4, header of the noise message 6, end 1.
const VALUE_BYTES: usize = 128;

/// Ids in the order in which a fresh encoder meets the types.
const REQUEST: i64 = id::FIRST_OWN;
const ADDR: i64 = REQUEST + 1;
const KEY: i64 = ADDR + 1;

static DEFINITIONS: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| Dialect::ALL.map(definitions));

fn definitions(dialect: Dialect) -> Vec<u8> {
    let mut fields = vec![("Timestamp", id::INT), ("SrcAddr", ADDR), ("DstAddr", ADDR)];
    if dialect >= Dialect::G24 {
        fields.push(("IPinfo", id::BOOL));
    }
    if dialect >= Dialect::G26 {
        fields.push(("GeoInfo", id::BOOL));
    }
    fields.push(("NoiseMsg", id::BYTES));
    let mut out = Vec::new();
    encode::define_struct(&mut out, "StreamRequest", REQUEST, &fields);
    encode::define_struct(&mut out, "Addr", ADDR, &[("PK", KEY), ("Port", id::UINT)]);
    encode::define_binary_marshaler(&mut out, "PubKey", KEY);
    out
}

impl StreamRequest {
    /// Gob bytes, exactly as Go's fresh encoder gives them (`wire.md §4.3`). Fields the dialect
    /// does not have are left out.
    #[must_use]
    pub fn encode(&self, dialect: Dialect) -> Vec<u8> {
        let definitions = &DEFINITIONS[dialect as usize];
        let capacity = definitions.len() + VALUE_BYTES + self.noise_msg.len();
        let mut out = Vec::with_capacity(capacity);
        out.extend_from_slice(definitions);
        encode::value(&mut out, |fields| {
            fields.int(self.timestamp);
            fields.nested(|fields| self.src.encode(fields));
            fields.nested(|fields| self.dst.encode(fields));
            if dialect >= Dialect::G24 {
                fields.bool(self.ip_info);
            }
            if dialect >= Dialect::G26 {
                fields.bool(self.geo_info);
            }
            fields.bytes(&self.noise_msg);
        });
        out
    }

    /// Decodes the gob of any dialect, in any form Go takes (`wire.md §4.3`). Whether the request
    /// makes sense, [`StreamRequest::verify`] tells.
    pub fn decode(gob: &[u8]) -> Result<Self, GobError> {
        let raw = RawRequest::decode(gob)?;
        let key_error = |error| GobError::Key { field: "PK".to_owned(), error };
        Ok(Self {
            timestamp: raw.timestamp,
            src: WireAddr::from_raw(raw.src).map_err(key_error)?,
            dst: WireAddr::from_raw(raw.dst).map_err(key_error)?,
            ip_info: raw.ip_info,
            geo_info: raw.geo_info,
            noise_msg: raw.noise_msg,
        })
    }

    /// What the request says but for its handshake message, as the tag of a ticket binds it (`docs/extensions.md §1.2`).
    #[must_use]
    pub fn terms(&self) -> Vec<u8> {
        let end = |addr: &WireAddr| (addr.key_bytes(), addr.port);
        terms(self.timestamp, end(&self.src), end(&self.dst))
    }

    /// Checks 3 to 8 of `wire.md §4.4`, in that order: fields and signature. `object` is the one
    /// whose gob this request was decoded from.
    pub fn verify(&self, object: &SignedObject) -> Result<(), ObjectError> {
        let Self { timestamp, src, dst, .. } = self;
        let [(src, _), _] =
            complete_addresses(*timestamp, (src.key, src.port), (dst.key, dst.port))?;
        object.verify(&src).map_err(ObjectError::RequestSignature)
    }
}

impl WireAddr {
    fn from_raw(raw: RawAddr) -> Result<Self, KeyError> {
        let key = raw.key.map(|bytes| PublicKey::from_bytes(&bytes)).transpose()?;
        Ok(Self { key, port: raw.port })
    }

    /// All zeros for a null key.
    fn key_bytes(&self) -> KeyBytes {
        self.key.as_ref().map_or([0; PublicKey::LEN], |key| *key.as_bytes())
    }

    fn encode(&self, fields: &mut encode::Struct<'_>) {
        fields.bytes(self.key.as_ref().map_or(&[], |key| &key.as_bytes()[..]));
        fields.uint(u64::from(self.port));
    }
}
