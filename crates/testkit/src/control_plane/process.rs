//! Processes and a folder that go with this process, however it ends.
//!
//! ```text
//! test process --pipe--> sh: starts the program, reads the pipe; at its end kills the program
//! ```
//!
//! A test process has no moment at which it could reliably stop anything: statics are not dropped, and it may be killed.
//! Its end of a pipe is closed whatever happens.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

const KEEP: &str = r#"
trap '' INT TERM
exec 3<&0
"$@" 3<&- </dev/null &
program=$!
{ read -r nothing <&3; kill -KILL $program 2>/dev/null; } &
reader=$!
wait $program
status=$?
kill -KILL $reader 2>/dev/null
exit $status
"#;
/// Whoever writes into the folder dies at the same moment.
const REMOVE: &str = r#"
trap '' INT TERM
read -r nothing
until rm -rf "$1" 2>/dev/null; do sleep 0.1; done
"#;
/// Lines of a log in an error.
const TAIL: usize = 15;

static NEXT: AtomicU32 = AtomicU32::new(1);

/// A running program; dropping it kills it.
#[derive(Debug)]
pub struct Kept {
    name: &'static str,
    keeper: Child,
    log: PathBuf,
}

/// A folder for temporary files; dropping it removes it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    keeper: Child,
}

impl Kept {
    /// Starts a program, everything that it prints going to `log`.
    pub fn start(name: &'static str, command: &Command, log: &Path) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("failed to create {}", log.display()))?;
        let keeper = Command::new("sh")
            .args(["-c", KEEP, "keep"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::piped())
            .stdout(output.try_clone().context("failed to share a log")?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("failed to start {name}"))?;
        Ok(Self {
            name,
            keeper,
            log: log.to_owned(),
        })
    }

    /// What it is.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// An error if the program has ended, with the end of its log.
    pub fn check(&mut self) -> Result<()> {
        let Some(status) = self.keeper.try_wait().context("failed to look after a process")? else {
            return Ok(());
        };
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL)..];
        bail!("{} has ended ({status}):\n{}", self.name, tail.join("\n"))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        close(&mut self.keeper);
    }
}

impl Folder {
    /// A new one below the folder for temporary files.
    pub fn create(name: &str) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("trellis-{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("failed to create {}", path.display()))?;
        let keeper = Command::new("sh")
            .args(["-c", REMOVE, "keep"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start sh")?;
        Ok(Self { path, keeper })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        close(&mut self.keeper);
    }
}

/// Ends a keeper by closing its pipe, and waits until it has done its work.
fn close(keeper: &mut Child) {
    drop(keeper.stdin.take());
    // It has been waited for already if that fails.
    let _ = keeper.wait();
}
