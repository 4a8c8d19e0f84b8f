//! The service's side: whose request is it? (`services.md §1.3`, `§1.7`)
//!
//! ```text
//!   over DMSG  ─▶ the stream's key. SW-Public absent or equal; nonce and signature are not looked at
//!   over TCP   ─▶ SW-Public, SW-Sig, SW-Nonce in this order; the number must be the expected one, the signature
//!                 fit; check and count are one step, before the handler, so no number passes twice
//! ```
//!
//! Numbers live in memory only. A key that is not known is expected to begin at the *floor*: at least the microseconds
//! of the clock when this process started, and never below a number that was forgotten. So a number that was used
//! before a restart, or before its key was forgotten, is below the floor and good for nothing. Clients notice by
//! one 401 and fetch the number anew.

use std::{
    collections::HashMap,
    net::IpAddr,
    str::FromStr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use dmsg_engine::identity::{PublicKey, Signature};
use http::{HeaderMap, HeaderName, StatusCode};

use super::{NONCE, PUBLIC, PUBLIC_IP, SIGNATURE, signed_bytes};
use crate::discovery::UnixNanos;

/// Keys whose numbers are remembered, 100 bytes each: 10 MiB. Beyond it one is forgotten for each new one.
pub const NONCE_KEYS_MAX: usize = 100_000;

/// How a [`Guard`] behaves.
#[derive(Debug, Clone)]
pub struct GuardConfig {
    /// Count as Go's services do: after the handler, and only an answer of exactly 200. Then two requests that are
    /// under way at once can pass with one number; for tests of clients.
    pub counts_only_200: bool,
    /// [`NONCE_KEYS_MAX`].
    pub keys_max: usize,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self { counts_only_200: false, keys_max: NONCE_KEYS_MAX }
    }
}

/// Who asks, proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority {
    /// The caller's key.
    pub key: PublicKey,
    /// The caller's address: of the connection, or over DMSG what the caller claims.
    pub address: Option<IpAddr>,
    /// The address of the TCP connection, if it came over one.
    pub peer: Option<IpAddr>,
    /// What is to be counted by [`Guard::answered`].
    pending: Option<u64>,
}

/// Checks requests and counts their numbers.
pub struct Guard {
    config: GuardConfig,
    state: Mutex<State>,
}

struct State {
    next: HashMap<PublicKey, u64>,
    floor: u64,
}

/// The words of a refusal, all 401.
type Refusal = String;

impl Guard {
    /// A guard that begins at `started`.
    #[must_use]
    pub fn new(config: GuardConfig, started: UnixNanos) -> Self {
        let floor = u64::try_from(started.0 / 1000).unwrap_or(0);
        Self { config, state: Mutex::new(State { next: HashMap::new(), floor }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number that is expected of `key` next.
    #[must_use]
    pub fn next_nonce(&self, key: &PublicKey) -> u64 {
        self.state().expected(key)
    }

    /// Whose request this is. `stream_key`: whom the DMSG stream's handshake proved; `address`: of a TCP connection.
    pub fn admit(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        stream_key: Option<PublicKey>,
        address: Option<IpAddr>,
    ) -> Result<Authority, Refusal> {
        match stream_key {
            Some(key) => admit_stream(headers, key),
            None => self.admit_signed(headers, body, address),
        }
    }

    fn admit_signed(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        address: Option<IpAddr>,
    ) -> Result<Authority, Refusal> {
        let key: PublicKey = parsed(headers, PUBLIC, "SW-Public")?;
        let text = given(headers, SIGNATURE, "SW-Sig")?;
        let signature: Signature =
            text.parse().map_err(|error| format!("error parsing SW-Sig:'{text}': {error}"))?;
        let nonce = decimal(given(headers, NONCE, "SW-Nonce")?)
            .ok_or("error parsing SW-Nonce: invalid syntax")?;
        if nonce != self.next_nonce(&key) {
            return Err("SW-Nonce does not match".to_owned());
        }
        // Before the count: else whoever knows a key could use up its numbers.
        signature
            .verify(&key, &signed_bytes(body, nonce))
            .map_err(|error| format!("Recovered pubkey does not match pubkey: {error}"))?;
        if self.config.counts_only_200 {
            return Ok(Authority { key, address, peer: address, pending: Some(nonce) });
        }
        if !self.state().count(key, nonce, self.config.keys_max) {
            return Err("SW-Nonce does not match".to_owned());
        }
        Ok(Authority { key, address, peer: address, pending: None })
    }

    /// Tells how the handler answered; matters to [`GuardConfig::counts_only_200`] alone.
    pub fn answered(&self, authority: &Authority, status: StatusCode) {
        if let Some(nonce) = authority.pending.filter(|_| status == StatusCode::OK) {
            self.state().count(authority.key, nonce, self.config.keys_max);
        }
    }
}

impl State {
    fn expected(&self, key: &PublicKey) -> u64 {
        self.next.get(key).copied().unwrap_or(self.floor)
    }

    /// Counts `nonce` if it is still the expected one.
    fn count(&mut self, key: PublicKey, nonce: u64, keys_max: usize) -> bool {
        // The last number is refused: there is none behind it.
        let Some(next) = nonce.checked_add(1).filter(|_| self.expected(&key) == nonce) else {
            return false;
        };
        if self.next.len() >= keys_max.max(1)
            && !self.next.contains_key(&key)
            && let Some(forgotten) = self.next.keys().next().copied()
        {
            let number = self.next.remove(&forgotten).unwrap_or_default();
            self.floor = self.floor.max(number);
        }
        self.next.insert(key, next);
        true
    }
}

/// The stream's key stands; the headers may not say anything else.
fn admit_stream(headers: &HeaderMap, key: PublicKey) -> Result<Authority, Refusal> {
    if headers.contains_key(PUBLIC) && parsed::<PublicKey>(headers, PUBLIC, "SW-Public")? != key {
        return Err("SW-Public is not the key of the DMSG stream".to_owned());
    }
    let claimed = headers.get(PUBLIC_IP).and_then(|value| value.to_str().ok());
    let address = claimed.and_then(|text| text.trim().parse().ok());
    Ok(Authority { key, address, peer: None, pending: None })
}

fn parsed<T: FromStr>(headers: &HeaderMap, header: HeaderName, name: &str) -> Result<T, Refusal>
where
    T::Err: std::fmt::Display,
{
    let text = given(headers, header, name)?;
    text.parse().map_err(|error| format!("error parsing {name}: {error}"))
}

/// The text of a header that has to be there.
fn given<'a>(headers: &'a HeaderMap, header: HeaderName, name: &str) -> Result<&'a str, Refusal> {
    let Some(value) = headers.get(&header).filter(|value| !value.is_empty()) else {
        return Err(format!("{name} missing"));
    };
    // Given twice, a proxy may check one and we the other.
    if headers.get_all(&header).iter().count() > 1 {
        return Err(format!("{name} given twice"));
    }
    value.to_str().map_err(|_| format!("error parsing {name}: no text"))
}

/// A number of digits alone: what is signed is the number as we write it, which `+5` and `05` are not.
fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use dmsg_engine::identity::SecretKey;

