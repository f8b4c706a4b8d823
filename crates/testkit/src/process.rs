//! A service as a process of its own, whose log is read as it comes.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Longest wait for a line, or for the end. It is generous: a line that does not come is a fault, and not a matter of time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running service.
pub struct Running {
    child: Child,
    lines: Receiver<Value>,
    passed: Vec<Value>,
}

impl Running {
    /// Starts it. Every line of its standard output is a JSON object.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines() {
                let line = serde_json::from_str(&line.unwrap()).unwrap();
                // What nobody reads any more must not fill the pipe.
                let _ = sender.send(line);
            }
        });
        Self {
            child,
            lines,
            passed: Vec::new(),
        }
    }

    /// The log line with `message`: one that was passed on the way to another, or the next of those to come. Parts of
    /// the process start beside each other and speak in any order.
    ///
    /// # Panics
    /// If there is none in time, or before the end of the process.
    pub fn line(&mut self, message: &str) -> Value {
        if let Some(at) = self.passed.iter().position(|line| line["message"] == message) {
            return self.passed.remove(at);
        }
        let by = Instant::now() + PATIENCE;
        while let Ok(line) = self
            .lines
            .recv_timeout(by.saturating_duration_since(Instant::now()))
        {
            if line["message"] == message {
                return line;
            }
            self.passed.push(line);
        }
        panic!("no line {message:?} after these: {:#?}", self.passed);
    }

    /// Tells it to leave, and waits until it has; its exit code.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn leave(&mut self) -> Option<i32> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        let by = Instant::now() + PATIENCE;
        loop {
            match self
                .lines
                .recv_timeout(by.saturating_duration_since(Instant::now()))
            {
                Ok(line) => self.passed.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.child.wait().unwrap().code(),
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not end: {:#?}", self.passed),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that fails half-way leaves nothing behind; one that passed finds it ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
