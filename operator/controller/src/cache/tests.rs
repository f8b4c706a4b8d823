//! What the cache makes of events, lists and own writes.

use std::sync::Mutex;

use k8s_openapi::api::core::v1::ConfigMap;
use trellis_api::names;

use super::*;

fn object(name: &str, uid: &str, version: u64) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.namespace = Some("shop".to_owned());
    object.metadata.name = Some(name.to_owned());
    object.metadata.uid = Some(uid.to_owned());
    object.metadata.resource_version = Some(version.to_string());
    object.metadata.labels = Some([(names::LABEL_MICROSERVICE.to_owned(), "user".to_owned())].into());
    object
}

fn describe(changes: &[Change<ConfigMap>]) -> Vec<String> {
    let mut lines: Vec<String> = changes
        .iter()
        .map(|change| match change {
            Change::Set { before, after } => {
                format!(
                    "{}: {} -> {}",
                    Key::of(&**after).name,
                    before.as_deref().map_or(0, version),
                    version(&**after)
                )
            }
            Change::Removed(object) => format!("{}: gone", Key::of(&**object).name),
        })
        .collect();
    lines.sort();
    lines
}

fn observe(cache: &Cache<ConfigMap>, event: Event<ConfigMap>) -> Vec<Change<ConfigMap>> {
    cache.observe(event).collect()
}

fn list(cache: &Cache<ConfigMap>, objects: Vec<ConfigMap>) -> Vec<String> {
    observe(cache, Event::Init);
    for object in objects {
        assert!(observe(cache, Event::InitApply(object)).is_empty());
    }
    describe(&observe(cache, Event::InitDone))
}

#[test]
fn what_an_own_write_brings_along_is_a_change() {
    let cache = Cache::packed();
    observe(&cache, Event::Apply(object("a", "1", 10)));
    let (_, change) = cache.written(object("a", "1", 12));
    assert!(change.is_some());
    assert!(
        observe(&cache, Event::Apply(object("a", "1", 11))).is_empty(),
        "older"
    );
    assert!(
        observe(&cache, Event::Apply(object("a", "1", 12))).is_empty(),
        "known"
    );
}

#[test]
fn a_listener_hears_of_a_change_once_whether_the_watch_or_the_own_write_is_first() {
    let cache = Cache::default();
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&heard);
    cache.tell(move |change| log.lock().unwrap().extend(describe(std::slice::from_ref(change))));
    observe(&cache, Event::Apply(object("a", "1", 10)));
    cache.written(object("a", "1", 12));
    observe(&cache, Event::Apply(object("a", "1", 12)));
    observe(&cache, Event::Apply(object("a", "1", 13)));
    cache.written(object("a", "1", 13));
    cache.deleted(&object("a", "1", 13));
    assert_eq!(
        *heard.lock().unwrap(),
        ["a: 0 -> 10", "a: 10 -> 12", "a: 12 -> 13", "a: gone"]
    );
}

#[test]
fn a_relist_tells_what_is_new_changed_and_gone() {
    let cache = Cache::packed();
    list(
        &cache,
        vec![object("a", "1", 10), object("b", "2", 11), object("c", "3", 12)],
    );
    let changes = list(
        &cache,
        vec![object("b", "2", 11), object("c", "3", 20), object("d", "4", 21)],
    );
    assert_eq!(changes, ["a: gone", "c: 12 -> 20", "d: 0 -> 21"]);
    assert_eq!(cache.of_microservice(&Key::new("shop", "user")).len(), 3);
}

#[test]
fn an_own_write_is_read_at_once_and_its_watch_event_is_no_change() {
    let cache = Cache::packed();
    list(&cache, vec![object("a", "1", 10)]);
    cache.written(object("a", "1", 12));
    assert!(observe(&cache, Event::Apply(object("a", "1", 11))).is_empty());
    assert!(observe(&cache, Event::Apply(object("a", "1", 12))).is_empty());
    assert_eq!(
        describe(&observe(&cache, Event::Apply(object("a", "1", 13)))),
        ["a: 12 -> 13"]
    );
}

