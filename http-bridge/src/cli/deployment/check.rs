//! `dmsg config check`: what is wrong with a deployment document, and with `--probe`, what of it answers.

use std::{
    fmt::Write as _,
    io::{self, Write},
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use clap::Args;

use super::{DeploymentFlags, Exit, Failure, tell};
use crate::{
    cli::flags::{DriverFlag, seconds},
    deployment::{
        Environment, Services, Severity,
        fetch::Way,
        probe::{Outcome, Subject, probe, subjects},
    },
    service::ServiceKind,
};

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The document; the same as --deployment FILE.
    #[arg(value_name = "FILE", conflicts_with = "deployment")]
    file: Option<PathBuf>,

    #[command(flatten)]
    deployment: DeploymentFlags,

    /// Try every server and every service, over DMSG and over HTTP, and print what came of it.
    #[arg(long)]
    probe: bool,

    /// Seconds that each try of --probe may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    timeout: f64,

    /// What moves the bytes of --probe.
    #[arg(long, value_enum, default_value_t)]
    driver: DriverFlag,
}

pub(super) async fn run(mut args: CheckArgs) -> Result<(), Failure> {
    args.deployment.deployment = args.file.take().or(args.deployment.deployment);
    let limit = seconds("--timeout", args.timeout)?;
    if limit.is_zero() {
        return Err(Failure::usage("--timeout 0: nothing answers at once; give more"));
    }
    let loaded = args.deployment.load_silently()?;
    for warning in loaded.warnings.iter() {
        tell(format_args!("{}:{warning}", loaded.origin));
    }
    if loaded.warnings.left_out() > 0 {
        tell(format_args!("{}: and {} more", loaded.origin, loaded.warnings.left_out()));
    }
    let chosen = args.deployment.environment();
    let mut summary = String::new();
    let mut errors = Vec::new();
    for environment in [Environment::Prod, Environment::Test] {
        let services = loaded.document.services(environment);
        let name = environment.name();
        if services.is_empty() {
            if environment == chosen {
                errors.push(format!("{}: $.{name}: it is empty", loaded.origin));
            }
            let _ = writeln!(summary, "{}: {name}: empty", loaded.origin);
            continue;
        }
        for finding in services.findings(&format!("$.{name}")) {
            let text = format!("{}: {finding}", loaded.origin);
            match finding.severity {
                Severity::Error => errors.push(text),
                Severity::Warning => tell(format_args!("{text}")),
            }
        }
        let _ = writeln!(summary, "{}: {name}: {}", loaded.origin, described(services));
    }
    if !errors.is_empty() {
        return Err(Failure::usage(errors.join("\n")));
    }
    print(&summary)?;
    if !args.probe {
        return Ok(());
    }
    let services = loaded.document.services(chosen);
    let (count, total) = (AtomicUsize::new(0), subjects(services).len());
    let outcomes = probe(services, limit, args.driver.into(), |subject, outcome| {
        let result = if outcome.is_ok() { "ok" } else { "no" };
        tell(format_args!("{}/{total} {subject}: {result}", 1 + count.fetch_add(1, Relaxed)));
    })
    .await;
    print(&table(&outcomes))?;
    let failed = outcomes.iter().filter(|(_, outcome)| outcome.is_err()).count();
    if failed > 0 {
        let what = format!("{failed} of {total} did not answer; see the table");
        return Err(Failure::new(Exit::Connect, what));
    }
    Ok(())
}

fn described(services: &Services) -> String {
    let endpoints: Vec<_> = ServiceKind::ALL.map(|kind| services.endpoints(kind)).into();
    let over_dmsg = endpoints.iter().filter(|e| e.dmsg.is_some()).count();
    let over_http = endpoints.iter().filter(|e| e.http.is_some()).count();
    let servers = services.server_records().len();
    let how = if services.is_usable_over_dmsg() { "usable without HTTP" } else { "needs HTTP" };
    format!("{over_dmsg} services over DMSG, {over_http} over HTTP, {servers} servers: {how}")
}

fn table(outcomes: &[(Subject, Outcome)]) -> String {
    let mut text = format!("{:<20} {:<5} {:<9} {}\n", "WHAT", "PATH", "RESULT", "ADDRESS");
    for (subject, outcome) in outcomes {
        let (what, path, address) = match subject {
            Subject::Server(server) => {
                ("server".to_owned(), "tcp", format!("{}@{}", server.key, server.address))
            }
            Subject::Service(kind, Way::Dmsg, url) => (kind.to_string(), "dmsg", url.to_string()),
            Subject::Service(kind, Way::Http, url) => (kind.to_string(), "http", url.to_string()),
        };
        let (result, why) = match outcome {
            Ok(time) => (format!("{} ms", time.as_millis()), String::new()),
            Err(why) => ("failed".to_owned(), format!("  {}", why.replace('\n', " "))),
        };
        let _ = writeln!(text, "{what:<20} {path:<5} {result:<9} {address}{why}");
    }
    text
}

fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()).map_err(|error| Failure::stdout(&error)) {
        Err(failure) if failure.exit != Exit::Ok => Err(failure),
        _ => Ok(()),
    }
}
