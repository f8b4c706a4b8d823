//! Places in a bulkhead are not lost, whoever goes away and when.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Waker},
};

use tokio::time;
use trellis_resilience::bulkhead::{self, layer::SharedBulkhead};

use crate::support::seconds;

#[tokio::test(start_paused = true)]
async fn who_goes_away_when_just_let_in_gives_the_place_to_the_next() {
    let bulkhead = SharedBulkhead::new(bulkhead::Settings {
        max_concurrent: NonZeroU32::MIN,
        ..bulkhead::Settings::default()
    });
    let first = bulkhead.enter(None).await.unwrap();
    let mut waiting = Box::pin(bulkhead.enter(None));
    let mut next = Box::pin(bulkhead.enter(None));
    for waits in [&mut waiting, &mut next] {
        let polled = waits.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
    }
    drop(first);
    // It has the place and does not know yet.
    drop(waiting);
    let place = next.await.unwrap();
    assert_eq!(bulkhead.load(), (1, 0));
    drop(place);
    assert_eq!(bulkhead.load(), (0, 0));
}

/// Counts who is inside, also those who are torn out of it.
struct Counted(Arc<AtomicU32>);

impl Counted {
    fn new(inside: Arc<AtomicU32>, most: &AtomicU32) -> Self {
        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Self(inside)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_that_come_and_go_leave_a_bulkhead_empty_and_never_too_full() {
    let bulkhead = SharedBulkhead::new(bulkhead::Settings {
        max_concurrent: NonZeroU32::new(3).unwrap(),
        max_waiting: 1000,
        max_wait: seconds(30),
    });
    let (inside, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let calls: Vec<_> = (0..400_u64)
        .map(|number| {
            let (bulkhead, inside, most) = (bulkhead.clone(), Arc::clone(&inside), Arc::clone(&most));
            let call = tokio::spawn(async move {
                let _place = bulkhead.enter(None).await.unwrap();
                let _counted = Counted::new(inside, &most);
                for _ in 0..number % 7 {
                    tokio::task::yield_now().await;
                }
            });
            (number, call)
        })
        .collect();
    for (number, call) in calls {
        // A third of the callers goes away, while it waits or just after it was let in.
        if number % 3 == 0 {
            call.abort();
        } else {
            call.await.unwrap();
        }
    }
    time::timeout(seconds(30), async {
        while bulkhead.load() != (0, 0) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("a place was lost");
    assert!(most.load(Ordering::SeqCst) <= 3);
}
