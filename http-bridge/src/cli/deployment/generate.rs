//! `dmsg config gen`: a visor's configuration, from a deployment that is asked for (`deployment-config.md §6`).
//!
//! ```text
//!   --nofetch ───────────────────────────────┐
//!   DMSG ─ fails ─▶ HTTP ─ fails ─▶ --services FILE, else the deployment at hand
//! ```
//!
//! The file holds a secret key: only its owner can read it, and it is replaced as a whole or not at all.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;

use super::{DeploymentFlags, Exit, Failure, log_warnings, tell};
use crate::{
    cli::flags::{DriverFlag, IdentityFlags, seconds},
    deployment::{
        DOCUMENT_BYTES_MAX, Services,
        fetch::{FetchError, FetchOptions, Fetched, STEP_TIMEOUT, Way, over_dmsg, over_http},
        file::{self, Access},
        load,
        refresh::{Change, LastGood},
        visor::{Output, Updated, VisorConfig},
    },
};

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    #[command(flatten)]
    identity: IdentityFlags,

    #[command(flatten)]
    deployment: DeploymentFlags,

    /// Where the configuration goes; - is stdout.
    #[arg(long, short = 'o', value_name = "FILE", default_value = "skywire-config.json")]
    out: PathBuf,

    /// Update the file: its keys, what you changed and what is not the deployment's stay.
    #[arg(long, short = 'r')]
    regen: bool,

    /// Replace the file with one that has new keys; the old one is kept as FILE.bak.
    #[arg(long, short = 'f', conflicts_with = "regen")]
    force: bool,

    /// Ask nobody; take the deployment at hand, or --services.
    #[arg(long)]
    nofetch: bool,

    /// Write DMSG addresses only, and ask for the deployment over DMSG only.
    #[arg(long)]
    dmsg_only: bool,

    /// Write HTTP addresses only.
    #[arg(long, conflicts_with = "dmsg_only")]
    http: bool,

    /// Deployment document to take when nobody answers.
    #[arg(long, value_name = "FILE")]
    services: Option<PathBuf>,

    /// Seconds that asking over DMSG may take, and asking over HTTP again.
    #[arg(long, value_name = "SECONDS", default_value_t = STEP_TIMEOUT.as_secs_f64())]
    timeout: f64,

    /// What moves the bytes of DMSG.
    #[arg(long, value_enum, default_value_t)]
    driver: DriverFlag,
}

impl GenerateArgs {
    pub(super) fn is_for_stdout(&self) -> bool {
        self.out.as_os_str() == "-"
    }

    fn output(&self) -> Output {
        match (self.dmsg_only, self.http) {
            (true, _) => Output::DmsgOnly,
            (_, true) => Output::HttpOnly,
            _ => Output::Dual,
        }
    }
}

pub(super) async fn run(args: GenerateArgs) -> Result<(), Failure> {
    // Everything that can be wrong on our side is found before anybody is asked.
    let timeout = seconds("--timeout", args.timeout)?;
    let options = FetchOptions { timeout, driver: args.driver.into() };
    if args.is_for_stdout() && (args.regen || args.force) {
        return Err(Failure::usage("--regen and --force are for files; stdout has no old content"));
    }
    let at_hand = args.deployment.services()?;
    let fallback = args.services.as_deref().map(|path| given(path, &args)).transpose()?;
    let old = if args.is_for_stdout() { None } else { old_config(&args)? };
    let key = match &old {
        Some(old) => old.secret_key().clone(),
        None => args.identity.given_or_fresh()?,
    };
    let services = obtain(&args, &at_hand, fallback, options).await;
    let findings = VisorConfig::findings(&services, args.output());
    if !findings.is_empty() {
        let text: Vec<String> = findings.iter().map(ToString::to_string).collect();
        return Err(Failure::usage(format!(
            "the deployment does not suffice:\n{}",
            text.join("\n")
        )));
    }
    let (config, record) = match old {
        None => (
            VisorConfig::new(&key, &services, args.output()),
            VisorConfig::record(&services, args.output()),
        ),
        Some(old) => updated(old, &args, &at_hand, &services),
    };
    let text = config.to_pretty();
    if args.is_for_stdout() {
        return match io::stdout().write_all(text.as_bytes()) {
            Ok(()) => Ok(()),
            Err(error) => Err(Failure::stdout(&error)),
        };
    }
    let path = &args.out;
    if args.force && path.exists() {
        keep_old(path)?;
    }
    // Asking took a while; a file that was made meanwhile is somebody's too.
    let write = if args.regen || args.force { file::replace } else { file::create };
    write(path, text.as_bytes(), Access::Private).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::usage(format!(
            "{} was made by somebody else meanwhile, and is left alone",
            path.display()
        )),
        _ => unwritten(path, &error),
    })?;
    remember(path, &config, &record);
    tell(format_args!("{} is written; its public key is {}", path.display(), key.public_key()));
    Ok(())
}

