//! How many streams a server allows on a connection.
//!
//! hyper shows the number, but not when it changes: the server's first SETTINGS are read by a task that hyper spawns and
//! keeps to itself. So that task runs on an executor of ours, which tells when it has made progress, until the first
//! number is there. Later changes are rare; they are seen with the next request.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hyper::{
    client::conn::http2::Connection,
    rt::{Executor, Read, Write},
};
use tokio::sync::{Notify, watch};

use crate::body::Body;

/// Runs the tasks of a connection and tells of their progress.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// The first number is there.
    known: AtomicBool,
    made: Notify,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Progress {
    fn execute(&self, task: F) {
        let Self(state) = self.clone();
        tokio::spawn(async move {
            let mut task = pin!(task);
            poll_fn(|cx| {
                let polled = task.as_mut().poll(cx);
                if !state.known.load(Ordering::Relaxed) {
                    state.made.notify_one();
                }
                polled
            })
            .await;
        });
    }
}

/// Polls a connection to its end, and passes on how many streams its server allows, at most `most`.
pub(super) async fn follow<T>(
    connection: Connection<T, Body, Progress>,
    Progress(state): Progress,
    most: usize,
    allow: watch::Sender<usize>,
) -> hyper::Result<()>
where
    T: Read + Write + Send + Unpin + 'static,
{
    let mut connection = pin!(connection);
    loop {
        let unknown = !state.known.load(Ordering::Relaxed);
        tokio::select! {
            () = state.made.notified(), if unknown => {}
            ended = poll_fn(|cx| {
                let polled = connection.as_mut().poll(cx);
                let number = connection.current_max_send_streams().min(most);
                if allow.send_if_modified(|allowed| std::mem::replace(allowed, number) != number) {
                    state.known.store(true, Ordering::Relaxed);
                }
                polled
            }) => return ended,
        }
    }
}