    use super::*;
    use crate::services::auth::sign;

    const START: UnixNanos = UnixNanos(1_700_000_000_000_000_000);
    const FLOOR: u64 = 1_700_000_000_000_000;

    fn secret(name: &str) -> SecretKey {
        SecretKey::from_seed(name.as_bytes())
    }

    fn headers(secret: &SecretKey, body: &'static str, nonce: u64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(PUBLIC, secret.public_key().to_string().parse().unwrap());
        headers.insert(NONCE, nonce.to_string().parse().unwrap());
        let signature = sign(secret, &Bytes::from_static(body.as_bytes()), nonce);
        headers.insert(SIGNATURE, signature.to_string().parse().unwrap());
        headers
    }

    fn try_one(guard: &Guard, name: &str, nonce: u64) -> Result<PublicKey, String> {
        guard.admit(&headers(&secret(name), "x", nonce), b"x", None, None).map(|who| who.key)
    }

    fn mismatch() -> Result<PublicKey, String> {
        Err("SW-Nonce does not match".into())
    }

    #[test]
    fn a_number_passes_once_and_neither_before_nor_after_its_time() {
        let guard = Guard::new(GuardConfig::default(), START);
        assert_eq!(guard.next_nonce(&secret("a").public_key()), FLOOR);
        for (nonce, passes) in [
            (0, false),
            (FLOOR + 1, false),
            (FLOOR, true),
            (FLOOR, false),
            (FLOOR + 1, true),
            (u64::MAX, false),
        ] {
            let expected = if passes { Ok(secret("a").public_key()) } else { mismatch() };
            assert_eq!(try_one(&guard, "a", nonce), expected, "{nonce}");
        }
    }

    #[test]
    fn a_forgotten_or_restarted_key_does_not_take_old_numbers_again() {
        let guard = Guard::new(GuardConfig { keys_max: 2, ..GuardConfig::default() }, START);
        for nonce in FLOOR..FLOOR + 5 {
            try_one(&guard, "a", nonce).unwrap();
        }
        for name in ["b", "c", "d", "e"] {
            let next = guard.next_nonce(&secret(name).public_key());
            try_one(&guard, name, next).unwrap();
        }
        assert!(guard.state().next.len() <= 2);
        for nonce in FLOOR..FLOOR + 5 {
            assert_eq!(try_one(&guard, "a", nonce), mismatch());
        }
        let later = Guard::new(GuardConfig::default(), UnixNanos(START.0 + 1_000_000_000));
        assert_eq!(try_one(&later, "a", FLOOR + 5), mismatch());
    }