/// Asks, and says on stderr who answered and why the others did not.
async fn obtain(
    args: &GenerateArgs,
    at_hand: &Services,
    fallback: Option<Services>,
    options: FetchOptions,
) -> Services {
    if args.nofetch {
        tell(format_args!("nobody is asked (--nofetch)"));
    } else {
        match over_dmsg(at_hand, options).await {
            Ok(fetched) if suffices(Way::Dmsg, &fetched, args) => return taken(Way::Dmsg, fetched),
            Ok(_) => {}
            Err(error) => unanswered(Way::Dmsg, &error),
        }
        if args.dmsg_only {
            tell(format_args!("HTTP: not tried (--dmsg-only)"));
        } else {
            match over_http(at_hand, options).await {
                Ok(fetched) if suffices(Way::Http, &fetched, args) => {
                    return taken(Way::Http, fetched);
                }
                Ok(_) => {}
                Err(error) => unanswered(Way::Http, &error),
            }
        }
    }
    match (fallback, &args.services) {
        (Some(services), Some(path)) => {
            tell(format_args!("the deployment comes from {}", path.display()));
            services
        }
        _ => {
            let place = match (&args.deployment.deployment, std::env::var_os("SKYDEPLOY")) {
                (Some(path), _) => path.display().to_string(),
                (None, Some(path)) if !path.is_empty() => {
                    format!("{} (SKYDEPLOY)", Path::new(&path).display())
                }
                _ => "this program (embedded)".to_owned(),
            };
            tell(format_args!("the deployment comes from {place}"));
            at_hand.clone()
        }
    }
}

/// Whether a configuration of this kind can be made of an answer; says why not. Another source may have more.
fn suffices(way: Way, fetched: &Fetched, args: &GenerateArgs) -> bool {
    let findings = VisorConfig::findings(&fetched.services, args.output());
    if let Some(first) = findings.first() {
        tell(format_args!("{way}: the deployment of {} does not suffice: {first}", fetched.from));
    }
    findings.is_empty()
}

fn taken(way: Way, fetched: Fetched) -> Services {
    log_warnings(&fetched.from, &fetched.warnings);
    tell(format_args!("{way}: the deployment comes from {}", fetched.from));
    if !fetched.added.is_empty() {
        let names: Vec<&str> = fetched.added.iter().map(|field| field.name()).collect();
        tell(format_args!(
            "it lacked what this program knows of the same services: {}",
            names.join(", ")
        ));
    }
    fetched.services
}

fn unanswered(way: Way, error: &FetchError) {
    tell(format_args!("{way}: {}", error.to_string().replace('\n', " ")));
}

/// The document of `--services`.
fn given(path: &Path, args: &GenerateArgs) -> Result<Services, Failure> {
    let loaded = load(Some(path), None)?;
    log_warnings(&loaded.origin, &loaded.warnings);
    let environment = args.deployment.environment();
    let services = loaded.document.services(environment);
    if services.is_empty() {
        let what = format!("{}: {} is empty", path.display(), environment.name());
        return Err(Failure::usage(what));
    }
    Ok(services.clone())
}

/// The configuration to update, if there is one and it is to be updated.
fn old_config(args: &GenerateArgs) -> Result<Option<VisorConfig>, Failure> {
    let path = &args.out;
    let unreadable =
        |error: io::Error| Failure::new(Exit::Read, format!("{}: {error}", path.display()));
    file::check_replaceable(path).map_err(|error| unwritten(path, &error))?;
    if !args.regen {
        return if path.exists() && !args.force {
            Err(Failure::usage(format!(
                "{} exists: --regen updates it and keeps its keys, --force replaces it",
                path.display()
            )))
        } else {
            Ok(None)
        };
    }
    let Some(text) = file::read_text(path, DOCUMENT_BYTES_MAX).map_err(unreadable)? else {
        tell(format_args!("{} is not there yet; a new one is made", path.display()));
        return Ok(None);
    };
    let text = zeroize::Zeroizing::new(text);
    let old = VisorConfig::parse(&text)
        .map_err(|problems| Failure::usage(problems.in_file(&path.display().to_string())))?;
    if let Some(key) = args.identity.given()?
        && key.public_key() != old.secret_key().public_key()
    {
        return Err(Failure::usage(format!(
            "{} has another secret key than the given one: --regen keeps keys; --force replaces them",
            path.display()
        )));
    }
    Ok(Some(old))
}

fn updated(
    mut old: VisorConfig,
    args: &GenerateArgs,
    at_hand: &Services,
    services: &Services,
) -> (VisorConfig, Services) {
    let last = last_good(&args.out, &old).read();
    if last.is_none() {
        tell(format_args!(
            "what the deployment last set is not on record; what differs from it stays as yours"
        ));
    }
    let last = last.as_ref().unwrap_or(at_hand);
    let Updated { changes, record } = old.update(Some(last), services, args.output());
    for (field, change) in changes {
        match change {
            Change::Updated => tell(format_args!("{field}: updated")),
            Change::Kept => tell(format_args!("{field}: yours, kept")),
        }
    }
    (old, record)
}

/// The record of what the deployment last set: where the visor itself keeps it (`§5`).
fn last_good(path: &Path, config: &VisorConfig) -> LastGood {
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    LastGood::in_folder(&folder.join(config.local_path()))
}

fn remember(path: &Path, config: &VisorConfig, record: &Services) {
    let file = last_good(path, config);
    if let Err(error) = file.write(record) {
        let path = file.path().display();
        tell(format_args!("{path}: {error}; a later --regen cannot tell what you changed"));
    }
}

/// A file with a key is somebody's only copy, perhaps.
fn keep_old(path: &Path) -> Result<(), Failure> {
    let mut name = path.as_os_str().to_owned();
    name.push(".bak");
    let backup = PathBuf::from(name);
    let old = std::fs::read(path).map(zeroize::Zeroizing::new);
    let old =
        old.map_err(|error| Failure::new(Exit::Read, format!("{}: {error}", path.display())))?;
    file::replace(&backup, &old, Access::Private).map_err(|error| unwritten(&backup, &error))?;
    tell(format_args!("the old file is kept as {}", backup.display()));
    Ok(())
}

fn unwritten(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Write, format!("{}: {error}", path.display()))
}
