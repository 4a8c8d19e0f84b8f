//! The built program, as a child process.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, missing_docs)]

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// The program, without the environment's options.
pub fn dmsg(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmsg"));
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.as_encoded_bytes().starts_with(b"DMSG_"))
    {
        command.env_remove(name);
    }
    command
}

/// Runs it to its end.
pub fn run(args: &[&str]) -> Output {
    dmsg(args).output().unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asserts the exit code, showing what the program said.
#[track_caller]
pub fn assert_exit(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "stderr: {}", stderr(output));
}

/// A program that runs beside the test; killed when dropped.
pub struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    pub fn start(args: &[&str]) -> Self {
        Self::spawn(dmsg(args))
    }

    pub fn spawn(command: Command) -> Self {
        Self::spawn_to(command, Stdio::inherit())
    }

    /// The same, with its stderr somewhere else. What is piped stays unread.
    pub fn spawn_to(mut command: Command, stderr: Stdio) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its stdout.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the program ended: {:?}", self.child.wait());
        line.trim_end().to_owned()
    }

    /// Reads lines up to and including the first that contains `text`.
    pub fn line_with(&mut self, text: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Sends a signal; gives the exit code, the time it took, and the rest of stdout.
    pub fn stop(mut self, signal: &str) -> (Option<i32>, Duration, String) {
        let begun = Instant::now();
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        let code = self.child.wait().unwrap().code();
        (code, begun.elapsed(), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn word_after(line: &str, flag: &str) -> String {
    let mut words = line.split_whitespace().skip_while(|word| *word != flag);
    words.nth(1).unwrap().to_owned()
}

fn last_word(line: &str) -> String {
    line.split_whitespace().last().unwrap().to_owned()
}

/// `dmsg local` on ports of its own, and the arguments its hints suggest.
pub struct LocalNetwork {
    pub program: Running,
    pub page: String,
    pub discovery: String,
    pub web: String,
    pub dmsg_discovery: String,
    pub relay: String,
    /// The commands with `curl`, as they are printed.
    pub curl_hints: [String; 2],
}

impl LocalNetwork {
    pub fn start(extra: &[&str]) -> Self {
        Self::start_to(&[&["--log", "warn"], extra].concat(), Stdio::inherit())
    }

    /// The same, with another level of the log, and its stderr somewhere else.
    pub fn start_to(extra: &[&str], stderr: Stdio) -> Self {
        let mut args = vec!["local", "--port", "0", "--discovery-port", "0"];
        args.extend(extra);
        let mut program = Running::spawn_to(dmsg(&args), stderr);
        let page = program.line_with("http://").trim().to_owned();
        let first = program.line_with(" curl --discovery http");
        let (discovery, web) = (word_after(&first, "--discovery"), last_word(&first));
        let second = program.line_with(" curl --discovery dmsg");
        let dmsg_discovery = word_after(&second, "--discovery");
        let relay = word_after(&second, "--server");
        let curl_hints = [first, second];
        Self { program, page, discovery, web, dmsg_discovery, relay, curl_hints }
    }

    /// Runs `dmsg curl` against its discovery.
    pub fn curl(&self, args: &[&str]) -> Output {
        self.curl_in(Path::new("."), args)
    }

    pub fn curl_in(&self, folder: &Path, args: &[&str]) -> Output {
        dmsg(&["curl", "--discovery", &self.discovery, "--log", "warn"])
            .args(args)
            .current_dir(folder)
            .output()
            .unwrap()
    }
}
