//! Log lines of the Applier on this thread.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Mutex, Once},
    thread::{self, ThreadId},
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Fields of a line, by name.
pub type Line = BTreeMap<String, String>;

static LINES: Mutex<Vec<(ThreadId, Line)>> = Mutex::new(Vec::new());
static LISTENING: Once = Once::new();

/// Listens, for the whole process: whether a line has a listener is asked once and remembered for every thread.
pub fn listen() {
    LISTENING.call_once(|| tracing::subscriber::set_global_default(Capture).unwrap());
}

/// Lines of this thread so far.
pub fn lines() -> Vec<Line> {
    let here = thread::current().id();
    let lines = LINES.lock().unwrap();
    lines
        .iter()
        .filter(|(thread, _)| *thread == here)
        .map(|(_, line)| line.clone())
        .collect()
}

struct Capture;

struct Fields(Line);

impl Subscriber for Capture {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("trellis_operator::apply")
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(Line::new());
        event.record(&mut fields);
        LINES.lock().unwrap().push((thread::current().id(), fields.0));
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}
