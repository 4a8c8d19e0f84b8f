//! `dmsg serve`: a folder or a local HTTP service, offered over DMSG.

use std::{collections::HashSet, convert::Infallible, io::Write, path::PathBuf, sync::Arc};

use axum::body::Body;
use clap::Args;
use dmsg_engine::{
    identity::PublicKey,
    wire::{Addr, Port},
};
use http::{Request, Response};
use tower::service_fn;

use super::{
    exit::{Exit, Failure},
    flags::{ClientFlags, Visibility, seconds},
    stop_signal,
};
use crate::{
    files::{FileOptions, FileService},
    http::server::{ServeConfig, ServeStats, serve, serve_listed},
    proxy::{ANSWER_TIMEOUT, Proxy, Target},
    url::DmsgUrl,
};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    client: ClientFlags,

    /// The folder to serve.
    #[arg(long, value_name = "FOLDER", conflicts_with = "to")]
    dir: Option<PathBuf>,

    /// The HTTP service to offer, http://127.0.0.1:PORT.
    #[arg(long, value_name = "URL")]
    to: Option<String>,

    /// Seconds that the service of --to may take to begin an answer; then callers get 504.
    #[arg(long, value_name = "SECONDS", default_value_t = ANSWER_TIMEOUT.as_secs_f64())]
    answer_timeout: f64,

    /// Bytes of a request's body that are taken; more is a 413.
    #[arg(long, value_name = "BYTES", default_value_t = ServeConfig::default().body_max_bytes)]
    max_body: u64,

    /// Seconds that requests under way get to finish when this program is told to stop.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    drain: f64,

    /// DMSG port to listen on.
    #[arg(long, value_name = "PORT", default_value_t = crate::url::DEFAULT_PORT)]
    port: Port,

    /// A key that may call; may be repeated. Everyone may if none is given.
    #[arg(long, value_name = "KEY")]
    allow: Vec<PublicKey>,

    /// Whether folders without index.html show what is in them.
    #[arg(long, value_name = "YES", default_value_t = true, action = clap::ArgAction::Set)]
    listing: bool,

    /// Let --to name another machine than this one.
    #[arg(long)]
    allow_remote_target: bool,
}

/// What is offered.
#[derive(Clone)]
enum Offer {
    Folder(FileService),
    Service(Proxy),
}

pub(super) async fn run(args: ServeArgs) -> Result<(), Failure> {
    let offer = offer(&args)?;
    let drain = seconds("--drain", args.drain)?;
    let key = args.client.identity.given_or_fresh()?;
    let stop = stop_signal();
    let (engine, mut published) = args.client.start(key, Visibility::Published)?;
    let listener =
        engine.listen(args.port).map_err(|error| Failure::new(Exit::Other, error.to_string()))?;
    let service = service_fn(move |request| {
        let offer = offer.clone();
        async move { Ok::<_, Infallible>(answer(&offer, request).await) }
    });
    let ready = async {
        engine.ready().await?;
        let _ = published.wait_for(|published| *published).await;
        let url = DmsgUrl::new(Addr { key: engine.public_key(), port: args.port }, "/")?;
        writeln!(std::io::stdout(), "{url}").map_err(|error| Failure::stdout(&error))?;
        std::future::pending().await
    };
    let config = ServeConfig {
        body_max_bytes: args.max_body,
        shutdown_grace: drain,
        ..ServeConfig::default()
    };
    let stats = Arc::new(ServeStats::default());
    let allowed: HashSet<PublicKey> = args.allow.into_iter().collect();
    let served = async {
        if allowed.is_empty() {
            serve(listener, service, config, stats, stop).await;
        } else {
            // The key is the one that the stream's handshake authenticated.
            let is_listed = |peer: &Addr| allowed.contains(&peer.key);
            serve_listed(listener, is_listed, service, config, stats, stop).await;
        }
    };
    let result = tokio::select! {
        () = served => Ok(()),
        result = ready => result,
    };
    engine.close().await;
    result
}

fn offer(args: &ServeArgs) -> Result<Offer, Failure> {
    match (&args.dir, &args.to) {
        (Some(folder), _) => {
            let options = FileOptions { listing: args.listing };
            FileService::open(folder, options)
                .map(Offer::Folder)
                .map_err(|error| Failure::new(Exit::Read, format!("{}: {error}", folder.display())))
        }
        (None, Some(target)) => {
            let answer_timeout = seconds("--answer-timeout", args.answer_timeout)?;
            if answer_timeout.is_zero() {
                return Err(Failure::usage("--answer-timeout 0: nothing answers in no time"));
            }
            Target::parse(target, args.allow_remote_target)
                .map(|to| Offer::Service(Proxy::new(to).with_answer_timeout(answer_timeout)))
                .map_err(|error| Failure::usage(error.to_string()))
        }
        (None, None) => Err(Failure::usage("nothing to serve: give --dir FOLDER or --to URL")),
    }
}

async fn answer(offer: &Offer, request: Request<Body>) -> Response<Body> {
    match offer {
        Offer::Folder(files) => files.respond(request).await,
        Offer::Service(proxy) => proxy.respond(request).await,
    }
}
