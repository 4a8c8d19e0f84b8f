//! `dmsg proxy`: a local HTTP and SOCKS5 proxy into the overlay.

use std::{io::Write, net::SocketAddr};

use clap::Args;
use tokio::net::TcpListener;

use super::{
    exit::{Exit, Failure},
    flags::{ClientFlags, Visibility},
    stop_signal,
};
use crate::{
    forward::{ForwardConfig, clearnet::Clearnet, forward},
    http::HttpClient,
};

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

    /// Connections of programs at once.
    #[arg(long, value_name = "COUNT", default_value_t = ForwardConfig::default().connections_max)]
    connections: usize,
}

pub(super) async fn run(args: ProxyArgs) -> Result<(), Failure> {
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
    let (engine, _) = args.client.start(key, Visibility::Hidden)?;
    let clearnet = match (args.allow_clearnet, args.allow_private) {
        (false, _) => Clearnet::Refused,
        (true, false) => Clearnet::Public,
        (true, true) => Clearnet::Any,
    };
    // Requests wait for the first session, programs do not.
    writeln!(std::io::stdout(), "http://{address}\nsocks5h://{address}")
        .map_err(|error| Failure::stdout(&error))?;
    let config = ForwardConfig { connections_max: args.connections.max(1), clearnet };
    let client = HttpClient::new(engine.clone());
    forward(listener, client, config, stop_signal()).await;
    engine.close().await;
    Ok(())
}
