//! What every store has to keep, whatever it is made of.

use std::time::Duration;

use trellis_saga_core::{
    event::{Event, Time},
    log::{self, Record},
    run::Status,
};
use trellis_saga_engine::{
    id::{Partition, RunId},
    store::{
        Append, Appended, Claim, Filter, Key, NewRecord, Replica, RevisionId, Standing, Start, Store,
        postgres::Postgres,
    },
};
use trellis_testkit::wait;

use crate::common;

const LONG: Duration = Duration::from_secs(60);

fn replica(id: u128) -> Replica {
    Replica {
        id,
        name: format!("replica-{id}"),
        address: format!("http://replica-{id}"),
    }
}

const fn standing(status: Status, ended_at: Option<u64>, purge_at: Option<u64>) -> Standing {
    Standing {
        status,
        is_queued: false,
        ended_at: match ended_at {
            Some(at) => Some(Time(at)),
            None => None,
        },
        purge_at: match purge_at {
            Some(at) => Some(Time(at)),
            None => None,
        },
    }
}

fn run(n: u128, partition: u16) -> RunId {
    RunId::new(1_000, n << 6, Partition(partition))
}

fn start(run: RunId, revision: RevisionId, key: Option<u128>) -> Start {
    Start {
        run,
        revision,
        key: key.map(|digest| Key {
            text: digest.to_string(),
            digest,
        }),
        input_digest: 7,
        started_at: Time(1_000),
        standing: standing(Status::Running, None, None),
    }
}

fn record(run: RunId, sequence: u32, is_of_start: bool) -> NewRecord {
    let record = Record {
        sequence: sequence.into(),
        at: Time(1_000),
        event: Event::Started { input: None, seed: 1 },
    };
    let mut bytes = Vec::new();
    log::append(&record, &mut bytes);
    NewRecord {
        run,
        sequence,
        is_of_start,
        bytes,
    }
}

/// A run and its first record.
fn begin(claims: &[Claim], runs: &[(RunId, Option<u128>)], revision: RevisionId) -> Append {
    Append {
        claims: claims.to_vec(),
        starts: runs
            .iter()
            .map(|(run, key)| start(*run, revision, *key))
            .collect(),
        records: runs.iter().map(|(run, _)| record(*run, 0, true)).collect(),
        changes: Vec::new(),
    }
}

async fn one_claim<S: Store>(store: &S, replica: u128, partition: u16) -> Claim {
    store.claim(replica, &[Partition(partition)]).await.unwrap()[0]
}

async fn claims_are_exclusive_and_grow<S: Store>(store: &S) {
    let (one, other) = (replica(1), replica(2));
    store.beat(&one, LONG).await.unwrap();
    let first = one_claim(store, one.id, 9).await;
    assert_eq!(
        store.claim(other.id, &[Partition(9)]).await.unwrap(),
        [],
        "its owner is there"
    );
    let members = store.beat(&other, LONG).await.unwrap();
    assert_eq!((members.replicas.len(), members.owners[9]), (2, Some(one.id)));
    // The same owner again, who does not know what became of its appends.
    let again = one_claim(store, one.id, 9).await;
    assert!(again.epoch > first.epoch);
    // A claim that was not given up for this epoch is not given up.
    store.release(one.id, &[first]).await.unwrap();
    assert_eq!(store.claim(other.id, &[Partition(9)]).await.unwrap(), []);
    store.release(one.id, &[again]).await.unwrap();
    assert!(one_claim(store, other.id, 9).await.epoch > again.epoch);
    store.leave(other.id).await.unwrap();
    assert_eq!(store.beat(&one, LONG).await.unwrap().owners[9], None);
    // One that vanishes without a word is succeeded when its time is up.
    let vanishing = replica(3);
    store.beat(&vanishing, Duration::from_millis(300)).await.unwrap();
    one_claim(store, vanishing.id, 9).await;
    wait::until("its time is up", async || {
        !store.claim(one.id, &[Partition(9)]).await.unwrap().is_empty()
    })
    .await;
}

async fn an_earlier_owner_writes_nothing<S: Store>(store: &S, revision: RevisionId) {
    let (kept, lost) = (one_claim(store, 1, 1).await, one_claim(store, 1, 2).await);
    store.leave(1).await.unwrap();
    one_claim(store, 2, 2).await;
    // Of one append, what is of the other partition is stored.
    let (here, there) = (run(1, 1), run(1, 2));
    let append = begin(&[kept, lost], &[(here, Some(11)), (there, Some(12))], revision);
    let appended = store.append(append).await.unwrap();
    assert_eq!((appended.lost, appended.taken), (vec![Partition(2)], vec![]));
    assert_eq!(store.run(here).await.unwrap().unwrap().epochs, [kept.epoch]);
    assert_eq!(store.run(there).await.unwrap(), None);
    assert_eq!(store.of_key(12).await.unwrap(), None);
}

