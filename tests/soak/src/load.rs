//! Load at a constant rate: request number n is due n/rate seconds after the start, whatever became of those before.
//!
//! ```text
//! tickets 0, 1, 2, ... -> the next free caller waits until the ticket is due -> sends -> notes what became of it
//! ```
//!
//! When every caller is busy, tickets wait and are sent late; their latency counts from when they were due, so a server
//! that stalls is not spared the requests that it held up.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    line::{Line, Protocol},
    sample::Sample,
    traffic::{Ticket, Traffic},
};

/// Callers that share one connection of HTTP/2.
const SHARING: usize = 16;

/// How much load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// Requests a second.
    pub(crate) per_second: u32,
    /// Requests that can be under way at a time.
    pub(crate) callers: usize,
}

/// A load that runs.
pub(crate) struct Load {
    shared: Arc<Shared>,
    callers: JoinSet<()>,
    stop: watch::Sender<bool>,
}

struct Shared {
    began: Instant,
    rate: Rate,
    traffic: Traffic,
    lines: Vec<Line>,
    next: AtomicU64,
    samples: Mutex<Vec<Sample>>,
}

impl Load {
    /// Begins.
    pub(crate) fn start(address: SocketAddr, protocol: Protocol, rate: Rate, traffic: Traffic) -> Self {
        let lines = match protocol {
            Protocol::H1 => rate.callers,
            Protocol::H2c => rate.callers.div_ceil(SHARING),
        };
        let shared = Arc::new(Shared {
            began: Instant::now(),
            rate,
            traffic,
            lines: (0..lines).map(|_| Line::new(address, protocol)).collect(),
            next: AtomicU64::new(0),
            samples: Mutex::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let callers = (0..rate.callers)
            .map(|caller| call(Arc::clone(&shared), caller, stopped.clone()))
            .collect();
        Self {
            shared,
            callers,
            stop,
        }
    }

    /// Time since the start: the clock of every sample.
    pub(crate) fn now(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// The samples so far, in the order in which the requests ended.
    pub(crate) fn samples(&self) -> MutexGuard<'_, Vec<Sample>> {
        self.shared.lock()
    }

    /// Connections opened so far.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.lines.iter().map(Line::opened).sum()
    }

    /// Sends nothing more and waits for what is under way.
    pub(crate) async fn finish(mut self) -> Result<Vec<Sample>> {
        self.stop.send_replace(true);
        while let Some(ended) = self.callers.join_next().await {
            ended.context("a caller panicked")?;
        }
        Ok(std::mem::take(&mut *self.shared.lock()))
    }
}

impl Shared {
    fn due(&self, ticket: Ticket) -> Duration {
        Duration::from_secs(ticket) / self.rate.per_second
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Sample>> {
        // Nothing is left half-changed by a panic under this lock.
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn call(shared: Arc<Shared>, caller: usize, mut stopped: watch::Receiver<bool>) {
    let line = &shared.lines[caller % shared.lines.len()];
    loop {
        let ticket = shared.next.fetch_add(1, Ordering::Relaxed);
        let due = shared.due(ticket);
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = sleep_until(shared.began + due) => {}
        }
        let sent = shared.began.elapsed();
        let fault = match line.exchange(shared.traffic.request(ticket)).await {
            Ok(answer) => shared.traffic.fault(ticket, &answer),
            Err(error) => Some(format!("{:#}", anyhow::Error::new(error))),
        };
        shared.lock().push(Sample {
            ticket,
            kind: Traffic::kind(ticket),
            due,
            sent,
            ended: shared.began.elapsed(),
            fault,
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// Answers on every connection, after holding the first request back until it is told to go on.
    async fn server(mut go_on: watch::Receiver<bool>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = go_on.wait_for(|go_on| *go_on).await;
                tokio::spawn(async move {
                    let mut buffer = [0; 1024];
                    while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn requests_that_a_stalled_server_held_up_are_sent_late_and_counted_as_late() {
        let (release, go_on) = watch::channel(false);
        let rate = Rate {
            per_second: 500,
            callers: 2,
        };
        let load = Load::start(server(go_on).await, Protocol::H1, rate, Traffic::new(1));
        let stall = Duration::from_millis(200);
        sleep_until(load.shared.began + stall).await;
        assert!(load.samples().is_empty(), "both callers wait for the server");
        release.send_replace(true);
        while load.samples().len() < 100 {
            tokio::task::yield_now().await;
        }
        let samples = load.finish().await.unwrap();
        let held_up = samples.iter().filter(|sample| sample.due < stall).count();
        assert_eq!(held_up, 100, "one for every two milliseconds");
        let first = samples.iter().find(|sample| sample.ticket == 50).unwrap();
        assert!(first.sent >= stall && first.due == Duration::from_millis(100));
    }
}
