//! Calls at once: bounded, and shared out so that nobody's calls use up those of others.
//!
//! ```text
//! a call --enter--> its lane (participant and saga) has room: it goes
//!                   else it waits; whoever ends lets the next lane in that has room, one after the other
//! ```
//!
//! A lane may have no more calls than the participant has room left, and the replica beside what the participant has. So whoever hangs
//! takes a part, and what is left is as large as any part: a participant, or a saga, that comes anew always finds room. It is the rule of
//! dynamic thresholds (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", IEEE/ACM Transactions on
//! Networking 6(2), 1998), with a factor of one.
//!
//! Does not protect those that all call what hangs: their runs wait for it, each saga in its lane.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Calls of a replica at once. Each has a connection to the sidecar, which has one to the participant.
const MOST: usize = 1024;
/// Calls of a participant at once.
const MOST_OF_PARTICIPANT: usize = 256;

/// The lanes of a replica.
#[derive(Debug, Default, Clone)]
pub(crate) struct Lanes(Arc<Mutex<Inner>>);

/// Whose calls they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Lane {
    /// Namespace and name of the Microservice.
    pub(crate) participant: (Arc<str>, Arc<str>),
    /// The saga, of the same namespace.
    pub(crate) saga: Arc<str>,
}

#[derive(Debug, Default)]
struct Inner {
    calls: usize,
    of_participants: HashMap<(Arc<str>, Arc<str>), usize>,
    /// Those with calls, or with some that wait.
    lanes: HashMap<Lane, OfLane>,
    /// Lanes in which calls wait, in the order in which they are let in.
    turns: VecDeque<Lane>,
}

#[derive(Debug, Default)]
struct OfLane {
    calls: usize,
    waiting: VecDeque<oneshot::Sender<Pass>>,
}

/// A call's right to be on its way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Pass {
    lanes: Lanes,
    lane: Lane,
    /// Nobody took it.
    is_void: bool,
}

impl Lanes {
    /// Waits until a call may go. Who does not wait any more has lost its place.
    pub(crate) async fn enter(&self, lane: &Lane) -> Pass {
        loop {
            let turn = {
                let mut inner = self.0.lock();
                let has_none_before = inner.lanes.get(lane).is_none_or(|lane| lane.waiting.is_empty());
                if has_none_before && inner.has_room(lane) {
                    inner.begin(lane);
                    return self.pass(lane);
                }
                inner.wait(lane)
            };
            // Nobody drops a turn; if somebody did, this one asks again.
            if let Ok(pass) = turn.await {
                return pass;
            }
        }
    }

    fn pass(&self, lane: &Lane) -> Pass {
        Pass {
            lanes: self.clone(),
            lane: lane.clone(),
            is_void: false,
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.is_void {
            return;
        }
        let mut inner = self.lanes.0.lock();
        inner.end(&self.lane);
        // From the front, until nobody is left that has room.
        let mut left = inner.turns.len();
        while left > 0 {
            left -= 1;
            let Some(next) = inner.turns.pop_front() else {
                return;
            };
            let has_room = inner.has_room(&next);
            let Some(lane) = inner.lanes.get_mut(&next) else {
                continue;
            };
            let waiting = if has_room { lane.waiting.pop_front() } else { None };
            let is_empty = lane.waiting.is_empty();
            if let Some(turn) = waiting {
                inner.begin(&next);
                match turn.send(self.lanes.pass(&next)) {
                    Ok(()) => left = inner.turns.len() + usize::from(!is_empty),
                    // It does not wait any more. Its end is noted here: the lock is held.
                    Err(mut pass) => {
                        pass.is_void = true;
                        inner.end(&next);
                        left += 1;
                    }
                }
            }
            if !is_empty {
                inner.turns.push_back(next);
            }
        }
    }
}

impl Inner {
    fn has_room(&self, lane: &Lane) -> bool {
        let of_participant = self
            .of_participants
            .get(&lane.participant)
            .copied()
            .unwrap_or_default();
        let of_lane = self.lanes.get(lane).map_or(0, |lane| lane.calls);
        has_room(self.calls, of_participant, of_lane)
    }

    fn begin(&mut self, lane: &Lane) {
        self.calls += 1;
        *self.of_participants.entry(lane.participant.clone()).or_default() += 1;
        self.lanes.entry(lane.clone()).or_default().calls += 1;
    }

    fn end(&mut self, lane: &Lane) {
        self.calls -= 1;
        if let Some(calls) = self.of_participants.get_mut(&lane.participant) {
            *calls -= 1;
            if *calls == 0 {
                self.of_participants.remove(&lane.participant);
            }
        }
        if let Some(of_lane) = self.lanes.get_mut(lane) {
            of_lane.calls -= 1;
            if of_lane.calls == 0 && of_lane.waiting.is_empty() {
                self.lanes.remove(lane);
            }
        }
    }

