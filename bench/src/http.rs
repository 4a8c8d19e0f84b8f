//! `dmsg-bench http`: requests per second for 1 KiB bodies, over DMSG and over loopback TCP.
//!
//! ```text
//!   HttpClient ── stream ── relay ── stream ── serve      keep-alive; one stream per request, by ticket and by handshake
//!   hyper      ────────── loopback TCP ─────── serve      the ceiling: the same server, no relay, no encryption
//! ```
//!
//! All parties run in this process and share the machine's CPUs, so the relay's work and both ends' encryption count
//! against DMSG. Contenders take turns, round by round.

use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use dmsg_bench::{
    Error, Result, cpu,
    gate::Gate,
    progress,
    report::{OutputArgs, Report, Section, Target},
};
use dmsg_engine::{
    client::{Client, ClientConfig, ServerRecord, StaticDirectory},
    identity::SecretKey,
    server::{Server, ServerConfig},
    wire::Addr,
};
use dmsg_http::{
    http::{
        Dial, HttpClient, HttpConfig, Request,
        server::{ServeConfig, serve},
    },
    url::{DEFAULT_PORT, DmsgUrl},
};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of each answer's body.
const BODY_BYTES: usize = 1024;

/// Requests per second of the Go implementation, one stream each (`dmsg-http.md`, measured on another machine of this kind).
const GO_PER_SECOND: f64 = 160.0;

/// What is measured, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Rounds, in each of which every contender has a turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Requests per second of a Go client, relay and service on this machine, to be compared with.
    #[arg(long, default_value_t = GO_PER_SECOND, value_name = "RATE")]
    go: f64,
    #[command(flatten)]
    output: OutputArgs,
}

/// Dials a TCP address, whatever it is asked for: the same client code on another kind of stream.
#[derive(Clone, Copy)]
struct Tcp(std::net::SocketAddr);

impl Dial for Tcp {
    type Stream = TcpStream;

    async fn dial(&self, _to: Addr) -> std::result::Result<TcpStream, Error> {
        let stream = TcpStream::connect(self.0).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut report = Report::new("http", "HTTP over DMSG beside HTTP over loopback TCP");
    let world = runtime.block_on(World::start())?;
    let gate = Gate::new(cpu::choose(), 3);
    let time = Duration::from_secs_f64(args.seconds);
    let mut section = Section::new("requests", "Requests for 1 KiB bodies", "requests/s", true);
    section.method = "client, relay and server in one process; a request has its answer's last byte before the next".into();
    for round in 0..args.rounds {
        for concurrency in [1, 64] {
            let column = format!("{concurrency} at once");
            let kept = gate
                .measure(|| runtime.block_on(load(&world.dmsg(), &world.url, concurrency, time)))?;
            section.figure("DMSG, keep-alive", &column).push(kept);
            for (row, caller) in [
                ("DMSG, one stream per request", &world.caller),
                ("… each by a handshake of its own", &world.plain_caller),
            ] {
                let client = HttpClient::with_config(caller.clone(), config(0));
                let fresh = gate
                    .measure(|| runtime.block_on(load(&client, &world.url, concurrency, time)))?;
                section.figure(row, &column).push(fresh);
            }
            let tcp = gate
                .measure(|| runtime.block_on(load(&world.tcp(), &world.url, concurrency, time)))?;
            section.figure("loopback TCP, our client", &column).push(tcp);
            let plain =
                gate.measure(|| runtime.block_on(plain(world.address, concurrency, time)))?;
            section.figure("loopback TCP, hyper's client", &column).push(plain);
        }
        progress(&format!("round {} of {}", round + 1, args.rounds));
    }
    let at = |row: &str| section.find(row, "64 at once").map(dmsg_bench::report::Figure::median);
    let ratio = section.ratio("DMSG, keep-alive", "loopback TCP, hyper's client", "64 at once");
    report.targets.push(Target::at_least(
        "keep-alive, 64 at once, beside plain hyper",
        0.35,
        "x",
        ratio,
    ));
    let go = |row: &str| at(row).map(|value| value / args.go);
    report.targets.push(Target::at_least(
        &format!("keep-alive, 64 at once, beside Go's {}/s", args.go),
        100.0,
        "x",
        go("DMSG, keep-alive"),
    ));
    let fresh = go("DMSG, one stream per request");
    report.targets.push(Target::at_least(
        &format!("one stream per request beside Go's {}/s", args.go),
        15.0,
        "x",
        fresh,
    ));
    report.sections.push(section);
    args.output.finish(&report)
}

/// A relay, a service on both kinds of stream, and a client.
struct World {
    _relay: Server,
    _service: Client,
    caller: Client,
    /// Dials without tickets, as it would a service of another kind.
    plain_caller: Client,
    address: std::net::SocketAddr,
    url: DmsgUrl,
}

impl World {
    async fn start() -> Result<Self> {
        let key = |name: &str| SecretKey::from_seed(format!("dmsg-bench http {name}").as_bytes());
        let relay =
            Server::start(ServerConfig::new(key("relay"), (Ipv4Addr::LOCALHOST, 0).into()))?;
        let servers = vec![ServerRecord {
            key: relay.public_key(),
            address: relay.local_addr().to_string(),
            available_sessions: 1,
        }];
        let start = |name: &str, resume_dials: bool| {
            let directory = StaticDirectory { servers: servers.clone() };
            let mut config = ClientConfig::new(key(name));
            config.resume_dials = resume_dials;
            Client::start(config, Arc::new(directory))
        };
        let (service, caller) = (start("service", true)?, start("caller", true)?);
        let plain_caller = start("plain caller", false)?;
        tokio::try_join!(service.ready(), caller.ready(), plain_caller.ready())?;
        let mut config = ServeConfig::default();
        config.connections_per_key_max = config.connections_max;
        let answer = || {
            tower::service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(http::Response::new(axum::body::Body::from(
                    &[b'x'; BODY_BYTES][..],
                )))
            })
        };
        let listener = service.listen(DEFAULT_PORT)?;
        tokio::spawn(serve(
            listener,
            answer(),
            config.clone(),
            Arc::default(),
            std::future::pending(),
        ));
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = tcp.local_addr()?;
        tokio::spawn(serve(tcp, answer(), config, Arc::default(), std::future::pending()));
        let url = DmsgUrl::new(Addr { key: service.public_key(), port: DEFAULT_PORT }, "/")?;
        Ok(Self { _relay: relay, _service: service, caller, plain_caller, address, url })
    }

    fn dmsg(&self) -> HttpClient<Client> {
        HttpClient::with_config(self.caller.clone(), config(64))
    }

    fn tcp(&self) -> HttpClient<Tcp> {
        HttpClient::with_config(Tcp(self.address), config(64))
    }
}

