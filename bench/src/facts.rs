//! What must stand beside every figure: machine, kernel, commit, command, time.

use std::{env, fs, process::Command};

use crate::cpu;

/// The circumstances of a run.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Facts {
    /// CPU model and count.
    pub machine: String,
    /// Memory in all, MiB.
    pub memory_mib: u64,
    /// Kernel name and release.
    pub kernel: String,
    /// Commit of the tree, with `+` behind it when the tree differs from it.
    pub commit: String,
    /// The compiler that is installed.
    pub rustc: String,
    /// The command line.
    pub command: String,
    /// When the run began, UTC.
    pub date: String,
}

impl Facts {
    /// Looks around. What cannot be found out is "unknown".
    #[must_use]
    pub fn gather() -> Self {
        Self {
            machine: machine(),
            memory_mib: memory_mib(),
            kernel: kernel(),
            commit: commit(),
            rustc: env!("BUILT_WITH").to_owned(),
            command: command(),
            date: output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        }
    }

    /// Name and value of each, for tables.
    #[must_use]
    pub fn rows(&self) -> [(&'static str, String); 6] {
        [
            ("machine", format!("{}, {} MiB", self.machine, self.memory_mib)),
            ("kernel", self.kernel.clone()),
            ("commit", self.commit.clone()),
            ("compiler", self.rustc.clone()),
            ("command", self.command.clone()),
            ("date", self.date.clone()),
        ]
    }
}

fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = field("model name").unwrap_or_else(|| "unknown CPU".to_owned());
    let numbers = [("cpu family", "family"), ("model\t", "model")];
    let numbers: Vec<_> =
        numbers.iter().filter_map(|(key, name)| Some(format!("{name} {}", field(key)?))).collect();
    let virtual_ = if info.contains(" hypervisor") { ", virtual" } else { "" };
    let usable = cpu::allowed().len();
    format!("{model} ({}{virtual_}), {usable} CPUs usable", numbers.join(" "))
}

fn memory_mib() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

fn kernel() -> String {
    let uname = rustix::system::uname();
    format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy())
}

fn commit() -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    let hash = output("git", &["-C", root, "rev-parse", "--short=10", "HEAD"]);
    let changed = output("git", &["-C", root, "status", "--porcelain", "--untracked-files=no"]);
    let clean = changed.is_empty() || changed == UNKNOWN;
    format!("{hash}{}", if clean { "" } else { "+" })
}

fn command() -> String {
    let args: Vec<_> = env::args().skip(1).collect();
    let profile = if cfg!(debug_assertions) { "" } else { " --release" };
    format!("cargo run{profile} -p dmsg-bench -- {}", args.join(" ")).trim_end().to_owned()
}

const UNKNOWN: &str = "unknown";

fn output(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).output().ok().filter(|out| out.status.success());
    done.map_or_else(
        || UNKNOWN.to_owned(),
        |out| String::from_utf8_lossy(&out.stdout).trim().to_owned(),
    )
}