    fn wait(&mut self, lane: &Lane) -> oneshot::Receiver<Pass> {
        let (turn, waits) = oneshot::channel();
        let waiting = &mut self.lanes.entry(lane.clone()).or_default().waiting;
        waiting.push_back(turn);
        if waiting.len() == 1 {
            self.turns.push_back(lane.clone());
        }
        waits
    }
}

/// Whether a call may go beside so many of the replica, of its participant, and of its lane.
fn has_room(of_all: usize, of_participant: usize, of_lane: usize) -> bool {
    let of_participants = MOST_OF_PARTICIPANT.saturating_sub(of_participant);
    let of_replica = MOST.saturating_sub(of_all + of_participant);
    of_lane < of_participants.min(of_replica)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use std::time::Duration;

    use tokio::{
        task::JoinSet,
        time::{self, Instant},
    };

    use super::*;

    /// Longer than anything hangs.
    const HANGS: Duration = Duration::from_secs(10);

    fn lane(participant: &str, saga: &str) -> Lane {
        Lane {
            participant: ("shop".into(), participant.into()),
            saga: saga.into(),
        }
    }

    /// So many calls that take so long.
    fn calls(lanes: &Lanes, lane: &Lane, count: usize, take: Duration) -> JoinSet<()> {
        let mut calls = JoinSet::new();
        for _ in 0..count {
            let (lanes, lane) = (lanes.clone(), lane.clone());
            calls.spawn(async move {
                let _pass = lanes.enter(&lane).await;
                time::sleep(take).await;
            });
        }
        calls
    }

    /// Waits until so many of a lane are on their way.
    pub(crate) async fn on_their_way(lanes: &Lanes, lane: &Lane, count: usize) {
        while lanes.0.lock().lanes.get(lane).map_or(0, |lane| lane.calls) < count {
            tokio::task::yield_now().await;
        }
    }

    /// How many participants, or sagas of one, that hang have how many calls each.
    fn share(hanging: usize, is_of_one: bool) -> usize {
        let mut of = vec![0; hanging];
        while let Some(place) = (0..hanging).find(|place| {
            let all = of.iter().sum();
            has_room(all, if is_of_one { all } else { of[*place] }, of[*place])
        }) {
            of[place] += 1;
            of.sort_unstable();
        }
        assert!(of[hanging - 1] - of[0] <= 1, "{of:?}");
        of[0]
    }

    #[test]
    fn however_many_hang_there_is_room_for_another() {
        let participants: Vec<_> = [1, 2, 6, 20, 100].map(|hanging| share(hanging, false)).to_vec();
        assert_eq!(participants, [128, 128, 128, 46, 10]);
        let sagas: Vec<_> = [1, 2, 6, 20, 100].map(|hanging| share(hanging, true)).to_vec();
        assert_eq!(sagas, [128, 85, 36, 12, 2]);
        for hanging in [1, 2, 6, 20, 100] {
            let (participant, saga) = (share(hanging, false), share(hanging, true));
            assert!(has_room(hanging * participant, 0, 0));
            assert!(has_room(hanging * saga, hanging * saga, 0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_does_not_delay_the_calls_of_another() {
        for (hanging, other) in [
            (lane("inventory", "place-order"), lane("payment", "place-order")),
            (
                lane("inventory", "place-order"),
                lane("inventory", "cancel-order"),
            ),
        ] {
            let lanes = Lanes::default();
            let _hangs = calls(&lanes, &hanging, 10_000, HANGS);
            on_their_way(&lanes, &hanging, MOST_OF_PARTICIPANT / 2).await;
            let begin = Instant::now();
            let take = Duration::from_millis(5);
            calls(&lanes, &other, 1_000, take).join_all().await;
            let took = begin.elapsed();
            println!("1000 calls of 5 ms beside 10000 that hang: {took:?}");
            assert!(took < Duration::from_millis(100), "{took:?}");
            assert!(lanes.0.lock().lanes[&hanging].calls <= MOST_OF_PARTICIPANT / 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lanes_of_a_participant_take_turns() {
        let lanes = Lanes::default();
        let second = Duration::from_secs(1);
        let mut many = calls(&lanes, &lane("inventory", "many"), 4_000, second);
        on_their_way(&lanes, &lane("inventory", "many"), MOST_OF_PARTICIPANT / 2).await;
        let begin = Instant::now();
        calls(&lanes, &lane("inventory", "few"), 200, second)
            .join_all()
            .await;
        let few = begin.elapsed();
        while many.join_next().await.is_some() {}
        println!("200 calls: {few:?}; 4000 beside them: {:?}", begin.elapsed());
        assert!(few <= 4 * second && begin.elapsed() > 20 * second);
        let inner = lanes.0.lock();
        assert_eq!(
            (inner.calls, inner.lanes.len(), inner.of_participants.len()),
            (0, 0, 0)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_does_not_wait_any_more_keeps_nobody_out() {
        let (lanes, lane) = (Lanes::default(), lane("inventory", "a"));
        let mut hangs = calls(&lanes, &lane, MOST_OF_PARTICIPANT / 2, HANGS);
        on_their_way(&lanes, &lane, MOST_OF_PARTICIPANT / 2).await;
        for _ in 0..10 {
            let late = time::timeout(Duration::from_secs(1) / 10, lanes.enter(&lane)).await;
            assert!(late.is_err(), "it is full");
        }
        let waits = calls(&lanes, &lane, 1, Duration::ZERO);
        hangs.join_next().await.unwrap().unwrap();
        waits.join_all().await;
        hangs.join_all().await;
        let inner = lanes.0.lock();
        assert_eq!((inner.calls, inner.lanes.len(), inner.turns.len()), (0, 0, 0));
    }
}
