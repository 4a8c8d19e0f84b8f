//! Error codes of the protocol (`wire.md §4.9`). They travel in the `ErrCode` field of a response.

use std::fmt;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $meaning:literal;)*) => {
        /// A code of `wire.md §4.9`; the numbers are the same in all versions.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum ErrorCode {
            $(#[doc = concat!(stringify!($code), ": ", $meaning, ".")] $(#[$doc])* $name = $code,)*
        }

        impl ErrorCode {
            /// Every known code, in ascending order.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// What the code means.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// The code with this number, if it is known.
            #[must_use]
            pub fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

error_codes! {
    NoEntry = 100, "the discovery has no entry for this key";
    NotServer = 101, "the discovery entry is not a server's";
    NotClient = 102, "the discovery entry is not a client's";
    NoDelegatedServers = 103, "the client's discovery entry names no servers";
    EntityClosed = 200, "this entity is closed";
    SessionClosed = 201, "this session is closed";
    NoSession = 202, "no session to any of the destination's servers could be had";
    BytesBehindHandshake = 203, "there were bytes behind the session handshake";
    RequestSignature = 300, "the request's signature does not verify";
    RequestTimestamp = 301, "the request's timestamp is not above 0";
    RequestSourceKey = 302, "the request's source key is null, or not the session's";
    RequestDestinationKey = 303, "the request's destination key is null, or not this client's";
    RequestSourcePort = 304, "the request's source port is 0";
    RequestDestinationPort = 305, "the request's destination port is 0";
    NoListener = 306, "nobody listens on the destination port";
    NoNextSession = 307, "the server has no session to pass the request to";
    /// New in G26; older peers read it as [`ErrorCode::Refused`].
    NoRelayCapacity = 308, "the server's relay capacity is used up";
    ResponseSignature = 350, "the response's signature does not verify";
    ResponseHash = 351, "the response belongs to another request";
    Refused = 352, "the request was refused without a known reason";
    ObjectTooShort = 370, "the signed object is too short";
    PortTaken = 400, "the local port is taken";
    AcceptQueueFull = 401, "the listener's accept queue is full";
}

impl ErrorCode {
    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> u16 {
        self as u16
    }

    /// Whether the same request may succeed later, without anything being reconfigured.
    #[must_use]
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::NoListener | Self::NoRelayCapacity | Self::AcceptQueueFull)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (dmsg error {})", self.meaning(), self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_one_code_or_none() {
        let known: Vec<_> = (0..=u16::MAX).filter_map(ErrorCode::from_code).collect();
        assert_eq!(known, ErrorCode::ALL);
        assert_eq!(known.len(), 23);
        assert!(known.iter().all(|&code| ErrorCode::from_code(code.code()) == Some(code)));
    }

    #[test]
    fn temporary_codes_are_those_of_the_table() {
        let temporary: Vec<_> =
            ErrorCode::ALL.iter().filter(|c| c.is_temporary()).map(|c| c.code()).collect();
        assert_eq!(temporary, [306, 308, 401]);
    }

    #[test]
    fn text_tells_meaning_and_number() {
        assert_eq!(
            ErrorCode::NoListener.to_string(),
            "nobody listens on the destination port (dmsg error 306)"
        );
    }
}