#[test]
fn an_own_write_survives_a_list_that_was_under_way_and_no_second_one() {
    let cache = Cache::packed();
    observe(&cache, Event::Init);
    cache.written(object("a", "1", 12));
    assert!(observe(&cache, Event::InitDone).is_empty());
    assert!(cache.get(&Key::new("shop", "a")).is_some());
    assert_eq!(list(&cache, vec![]), ["a: gone"]);
}

#[test]
fn an_own_write_that_was_undone_while_nobody_could_look_is_gone_with_the_next_list() {
    let cache = Cache::packed();
    list(&cache, vec![]);
    cache.written(object("a", "1", 12));
    assert_eq!(list(&cache, vec![]), ["a: gone"]);
}

#[test]
fn a_late_delete_of_a_predecessor_leaves_the_successor() {
    let cache = Cache::packed();
    list(&cache, vec![object("a", "old", 10)]);
    cache.written(object("a", "new", 15));
    assert!(observe(&cache, Event::Delete(object("a", "old", 14))).is_empty());
    assert_eq!(
        describe(&observe(&cache, Event::Delete(object("a", "new", 16)))),
        ["a: gone"]
    );
    assert!(cache.of_microservice(&Key::new("shop", "user")).is_empty());
}

#[test]
fn a_late_answer_to_an_own_write_brings_nothing_back() {
    let cache = Cache::packed();
    observe(&cache, Event::Apply(object("a", "1", 10)));
    observe(&cache, Event::Apply(object("a", "1", 11)));
    // Somebody took away the label by which it is watched.
    assert_eq!(
        describe(&observe(&cache, Event::Delete(object("a", "1", 12)))),
        ["a: gone"]
    );
    assert!(cache.written(object("a", "1", 11)).1.is_none());
    assert!(cache.get(&Key::new("shop", "a")).is_none());
    // A look shows it without the label. What was put back since is younger.
    assert!(cache.written(object("a", "1", 12)).1.is_some());
    assert!(cache.written(object("a", "1", 13)).1.is_some());
    assert!(
        observe(&cache, Event::Delete(object("a", "1", 12))).is_empty(),
        "late"
    );
    assert!(cache.get(&Key::new("shop", "a")).is_some());
}

#[test]
fn a_cluster_restored_from_a_backup_is_believed() {
    let cache = Cache::packed();
    list(&cache, vec![object("a", "1", 100)]);
    assert_eq!(list(&cache, vec![object("a", "1", 50)]), ["a: 100 -> 50"]);
}

#[test]
fn a_broken_list_leaves_what_was_known() {
    let cache = Cache::packed();
    list(&cache, vec![object("a", "1", 10)]);
    observe(&cache, Event::Init);
    observe(&cache, Event::InitApply(object("b", "2", 20)));
    assert_eq!(list(&cache, vec![object("a", "1", 10)]), Vec::<String>::new());
    assert!(cache.get(&Key::new("shop", "b")).is_none());
}

#[test]
fn a_pass_never_reads_a_boot_document_older_than_its_own_last_write() {
    let cache = Cache::packed();
    let read = || {
        cache
            .get(&Key::new("shop", "user-proxy"))
            .map(|object| version(&*object))
    };
    let document = |number| object("user-proxy", "1", number);
    list(&cache, vec![document(10)]);

    // A list that was taken before the write ends after it; then the watch resumes from that list.
    observe(&cache, Event::Init);
    observe(&cache, Event::InitApply(document(10)));
    cache.written(document(12));
    assert!(observe(&cache, Event::InitDone).is_empty());
    assert_eq!(read(), Some(12));
    for late in [11, 12] {
        assert!(observe(&cache, Event::Apply(document(late))).is_empty());
        assert_eq!(read(), Some(12));
    }

    // A list that broke off and began again shows what was written before its second begin.
    observe(&cache, Event::Init);
    observe(&cache, Event::InitApply(document(12)));
    cache.written(document(14));
    observe(&cache, Event::Init);
    observe(&cache, Event::InitApply(document(14)));
    assert!(observe(&cache, Event::InitDone).is_empty());
    assert_eq!(read(), Some(14));
}
