//! Our public address, as two relay servers see it (`wire.md §5.1`).
//!
//! A web page that tells it would be one more party to trust, and plain HTTP. Our servers see it anyway; but one of them
//! may lie, or sit in our own network. So two must agree.

use std::{future::Future, net::IpAddr};

use dmsg_engine::{
    client::{Client, DialError},
    identity::PublicKey,
};
use futures_util::{StreamExt, stream::FuturesUnordered};

/// Servers that are asked at most; two honest ones among them are enough.
const SERVERS_ASKED_MAX: usize = 8;

/// Why our address is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IpError {
    /// Fewer than two sessions, and a single server is not believed.
    #[error(
        "{0} relay servers can be asked for our address, two must agree: hold sessions with two \
         (--sessions 2), or give the address yourself"
    )]
    TooFewServers(usize),
    /// No two answers are equal.
    #[error(
        "no two of our relay servers agree on our address (they say {answers:?}; {failed} did not answer)"
    )]
    NoAgreement {
        /// What was said.
        answers: Vec<IpAddr>,
        /// Servers that did not answer, as those of 2023 do not.
        failed: usize,
    },
}

/// Our address, once two of the servers that we hold sessions with agree on it. It may be a private one, if they
/// are in our network.
pub async fn agreed_ip(client: &Client) -> Result<IpAddr, IpError> {
    let servers: Vec<PublicKey> = client.sessions().iter().map(|session| session.server).collect();
    agreed_ip_of(&servers, |server| client.lookup_ip(Some(server))).await
}

/// The first address that two of `servers` agree on; `ask` asks one of them. The rest is not waited for.
pub async fn agreed_ip_of<F>(
    servers: &[PublicKey],
    ask: impl Fn(PublicKey) -> F,
) -> Result<IpAddr, IpError>
where
    F: Future<Output = Result<IpAddr, DialError>>,
{
    let mut servers = servers.to_vec();
    servers.sort_unstable();
    servers.dedup();
    if servers.len() < 2 {
        return Err(IpError::TooFewServers(servers.len()));
    }
    servers.truncate(SERVERS_ASKED_MAX);
    let mut asked: FuturesUnordered<F> = servers.iter().map(|server| ask(*server)).collect();
    let (mut answers, mut failed) = (Vec::new(), 0);
    while let Some(answer) = asked.next().await {
        match answer.map(|address| address.to_canonical()) {
            Ok(address) if answers.contains(&address) => return Ok(address),
            Ok(address) => answers.push(address),
            Err(_) => failed += 1,
        }
    }
    Err(IpError::NoAgreement { answers, failed })
}

/// Whether an address can be reached from anywhere: neither private, nor local to a link or a machine, nor reserved.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let is_shared = a == 100 && (64..128).contains(&b);
            let is_assigned = (a, b, c) == (192, 0, 0);
            let is_benchmark = a == 198 && (b == 18 || b == 19);
            let is_odd =
                v4.is_unspecified() || v4.is_loopback() || v4.is_broadcast() || v4.is_multicast();
            !(v4.is_private()
                || v4.is_link_local()
                || is_shared
                || is_assigned
                || is_benchmark
                || is_odd)
                && a != 0
                && a < 240
        }
        IpAddr::V6(v6) => {
            // What is given out is 2000::/3.
            v6.segments()[0] & 0xe000 == 0x2000
        }
    }
}

#[cfg(test)]
mod tests {
    use dmsg_engine::identity::SecretKey;

    use super::*;

    fn servers(count: u8) -> Vec<PublicKey> {
        (0..count).map(|n| SecretKey::from_seed(&[n]).public_key()).collect()
    }

    async fn agreed(answers: &[Option<[u8; 4]>]) -> Result<IpAddr, IpError> {
        let keys = servers(u8::try_from(answers.len()).unwrap_or_default());
        let ask = |server: PublicKey| {
            let index = keys.iter().position(|key| *key == server).unwrap_or_default();
            std::future::ready(answers[index].map(IpAddr::from).ok_or(DialError::Closed))
        };
        agreed_ip_of(&keys, ask).await
    }

    #[tokio::test]
    async fn two_equal_answers_decide_and_one_liar_does_not() {
        let (truth, lie) = ([203, 0, 113, 7], [198, 51, 100, 1]);
        assert_eq!(agreed(&[Some(truth), Some(truth)]).await, Ok(truth.into()));
        assert_eq!(agreed(&[Some(lie), Some(truth), None, Some(truth)]).await, Ok(truth.into()));
        assert_eq!(agreed(&[Some(truth)]).await, Err(IpError::TooFewServers(1)));
        let failed = agreed(&[Some(truth), Some(lie), None]).await;
        assert!(
            matches!(failed, Err(IpError::NoAgreement { answers, failed: 1 }) if answers.len() == 2)
        );
    }

    #[test]
    fn public_addresses_are_told_from_others() {
        for text in ["203.0.113.7", "8.8.8.8", "100.63.0.1", "2001:db8::1", "::ffff:8.8.8.8"] {
            assert!(text.parse().is_ok_and(is_public), "{text}");
        }
        for text in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "127.0.0.1",
            "169.254.1.1",
            "100.64.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::1",
            "fe80::1",
            "fd00::1",
            "::",
            "ff02::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(text.parse().is_ok_and(|address| !is_public(address)), "{text}");
        }
    }

    #[tokio::test]
    async fn one_server_named_twice_is_one_witness() {
        let key = servers(1)[0];
        let ask = |_| std::future::ready(Ok(IpAddr::from([203, 0, 113, 7])));
        assert_eq!(agreed_ip_of(&[key, key], ask).await, Err(IpError::TooFewServers(1)));
    }

    #[tokio::test]
    async fn a_server_that_never_answers_holds_nobody_up() {
        let keys = servers(3);
        let ask = |server: PublicKey| {
            let silent = server == *keys.iter().min().unwrap_or(&server);
            async move {
                if silent {
                    std::future::pending::<()>().await;
                }
                Ok(IpAddr::from([203, 0, 113, 7]))
            }
        };
        assert_eq!(agreed_ip_of(&keys, ask).await, Ok(IpAddr::from([203, 0, 113, 7])));
    }
}
