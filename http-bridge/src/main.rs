//! The program `dmsg`; all of it is in [`dmsg_http::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    dmsg_http::cli::run(std::env::args_os().collect())
}
