//! A party of a run in a process of its own: this program again, with a hidden subcommand.
//!
//! ```text
//!   parent                              child
//!   Party::spawn ── program args ─────▶ starts up, pins itself
//!                ◀─ "READY words" ───── ready(words)
//!   cpu_time, memory (from outside)     serves
//!   drop ─────────── end of stdin ────▶ until_orphaned returns, exits
//! ```
//!
//! So nothing of the load counts for the server, and a child never outlives its parent.

use std::{
    env,
    io::{self, BufRead, BufReader, Read, Write},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use crate::{Result, cpu};

/// A running child.
#[derive(Debug)]
pub struct Party {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    words: Vec<String>,
}

impl Party {
    /// Starts this program with `args` and waits until it is ready.
    ///
    /// # Errors
    /// It ended before it was ready; what it had to say is on stderr.
    pub fn spawn(args: &[&str]) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdout = child.stdout.take().map(BufReader::new);
        let mut line = String::new();
        if let Some(stdout) = &mut stdout {
            stdout.read_line(&mut line)?;
        }
        let Some(words) = line.trim_end().strip_prefix("READY") else {
            let status = child.wait()?;
            return Err(format!("`dmsg-bench {}` did not start ({status})", args.join(" ")).into());
        };
        Ok(Self { child, stdout, words: words.split_whitespace().map(str::to_owned).collect() })
    }

    /// What it said when it was ready.
    #[must_use]
    pub fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", String::as_str)
    }

    /// Tells it a line, and waits for the line that it answers.
    ///
    /// # Errors
    /// It is gone.
    pub fn ask(&mut self, line: &str) -> io::Result<String> {
        let gone = || io::Error::other("a party of the run has ended");
        let stdin = self.child.stdin.as_mut().ok_or_else(gone)?;
        writeln!(stdin, "{line}")?;
        stdin.flush()?;
        let mut answer = String::new();
        if self.stdout.as_mut().ok_or_else(gone)?.read_line(&mut answer)? == 0 {
            return Err(gone());
        }
        Ok(answer.trim_end().to_owned())
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time of all its threads so far.
    ///
    /// # Errors
    /// It is gone.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        cpu::process_time(self.pid())
    }

    /// Its user-space memory.
    ///
    /// # Errors
    /// It is gone.
    pub fn anonymous_bytes(&self) -> io::Result<u64> {
        cpu::anonymous_bytes(self.pid())
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It may be in the middle of work that nobody wants any more.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// In a child: tells the parent to begin.
///
/// # Errors
/// The parent is gone.
pub fn ready(words: &str) -> io::Result<()> {
    say(&format!("READY {words}"))
}

/// In a child: a line for [`Party::ask`].
///
/// # Errors
/// The parent is gone.
pub fn say(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// In a child: returns when the parent has gone or wants no more.
pub fn until_orphaned() {
    let mut sink = [0; 64];
    while io::stdin().lock().read(&mut sink).is_ok_and(|count| count > 0) {}
}

/// In a child whose own thread is busy: ends the process with its parent.
pub fn exit_when_orphaned() {
    std::thread::spawn(|| {
        until_orphaned();
        std::process::exit(0);
    });
}
