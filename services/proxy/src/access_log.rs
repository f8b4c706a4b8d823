//! One JSON line per request on stdout, beside the process's own log lines and with the same leading keys.
//!
//! Requests append to a buffer; a thread of its own writes the buffer out, many lines per system call. It lets lines
//! gather for a moment first: to wake it for each would cost a request more than its line does. A reader of stdout
//! that is slow or stuck therefore never holds up a request: beyond [`MAX_BUFFERED`] bytes lines are dropped, and the
//! next line that fits says how many were.
//!
//! `TRELLIS_ACCESS_LOG=off` turns it off.

use std::{
    fmt,
    io::{self, Write as _},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;

/// Environment variable that turns the log off.
pub(crate) const SWITCH: &str = "TRELLIS_ACCESS_LOG";

/// How long lines wait for more of them.
const GATHER: Duration = Duration::from_millis(50);
/// With so many bytes the wait ends.
const ENOUGH: usize = 32 * 1024;
/// Most bytes that wait for stdout.
const MAX_BUFFERED: usize = 1024 * 1024;

/// Where lines go; clones write to the same place.
#[derive(Debug, Clone, Default)]
pub(crate) struct AccessLog(Option<Arc<Shared>>);

/// What a line says.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    pub(crate) direction: &'static str,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) host: &'a str,
    pub(crate) protocol: &'static str,
    pub(crate) status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) grpc_status: Option<&'a str>,
    pub(crate) duration_ms: f64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) service: &'a str,
    pub(crate) route: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cluster: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upstream: Option<std::net::SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    /// The fallback answered.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) fallback: bool,
    /// Which try was answered, if not the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tries: Option<u32>,
    /// What the circuit breaker did when the request came, if it was not closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) breaker: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<std::net::SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client: Option<std::net::IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user_agent: Option<&'a str>,
    pub(crate) trace_id: fmt::Arguments<'a>,
    pub(crate) span_id: fmt::Arguments<'a>,
}

#[derive(Serialize)]
struct Entry<'a> {
    timestamp: fmt::Arguments<'a>,
    level: &'static str,
    target: &'static str,
    message: &'static str,
    #[serde(flatten)]
    line: &'a Line<'a>,
    #[serde(skip_serializing_if = "is_zero")]
    dropped_before: u64,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    dropped: u64,
}

impl AccessLog {
    /// Starts the writer.
    ///
    /// # Errors
    /// If its thread cannot be started.
    pub(crate) fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_writer = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || of_writer.write())?;
        Ok(Self(Some(shared)))
    }

    /// A log that is turned off.
    pub(crate) fn off() -> Self {
        Self::default()
    }

    /// Whether lines go anywhere.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Adds a line; never waits for stdout.
    pub(crate) fn add(&self, line: &Line<'_>) {
        let Some(shared) = &self.0 else { return };
        let now = Timestamp::now();
        let mut waiting = shared.lock();
        if waiting.bytes.len() > MAX_BUFFERED {
            waiting.dropped += 1;
            return;
        }
        let dropped_before = std::mem::take(&mut waiting.dropped);
        let entry = Entry {
            timestamp: format_args!("{now:.6}"),
            level: "INFO",
            target: "access",
            message: "request",
            line,
            dropped_before,
        };
        let before = waiting.bytes.len();
        // Plain data into memory: serialising does not fail.
        if serde_json::to_writer(&mut waiting.bytes, &entry).is_ok() {
            waiting.bytes.push(b'\n');
        }
        let after = waiting.bytes.len();
        drop(waiting);
        // What the writer waits for: a first line, then enough of them.
        if before == 0 || (before < ENOUGH && after >= ENOUGH) {
            shared.filled.notify_one();
        }
    }

    /// Writes out what waits, before the process ends.
    pub(crate) fn flush(&self) {
        if let Some(shared) = &self.0 {
            let bytes = std::mem::take(&mut shared.lock().bytes);
            // Nobody is left to tell.
            let _ = io::stdout().write_all(&bytes);
        }
    }
}

impl Shared {
    fn write(&self) {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let waiting = self
                .filled
                .wait_while(self.lock(), |waiting| waiting.bytes.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            let (mut waiting, _) = self
                .filled
                .wait_timeout_while(waiting, GATHER, |waiting| waiting.bytes.len() < ENOUGH)
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut waiting.bytes, &mut bytes);
            drop(waiting);
            // A closed stdout is not a reason to stop serving.
            let _ = io::stdout().write_all(&bytes);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature is serde's
fn is_zero(count: &u64) -> bool {
    *count == 0
}
