//! What is measured: a child process, its CPU time and its memory.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use serde::Serialize;
use tokio::process::{Child, Command};

/// A running process; killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
}

/// Memory that a process has in RAM.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Memory {
    /// Now (`VmRSS`), in MiB.
    pub resident_mib: f64,
    /// The most so far (`VmHWM`), in MiB.
    pub peak_mib: f64,
}

impl Process {
    /// Starts a program, everything that it prints going to `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("failed to create {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("failed to share a log")?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("failed to start {name}"))?;
        let pid = child.id().context("the process has ended at once")?;
        Ok(Self {
            name: name.to_owned(),
            child,
            pid: Pid::from_raw(i32::try_from(pid).context("process id out of range")?),
        })
    }

    /// An error if the process has ended; its log says why.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => bail!("{} has ended ({status}); see its log", self.name),
            Err(error) => Err(error).with_context(|| format!("failed to look after {}", self.name)),
        }
    }

    /// CPU time of all its threads so far, those that have ended included, to the nanosecond.
    pub fn cpu(&self) -> Result<Duration> {
        let of_process = || clock_gettime(clock_getcpuclockid(self.pid)?);
        of_process()
            .map(Duration::from)
            .with_context(|| format!("failed to read the CPU clock of {}", self.name))
    }

    /// See [`Memory`].
    pub fn memory(&self) -> Result<Memory> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid))
            .with_context(|| format!("failed to look at {}", self.name))?;
        parse_memory(&text).with_context(|| format!("no memory in the status of {}", self.name))
    }

    /// Asks the process to end, and waits for it.
    pub async fn end(mut self) -> Result<()> {
        kill(self.pid, Signal::SIGTERM).with_context(|| format!("failed to signal {}", self.name))?;
        let grace = tokio::time::timeout(Duration::from_secs(20), self.child.wait());
        grace
            .await
            .with_context(|| format!("{} does not end", self.name))?
            .with_context(|| format!("failed to wait for {}", self.name))?;
        Ok(())
    }
}

/// Lines like `VmRSS:     1024 kB` (proc_pid_status(5)).
fn parse_memory(status: &str) -> Option<Memory> {
    let mib = |key: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib / 1024.0)
    };
    Some(Memory {
        resident_mib: mib("VmRSS")?,
        peak_mib: mib("VmHWM")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_mebibytes() {
        let memory = parse_memory("Name:\tx\nVmHWM:\t  4096 kB\nVmRSS:\t  2048 kB\n").unwrap();
        assert_eq!((memory.resident_mib, memory.peak_mib), (2.0, 4.0));
        assert_eq!(parse_memory("Name:\tx\n"), None);
    }

    #[tokio::test]
    async fn cpu_time_of_a_child_grows_while_it_works() {
        let log = std::env::temp_dir().join(format!("trellis-bench-{}", std::process::id()));
        let mut command = Command::new("sh");
        let process = Process::start("sh", command.args(["-c", "while :; do :; done"]), &log).unwrap();
        let grown = crate::wait::until("CPU time grows", Duration::from_secs(20), async || {
            Ok((process.cpu()? > Duration::from_millis(20)).then_some(()))
        });
        grown.await.unwrap();
        assert!(process.memory().unwrap().resident_mib > 0.0);
        process.end().await.unwrap();
        fs::remove_file(log).unwrap();
    }
}