    #[test]
    fn the_last_number_is_not_taken() {
        let guard = Guard::new(GuardConfig::default(), START);
        guard.state().next.insert(secret("a").public_key(), u64::MAX);
        assert_eq!(try_one(&guard, "a", u64::MAX), mismatch());
    }

    #[test]
    fn each_missing_or_broken_header_has_its_words() {
        let guard = Guard::new(GuardConfig::default(), START);
        let refusal = |change: &dyn Fn(&mut HeaderMap)| {
            let mut headers = headers(&secret("a"), "x", FLOOR);
            change(&mut headers);
            guard.admit(&headers, b"x", None, None).unwrap_err()
        };
        let set = |name: HeaderName, value: &'static str| {
            move |headers: &mut HeaderMap| {
                headers.insert(name.clone(), value.parse().unwrap());
            }
        };
        for (name, header) in [("SW-Public", PUBLIC), ("SW-Sig", SIGNATURE), ("SW-Nonce", NONCE)] {
            assert_eq!(refusal(&|h| drop(h.remove(&header))), format!("{name} missing"));
            let twice = refusal(&|h| {
                h.append(&header, "1".parse().unwrap());
            });
            assert_eq!(twice, format!("{name} given twice"));
            let broken = refusal(&set(header.clone(), "-1"));
            assert!(broken.starts_with(&format!("error parsing {name}:")), "{broken}");
        }
        assert!(refusal(&set(SIGNATURE, "zz")).starts_with("error parsing SW-Sig:'zz': "));
        for nonce in ["x", "-1", "1e3", "+1700000000000000", "01700000000000000"] {
            assert_eq!(refusal(&set(NONCE, nonce)), "error parsing SW-Nonce: invalid syntax");
        }
        assert!(refusal(&set(NONCE, "99999999999999999999")).contains("error parsing SW-Nonce"));
        let zeros = "000000000000000000000000000000000000000000000000000000000000000000";
        assert!(refusal(&set(PUBLIC, zeros)).contains("error parsing SW-Public"));
        // None of that used the number up.
        assert_eq!(try_one(&guard, "a", FLOOR), Ok(secret("a").public_key()));
    }

    #[test]
    fn a_tampered_body_key_or_signature_does_not_pass_and_uses_no_number() {
        let guard = Guard::new(GuardConfig::default(), START);
        let good = headers(&secret("a"), "x", FLOOR);
        assert!(guard.admit(&good, b"y", None, None).is_err());
        let mut other = good.clone();
        other.insert(PUBLIC, secret("b").public_key().to_string().parse().unwrap());
        assert!(guard.admit(&other, b"x", None, None).is_err());
        let text = good[SIGNATURE].to_str().unwrap().to_owned();
        for at in [0, 63, 100, 129] {
            let mut text = text.clone().into_bytes();
            text[at] = if text[at] == b'0' { b'1' } else { b'0' };
            let mut bad = good.clone();
            bad.insert(SIGNATURE, String::from_utf8(text).unwrap().parse().unwrap());
            assert!(guard.admit(&bad, b"x", None, None).is_err(), "digit {at}");
        }
        assert_eq!(guard.next_nonce(&secret("a").public_key()), FLOOR);
        assert!(guard.admit(&good, b"x", None, None).is_ok());
    }

    #[test]
    fn over_dmsg_the_streams_key_stands_and_no_header_can_change_it() {
        let guard = Guard::new(GuardConfig::default(), START);
        let (a, b) = (secret("a"), secret("b"));
        let admit = |headers: &HeaderMap| guard.admit(headers, b"x", Some(a.public_key()), None);
        assert_eq!(admit(&HeaderMap::new()).unwrap().key, a.public_key());
        // Old nonces, even bad signatures are nothing to it; another key is.
        assert_eq!(admit(&headers(&a, "y", 0)).unwrap().key, a.public_key());
        let impersonation = admit(&headers(&b, "x", FLOOR)).unwrap_err();
        assert_eq!(impersonation, "SW-Public is not the key of the DMSG stream");
        assert_eq!(guard.next_nonce(&a.public_key()), FLOOR);
        assert_eq!(guard.next_nonce(&b.public_key()), FLOOR);
    }

    #[test]
    fn counting_as_go_does_waits_for_a_200() {
        let guard =
            Guard::new(GuardConfig { counts_only_200: true, ..GuardConfig::default() }, START);
        let who = guard.admit(&headers(&secret("a"), "x", FLOOR), b"x", None, None).unwrap();
        guard.answered(&who, StatusCode::CREATED);
        assert_eq!(guard.next_nonce(&who.key), FLOOR);
        guard.answered(&who, StatusCode::OK);
        assert_eq!(guard.next_nonce(&who.key), FLOOR + 1);
    }
}