async fn a_key_is_one_run<S: Store>(store: &S, revision: RevisionId) {
    let claims = [one_claim(store, 3, 3).await, one_claim(store, 3, 4).await];
    let (first, second, third) = (run(2, 3), run(2, 4), run(3, 3));
    let appended = store
        .append(begin(&claims, &[(first, Some(21))], revision))
        .await
        .unwrap();
    assert_eq!(appended, Appended::default());
    // Also within one append, and with records behind the first.
    let mut append = begin(&claims, &[(second, Some(21)), (third, Some(22))], revision);
    append.records.push(record(second, 1, true));
    let appended = store.append(append).await.unwrap();
    assert_eq!((appended.lost, appended.taken), (vec![], vec![second]));
    assert_eq!(store.run(second).await.unwrap(), None);
    assert_eq!(store.of_key(21).await.unwrap(), Some((first, 7)));
    assert_eq!(store.of_key(22).await.unwrap(), Some((third, 7)));
    // Whoever has none is a run of its own.
    let (fourth, fifth) = (run(4, 3), run(5, 3));
    let appended = store
        .append(begin(&claims, &[(fourth, None), (fifth, None)], revision))
        .await
        .unwrap();
    assert_eq!(appended, Appended::default());
}

async fn runs_are_read_as_they_were_written<S: Store>(store: &S, revision: RevisionId) {
    let claim = one_claim(store, 4, 5).await;
    let (open, ended) = (run(6, 5), run(7, 5));
    store
        .append(begin(&[claim], &[(open, Some(31)), (ended, None)], revision))
        .await
        .unwrap();
    let append = Append {
        claims: vec![claim],
        starts: Vec::new(),
        records: vec![
            record(open, 1, false),
            record(ended, 1, false),
            record(open, 2, false),
        ],
        changes: vec![
            (ended, standing(Status::Completed, Some(1_500), Some(2_000))),
            (open, standing(Status::Stuck, None, None)),
        ],
    };
    assert_eq!(store.append(append.clone()).await.unwrap(), Appended::default());
    // A record is there once: what is not known to be stored is not stored again.
    assert!(store.append(append).await.is_err());
    let read = store.run(open).await.unwrap().unwrap();
    assert_eq!(log::read(&read.log).unwrap().records.len(), 3);
    assert_eq!(
        (read.key.as_deref(), read.revision, read.started_at),
        (Some("31"), revision, Time(1_000))
    );
    assert_eq!(read.standing, standing(Status::Stuck, None, None));
    let live = store.live(&[Partition(5), Partition(6)]).await.unwrap();
    assert_eq!(live, [read], "the other has ended");

    let list = async |filter: Filter| -> Vec<RunId> {
        let listed = store.list(&Filter { limit: 10, ..filter }).await.unwrap();
        listed
            .into_iter()
            .filter(|run| run.run.partition() == Partition(5))
            .map(|run| run.run)
            .collect()
    };
    assert_eq!(list(Filter::default()).await, [ended, open], "the newest first");
    let stuck = Filter {
        statuses: vec![Status::Stuck],
        saga: Some("order".to_owned()),
        ..Filter::default()
    };
    assert_eq!(list(stuck).await, [open]);
    let before = Filter {
        before: Some(ended),
        namespace: Some("shop".to_owned()),
        ..Filter::default()
    };
    assert_eq!(list(before).await.first(), Some(&open));
    let elsewhere = Filter {
        namespace: Some("elsewhere".to_owned()),
        ..Filter::default()
    };
    assert_eq!(list(elsewhere).await, []);
    let counts = store.counts().await.unwrap();
    let count = |status| {
        counts
            .iter()
            .filter(|count| count.status == status)
            .map(|count| count.count)
            .sum::<u64>()
    };
    assert_eq!((count(Status::Stuck), count(Status::Completed)), (1, 1));

    assert_eq!(
        store.purge(Time(1_999), 10).await.unwrap(),
        0,
        "its time has not come"
    );
    assert_eq!(store.purge(Time(2_000), 10).await.unwrap(), 1);
    assert_eq!(store.run(ended).await.unwrap(), None);
    assert!(store.run(open).await.unwrap().is_some());
}

async fn a_revision_is_current_and_is_kept_while_a_run_is_made_of_it<S: Store>(store: &S, first: RevisionId) {
    let other = common::revision("order", 3);
    let second = store.put_revision(&other).await.unwrap();
    let current = async || -> Vec<RevisionId> {
        let all = store.revisions().await.unwrap();
        all.into_iter()
            .filter(|(_, revision)| revision.is_current)
            .map(|(id, _)| id)
            .collect()
    };
    assert_eq!(current().await, [second], "there is one");
    assert!(
        !store.forget_revision(first).await.unwrap(),
        "runs are made of it"
    );
    assert!(!store.forget_revision(second).await.unwrap(), "new runs are");
    let mut withdrawn = other;
    withdrawn.is_current = false;
    assert_eq!(store.put_revision(&withdrawn).await.unwrap(), second);
    assert_eq!(current().await, []);
    assert!(store.forget_revision(second).await.unwrap());
    assert_eq!(store.revisions().await.unwrap().len(), 1);
}

