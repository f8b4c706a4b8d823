//! What a figure was measured on.

use std::fs;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Serialize;

/// The machine, and how busy it was before anything began.
#[derive(Debug, Serialize)]
pub struct Machine {
    time: Timestamp,
    processor: String,
    cores: usize,
    memory_mib: u64,
    kernel: String,
    /// Runnable processes, averaged over the last minute: other people's work beside the benchmark.
    load_before: f64,
}

impl Machine {
    /// Looks.
    pub fn look() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("failed to read {path}"));
        let (processors, memory) = (read("/proc/cpuinfo")?, read("/proc/meminfo")?);
        let value = |text: &str, key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
        };
        let kib = value(&memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Ok(Self {
            time: Timestamp::now(),
            processor: value(&processors, "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: kib.context("no MemTotal in /proc/meminfo")? / 1024,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load_before: read("/proc/loadavg")?
                .split(' ')
                .next()
                .and_then(|text| text.parse().ok())
                .context("no number in /proc/loadavg")?,
        })
    }

    /// One line about it.
    pub fn describe(&self) -> String {
        format!(
            "{} x {}, {} MiB, Linux {}, load before {:.2}",
            self.cores, self.processor, self.memory_mib, self.kernel, self.load_before
        )
    }
}
