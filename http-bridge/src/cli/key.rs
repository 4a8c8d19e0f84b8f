//! `dmsg key`: make and show keys.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use dmsg_engine::identity::SecretKey;

use super::{
    exit::{Exit, Failure},
    flags::{IdentityFlags, fresh_key},
};

#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key pair: the secret goes to a file, the public key to stdout.
    New {
        /// Where the secret key goes; must not exist. Without it both keys are printed.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print the public key of a secret key.
    Public(IdentityFlags),
    /// Print both keys of a secret key.
    Show(IdentityFlags),
}

pub(super) fn run(args: KeyArgs) -> Result<(), Failure> {
    let text = match args.command {
        KeyCommand::New { out } => {
            let key = fresh_key()?;
            match out {
                Some(path) => {
                    write_key(&path, &key)?;
                    format!("{}\n", key.public_key())
                }
                None => both(&key),
            }
        }
        KeyCommand::Public(identity) => {
            format!("{}\n", identity.required("`dmsg key public`")?.public_key())
        }
        KeyCommand::Show(identity) => both(&identity.required("`dmsg key show`")?),
    };
    io::stdout().write_all(text.as_bytes()).map_err(|error| Failure::stdout(&error))
}

fn both(key: &SecretKey) -> String {
    format!("public {}\nsecret {}\n", key.public_key(), *key.to_hex())
}

/// Writes a key file that only its owner can read. An existing file is left alone: it may be somebody's only copy.
pub(super) fn write_key(path: &Path, key: &SecretKey) -> Result<(), Failure> {
    let fail = |error: io::Error| {
        let hint = if error.kind() == io::ErrorKind::AlreadyExists {
            "; a key file is never overwritten"
        } else {
            ""
        };
        Failure::new(Exit::Write, format!("{}: {error}{hint}", path.display()))
    };
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fail)?;
    file.write_all(key.to_hex().as_bytes())
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| file.sync_all())
        .map_err(fail)
}