async fn runs_wait_for_their_turn_the_oldest_first<S: Store>(store: &S) {
    let old = store.put_revision(&common::revision("turns", 2)).await.unwrap();
    let new = store.put_revision(&common::revision("turns", 3)).await.unwrap();
    let (mine, other) = (one_claim(store, 5, 7).await, one_claim(store, 6, 8).await);
    let runs = [run(10, 7), run(11, 8), run(12, 7), run(13, 7)];
    for (claim, partition, revision) in [(mine, 7, old), (other, 8, new)] {
        let of: Vec<_> = runs
            .iter()
            .filter(|run| run.partition() == Partition(partition))
            .map(|run| (*run, None))
            .collect();
        let mut append = begin(&[claim], &of, revision);
        append
            .starts
            .iter_mut()
            .for_each(|start| start.standing.is_queued = true);
        assert_eq!(store.append(append).await.unwrap(), Appended::default());
    }
    let admit = async |most, claim: Claim| {
        let mut admitted = store.admit("shop", "turns", most, &[claim]).await.unwrap();
        admitted.sort();
        admitted
    };
    assert_eq!(admit(Some(0), mine).await, []);
    assert_eq!(admit(Some(1), other).await, [], "another is older");
    assert_eq!(admit(Some(1), mine).await, [runs[0]]);
    assert_eq!(
        admit(Some(1), mine).await,
        [runs[0]],
        "until it is known to have begun"
    );
    let begun = async |run: RunId, claim: Claim, standing: Standing| {
        let append = Append {
            claims: vec![claim],
            records: vec![record(run, 1, false)],
            changes: vec![(run, standing)],
            ..Append::default()
        };
        assert_eq!(store.append(append).await.unwrap(), Appended::default());
    };
    begun(runs[0], mine, standing(Status::Running, None, None)).await;
    assert_eq!(admit(Some(1), mine).await, [], "it is under way");
    assert_eq!(
        admit(Some(3), other).await,
        [runs[1]],
        "of the two oldest one is there"
    );
    let earlier = Claim {
        epoch: mine.epoch - 1,
        ..mine
    };
    assert_eq!(
        admit(Some(9), earlier).await,
        [],
        "an earlier owner admits nothing"
    );
    // Those that wait are running, for all who look.
    let counts = store.counts().await.unwrap();
    let of = |revision: &str| {
        counts
            .iter()
            .filter(|count| count.saga == "turns" && count.revision == revision)
            .count()
    };
    assert_eq!(of(&common::revision("turns", 2).revision), 1);
    let filter = Filter {
        saga: Some("turns".to_owned()),
        statuses: vec![Status::Running],
        limit: 10,
        ..Filter::default()
    };
    let listed = store.list(&filter).await.unwrap();
    let queued: Vec<_> = listed
        .iter()
        .map(|run| (run.run, run.standing.is_queued))
        .collect();
    assert_eq!(
        queued,
        [
            (runs[3], true),
            (runs[2], true),
            (runs[1], true),
            (runs[0], false)
        ]
    );
    assert_eq!(admit(None, mine).await, runs[2..], "all of them");
    let live = store.live(&[Partition(7)]).await.unwrap();
    assert_eq!(live.len(), 3);
}

async fn conforms<S: Store>(store: &S) {
    let revision = store.put_revision(&common::revision("order", 2)).await.unwrap();
    an_earlier_owner_writes_nothing(store, revision).await;
    a_key_is_one_run(store, revision).await;
    runs_are_read_as_they_were_written(store, revision).await;
    a_revision_is_current_and_is_kept_while_a_run_is_made_of_it(store, revision).await;
    claims_are_exclusive_and_grow(store).await;
    runs_wait_for_their_turn_the_oldest_first(store).await;
}

#[tokio::test]
async fn postgresql_conforms() {
    let (_database, options) = common::database().await;
    conforms(&Postgres::new(&options)).await;
}

#[tokio::test]
async fn a_database_that_goes_away_and_comes_back_is_found_again() {
    let (database, options) = common::database().await;
    let store = Postgres::new(&options);
    store.beat(&replica(1), LONG).await.unwrap();
    database.go_away().await;
    assert!(store.beat(&replica(1), LONG).await.is_err());
    database.come_back().await;
    wait::until("it is found again", async || {
        store.beat(&replica(1), LONG).await.is_ok()
    })
    .await;
}
