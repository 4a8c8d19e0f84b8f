//! `dmsg proxy`: a local HTTP and SOCKS5 proxy into the overlay.

use std::{io::Write, net::SocketAddr, time::Duration};

use clap::Args;
use tokio::net::TcpListener;

use super::{
    exit::{Exit, Failure},
    flags::{ClientFlags, Visibility, seconds},
    stop_signal,
};
use crate::{
    forward::{ForwardConfig, clearnet::Clearnet, forward},
    http::{HttpClient, HttpConfig},
};

/// A limit of 0 is none; this is as good as none.
const NO_LIMIT: Duration = Duration::from_secs(86_400 * 365);

#[derive(Debug, Args)]
pub(super) struct ProxyArgs {
    #[command(flatten)]
    client: ClientFlags,

    /// Where programs reach the proxy, for HTTP and for SOCKS5. Whoever reaches it calls with your key.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4445")]
    listen: SocketAddr,

    /// Reach hosts outside of DMSG as well, over plain TCP: those with public addresses.
    #[arg(long)]
    allow_clearnet: bool,

    /// With --allow-clearnet, reach this machine and private networks as well.
    #[arg(long, requires = "allow_clearnet")]
    allow_private: bool,

    /// Tunnels at once; twice as many connections with requests, and as many again that say nothing yet.
    #[arg(
        long, value_name = "COUNT", default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    connections: u32,

    /// Seconds that a service may take to begin its answer, then programs get 504; 0 means no limit.
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0)]
    answer_timeout: f64,

    /// Seconds that an answer may stand still, an event stream without events, say; 0 means no limit.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600.0)]
    idle_timeout: f64,
}

impl ProxyArgs {
    /// Programs have limits of their own and hang up, so ours are longer than a long poll, and than the pauses of an event
    /// stream.
    fn http_config(&self) -> Result<HttpConfig, Failure> {
        let limit = |flag, value| -> Result<Duration, Failure> {
            let limit = seconds(flag, value)?;
            Ok(if limit.is_zero() { NO_LIMIT } else { limit })
        };
        Ok(HttpConfig {
            head_timeout: limit("--answer-timeout", self.answer_timeout)?,
            body_timeout: limit("--idle-timeout", self.idle_timeout)?,
            ..HttpConfig::default()
        })
    }
}

pub(super) async fn run(args: ProxyArgs) -> Result<(), Failure> {
    let http_config = args.http_config()?;
    let key = args.client.identity.given_or_fresh()?;
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        Failure::new(
            Exit::Other,
            format!("cannot listen on {}: {error}; choose another with --listen", args.listen),
        )
    })?;
    let address =
        listener.local_addr().map_err(|error| Failure::new(Exit::Other, error.to_string()))?;
    if !address.ip().to_canonical().is_loopback() {
        tracing::warn!(%address, "whoever reaches this address calls with your key");
    }
    let stop = stop_signal();
    let (engine, _) = args.client.start(key, Visibility::Hidden)?;
    let clearnet = match (args.allow_clearnet, args.allow_private) {
        (false, _) => Clearnet::Refused,
        (true, false) => Clearnet::Public,
        (true, true) => Clearnet::Any,
    };
    // Requests wait for the first session, programs do not.
    writeln!(std::io::stdout(), "http://{address}\nsocks5h://{address}")
        .map_err(|error| Failure::stdout(&error))?;
    let connections_max = usize::try_from(args.connections).unwrap_or(usize::MAX);
    let config = ForwardConfig { connections_max, clearnet };
    let client = HttpClient::with_config(engine.clone(), http_config);
    forward(listener, client, config, stop).await;
    engine.close().await;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: ProxyArgs,
    }

    fn config(args: &[&str]) -> HttpConfig {
        let args = [&["proxy"], args].concat();
        Program::try_parse_from(args).unwrap().args.http_config().unwrap()
    }

    #[test]
    fn long_polls_and_event_streams_fit_and_zero_is_no_limit() {
        let usual = config(&[]);
        assert!(usual.head_timeout >= Duration::from_secs(120), "{usual:?}");
        assert!(usual.body_timeout >= Duration::from_secs(600), "{usual:?}");
        let own = config(&["--answer-timeout", "2.5", "--idle-timeout", "7"]);
        assert_eq!(own.head_timeout, Duration::from_millis(2500));
        assert_eq!(own.body_timeout, Duration::from_secs(7));
        let none = config(&["--answer-timeout", "0", "--idle-timeout", "0"]);
        assert_eq!((none.head_timeout, none.body_timeout), (NO_LIMIT, NO_LIMIT));
    }
}
