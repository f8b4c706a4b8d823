//! What the user sees while waiting: a spinner on a terminal, plain lines elsewhere.
//!
//! A step is never silent for more than ten seconds: on a terminal the spinner turns, elsewhere a line with the
//! time spent and the last detail is printed. A step that is dropped before [`Step::done`] shows as failed.

use std::io::{IsTerminal, stderr};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const QUIET: Duration = Duration::from_secs(10);

/// One thing that is being done.
pub struct Step {
    name: String,
    began: Instant,
    detail: Arc<Mutex<String>>,
    show: Show,
    finished: bool,
}

enum Show {
    Spinner(ProgressBar),
    Lines(Option<(Sender<()>, JoinHandle<()>)>),
}

/// Begins a step; its name is a fragment like "starting etcd".
pub fn step(name: impl Into<String>) -> Step {
    let name = name.into();
    let began = Instant::now();
    let detail = Arc::new(Mutex::new(String::new()));
    let show = if stderr().is_terminal() {
        let bar = ProgressBar::new_spinner();
        bar.set_style(
            ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        bar.set_prefix(name.clone());
        bar.enable_steady_tick(Duration::from_millis(120));
        Show::Spinner(bar)
    } else {
        eprintln!("    {name} ...");
        Show::Lines(Some(heartbeat(name.clone(), began, Arc::clone(&detail))))
    };
    Step {
        name,
        began,
        detail,
        show,
        finished: false,
    }
}

/// A line between steps.
pub fn note(text: &str) {
    eprintln!("    {text}");
}

impl Step {
    /// Says what the step is at; shown at once on a terminal, with the next line elsewhere.
    pub fn detail(&self, text: impl Into<String>) {
        // One line: what has more of them is an error, and errors are shown whole.
        let text = text.into().replace('\n', "; ");
        if let Show::Spinner(bar) = &self.show {
            bar.set_message(text.clone());
        }
        if let Ok(mut detail) = self.detail.lock() {
            *detail = text;
        }
    }

    /// Ends the step well.
    pub fn done(mut self, outcome: &str) {
        self.end("ok", outcome);
    }

    fn end(&mut self, mark: &str, outcome: &str) {
        self.finished = true;
        match &mut self.show {
            Show::Spinner(bar) => bar.finish_and_clear(),
            Show::Lines(beat) => {
                if let Some((stop, thread)) = beat.take() {
                    drop(stop);
                    let _ = thread.join();
                }
            }
        }
        let outcome = if outcome.is_empty() {
            String::new()
        } else {
            format!(": {outcome}")
        };
        eprintln!(
            "{mark:>6}  {}{outcome} ({:.1} s)",
            self.name,
            self.began.elapsed().as_secs_f64()
        );
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.finished {
            self.end("FAILED", "");
        }
    }
}

fn heartbeat(name: String, began: Instant, detail: Arc<Mutex<String>>) -> (Sender<()>, JoinHandle<()>) {
    let (stop, stopped) = channel::<()>();
    let thread = thread::spawn(move || {
        while stopped.recv_timeout(QUIET) == Err(RecvTimeoutError::Timeout) {
            let detail = detail.lock().map(|text| text.clone()).unwrap_or_default();
            let detail = if detail.is_empty() {
                String::new()
            } else {
                format!(": {detail}")
            };
            eprintln!("    {name}, {} s{detail}", began.elapsed().as_secs());
        }
    });
    (stop, thread)
}
