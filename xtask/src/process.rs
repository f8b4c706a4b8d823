//! Processes that outlive the command that started them.
//!
//! A process is known by its id *and* its start time, both from `/proc/PID/stat`: ids are used again, and after a
//! restart of the machine a recorded id may be anybody's. Only a process that matches both is ever signalled.
//!
//! A process writes its record itself, before it becomes the program: whenever the caller is killed, no program runs without
//! a record. One that cannot write it, on a full disk, ends.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::command::tail_of;
use crate::poll;

/// Closes what this process was given open and did not open itself (without redirecting the loop's errors: the shell would keep
/// the real standard error open elsewhere, and the loop close that), writes the record (the start time is the 20th field after
/// the name in `stat`, and stays over an exec), then becomes the program. A daemon that inherits the lock file of whoever
/// called `cargo xtask` would hold the lock for as long as it runs.
const BECOME: &str = r#"
for fd in /proc/$$/fd/*; do
    fd=${fd##*/}
    [ "$fd" -le 2 ] || eval "exec $fd>&-"
done
record=$1 fingerprint=$2
shift 2
read -r stat </proc/$$/stat
fields=(${stat##*) })
printf '{"pid":%d,"start":%d,"fingerprint":"%s"}' $$ "${fields[19]}" "$fingerprint" >"$record" || exit
exec "$@"
"#;
/// How long a process may take to write its record.
const PATIENCE: Duration = Duration::from_secs(10);

/// A process that was started here.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Process id.
    pub pid: i32,
    /// Clock ticks from the machine's start to the process's.
    pub start: u64,
    /// What it was started with: another fingerprint asks for a restart.
    pub fingerprint: String,
}

/// The recorded processes, one file a name.
#[derive(Clone, Debug)]
pub struct Processes {
    folder: PathBuf,
}

impl Processes {
    /// Records are kept in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// The record of a process that still runs.
    pub fn alive(&self, name: &str) -> Option<Record> {
        let record: Record = serde_json::from_slice(&fs::read(self.file(name)).ok()?).ok()?;
        (start_time(record.pid) == Some(record.start)).then_some(record)
    }

    /// Starts a process in a session of its own; its output goes to `log`, which begins empty. The fingerprint is plain text.
    pub fn start(
        &self,
        name: &str,
        program: &Path,
        arguments: &[String],
        log: &Path,
        fingerprint: &str,
    ) -> Result<Record> {
        fs::create_dir_all(&self.folder).context("failed to create the folder of process records")?;
        let output = File::create(log).with_context(|| format!("failed to create {}", log.display()))?;
        // setsid(1) and the shell exec without forking, so the child's id stays the program's.
        let mut child = Command::new("setsid")
            .args(["bash", "-c", BECOME, "bash"])
            .arg(self.file(name))
            .arg(fingerprint)
            .arg(program)
            .args(arguments)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", "/root")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("failed to start {name}"))?;
        let pid = i32::try_from(child.id()).context("process id out of range")?;
        let recorded = poll::until(PATIENCE, Duration::from_millis(2), || {
            let record = self.alive(name).filter(|record| record.pid == pid);
            Ok(match record {
                Some(record) => Some(Some(record)),
                None => child.try_wait()?.map(|_| None),
            })
        })?;
        recorded.flatten().with_context(|| {
            format!(
                "failed to start {name}; last lines of {}:\n{}",
                log.display(),
                tail_of(log, 5)
            )
        })
    }

    /// Asks a process to end, and ends it after `grace`; without grace, ends it at once. No error if it does not run.
    pub fn stop(&self, name: &str, grace: Duration) -> Result<()> {
        if let Some(record) = self.alive(name) {
            if !grace.is_zero() {
                signal(&record, Signal::SIGTERM);
            }
            if grace.is_zero() || !ended(&record, grace) {
                self.kill(name)?;
            }
        }
        match fs::remove_file(self.file(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context("failed to remove a process record")
            }
            _ => Ok(()),
        }
    }

    /// Ends a process at once, and leaves its record as an accident would. No error if it does not run.
    pub fn kill(&self, name: &str) -> Result<()> {
        if let Some(record) = self.alive(name) {
            signal(&record, Signal::SIGKILL);
            if !ended(&record, Duration::from_secs(10)) {
                bail!("{name} (process {}) does not end even when killed", record.pid);
            }
        }
        Ok(())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }
}

fn signal(record: &Record, signal: Signal) {
    if start_time(record.pid) == Some(record.start) {
        // The process may end between the two calls; then there is nothing left to do.
        let _ = kill(Pid::from_raw(record.pid), signal);
    }
}

fn ended(record: &Record, patience: Duration) -> bool {
    let gone = || Ok((start_time(record.pid) != Some(record.start)).then_some(()));
    poll::until(patience, Duration::from_millis(20), gone).is_ok_and(|end| end.is_some())
}

/// When the process started, in clock ticks since the machine's start; none if there is no such process or only its corpse.
pub fn start_time(pid: i32) -> Option<u64> {
    parse_start_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of `/proc/PID/stat` (proc(5)). The name in field 2 may hold blanks and parentheses.
fn parse_start_time(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_read_past_a_name_with_blanks_and_parentheses() {
        let stat =
            "7 (a b) c)) S 1 7 7 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 4 0 12345 1000 5 18446744073709551615";
        assert_eq!(parse_start_time(stat), Some(12345));
    }

    #[test]
    fn a_corpse_has_no_start_time() {
        let stat = "7 (x) Z 1 7 7 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 4 0 12345 1000 5 18446744073709551615";
        assert_eq!(parse_start_time(stat), None);
    }

    #[test]
    fn a_record_whose_start_time_differs_is_not_alive() {
        let folder = std::env::temp_dir().join(format!("trellis-process-test-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let processes = Processes::new(&folder);
        let pid = i32::try_from(std::process::id()).unwrap();
        let record = Record {
            pid,
            start: start_time(pid).unwrap(),
            fingerprint: String::new(),
        };
        fs::write(folder.join("a.json"), serde_json::to_vec(&record).unwrap()).unwrap();
        fs::write(
            folder.join("b.json"),
            serde_json::to_vec(&Record {
                start: record.start + 1,
                ..record.clone()
            })
            .unwrap(),
        )
        .unwrap();
        assert_eq!(processes.alive("a"), Some(record));
        assert_eq!(processes.alive("b"), None);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_daemon_inherits_no_open_file() {
        let folder = std::env::temp_dir().join(format!("trellis-daemon-test-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let log = folder.join("log");
        let script = "ls /proc/self/fd | tr '\\n' ' '; readlink /proc/self/fd/9 || echo none; exec sleep 60";
        let arguments: Vec<String> = ["-c", script].map(str::to_owned).into();
        let record = Processes::new(&folder)
            .start("a", Path::new("/bin/sh"), &arguments, &log, "f")
            .unwrap();
        let written = poll::until(Duration::from_secs(10), Duration::from_millis(10), || {
            Ok(fs::read_to_string(&log).ok().filter(|text| text.contains("none")))
        });
        let written = written.unwrap().unwrap();
        assert!(written.starts_with("0 1 2 3 "), "{written}");
        assert_eq!(written.split_whitespace().count(), 5, "{written}");
        assert_eq!(Processes::new(&folder).alive("a"), Some(record));
        Processes::new(&folder).stop("a", Duration::ZERO).unwrap();
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_program_finds_its_own_record_and_both_its_outputs_go_to_the_log() {
        let folder = std::env::temp_dir().join(format!("trellis-record-test-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let log = folder.join("log");
        let script = "cat \"$1\"; echo; echo \"$$\" >&2; exec sleep 60";
        let arguments: Vec<String> = ["-c", script, "sh", &folder.join("a.json").display().to_string()]
            .map(str::to_owned)
            .into();
        let record = Processes::new(&folder)
            .start("a", Path::new("/bin/sh"), &arguments, &log, "f")
            .unwrap();
        let seen = poll::until(Duration::from_secs(10), Duration::from_millis(10), || {
            let text = fs::read_to_string(&log)?;
            Ok(text
                .ends_with(&format!("{}\n", record.pid))
                .then(|| text.lines().next().unwrap_or_default().to_owned()))
        });
        let seen: Record = serde_json::from_str(&seen.unwrap().unwrap()).unwrap();
        assert_eq!(seen, record);
        assert_eq!(start_time(record.pid), Some(record.start));
        Processes::new(&folder).stop("a", Duration::ZERO).unwrap();
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_program_is_not_started_when_its_record_cannot_be_written() {
        let folder = std::env::temp_dir().join(format!("trellis-unrecorded-test-{}", std::process::id()));
        let (log, trace) = (folder.join("log"), folder.join("trace"));
        fs::create_dir_all(folder.join("a.json")).unwrap();
        let error = Processes::new(&folder)
            .start(
                "a",
                Path::new("/bin/touch"),
                &[trace.display().to_string()],
                &log,
                "f",
            )
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("failed to start a") && error.contains("a.json"),
            "{error}"
        );
        assert!(!trace.exists());
        fs::remove_dir_all(&folder).unwrap();
    }
}