fn config(idle_per_destination_max: usize) -> HttpConfig {
    let mut config = HttpConfig::default();
    config.idle_per_destination_max = idle_per_destination_max;
    config
}

/// Requests per second with so many tasks, each of which has one request under way.
async fn load<D: Dial>(
    client: &HttpClient<D>,
    url: &DmsgUrl,
    tasks: usize,
    time: Duration,
) -> Result<f64> {
    let begun = Instant::now();
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            let (client, url) = (client.clone(), url.clone());
            tokio::spawn(async move {
                let mut done = 0u32;
                while begun.elapsed() < time {
                    let reply = client.send(Request::get(url.clone())).await?;
                    let body = reply.into_body().read_to_end(BODY_BYTES as u64).await?;
                    if body.len() != BODY_BYTES {
                        return Err(Error::from("an answer of the wrong length"));
                    }
                    done += 1;
                }
                Ok(done)
            })
        })
        .collect();
    total(tasks, begun).await
}

/// The same with hyper's own client and pool.
async fn plain(to: std::net::SocketAddr, tasks: usize, time: Duration) -> Result<f64> {
    use http_body_util::{BodyExt, Empty};
    use hyper_util::{
        client::legacy::{Client, connect::HttpConnector},
        rt::TokioExecutor,
    };

    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Empty<bytes::Bytes>> =
        Client::builder(TokioExecutor::new()).build(connector);
    let uri: http::Uri = format!("http://{to}/").parse()?;
    let begun = Instant::now();
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            let (client, uri) = (client.clone(), uri.clone());
            tokio::spawn(async move {
                let mut done = 0u32;
                while begun.elapsed() < time {
                    let reply = client.get(uri.clone()).await?;
                    let body = reply.into_body().collect().await?.to_bytes();
                    if body.len() != BODY_BYTES {
                        return Err(Error::from("an answer of the wrong length"));
                    }
                    done += 1;
                }
                Ok(done)
            })
        })
        .collect();
    total(tasks, begun).await
}

async fn total(tasks: Vec<tokio::task::JoinHandle<Result<u32>>>, begun: Instant) -> Result<f64> {
    let mut done = 0;
    for task in tasks {
        done += task.await??;
    }
    Ok(f64::from(done) / begun.elapsed().as_secs_f64())
}
