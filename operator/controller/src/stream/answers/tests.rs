//! Who is counted, who is due, and what is reported; time is an argument.

use super::*;

fn key() -> Key {
    Key::new("shop", "order")
}

fn proxy(pod: &str) -> ProxyKey {
    (key(), pod.to_owned())
}

/// Pods with what they run by and, after a `!`, what they refused.
fn known(answers: &Answers) -> Vec<String> {
    let show = |(pod, answer): (String, Answer)| match answer.refused {
        Some(refused) => format!("{pod} {} !{}", answer.in_use, refused.digest),
        None => format!("{pod} {}", answer.in_use),
    };
    answers.of(&key()).into_iter().map(show).collect()
}

fn take_due(answers: &Answers) -> usize {
    std::mem::take(&mut answers.lock().due).len()
}

fn runs_by(digest: &str) -> Option<Answer> {
    Some(Answer {
        in_use: digest.to_owned(),
        refused: None,
    })
}

#[test]
fn a_refusal_lasts_until_a_document_that_is_not_older_is_in_use() {
    let answers = Arc::new(Answers::default());
    let mut order = answers.connected(key(), "order-1", "seven");
    order.refused(8, "eight", "a fault");
    order.acknowledged(7, "seven");
    assert_eq!(known(&answers), ["order-1 seven !eight"]);
    order.acknowledged(9, "nine");
    assert_eq!(known(&answers), ["order-1 nine"]);
}

#[test]
fn who_comes_back_in_time_was_never_gone_and_makes_nobody_due() {
    let answers = Arc::new(Answers::default());
    let mut first = answers.connected(key(), "order-1", "seven");
    first.refused(8, "eight", "a fault");
    assert_eq!(take_due(&answers), 1);
    drop(first);
    answers.lock().sweep(Instant::now());
    let second = answers.connected(key(), "order-1", "seven");
    answers.lock().sweep(Instant::now() + 2 * GRACE);
    assert_eq!(known(&answers), ["order-1 seven !eight"]);
    assert_eq!(take_due(&answers), 0);

    drop(second);
    answers.lock().sweep(Instant::now() + 2 * GRACE);
    assert!(known(&answers).is_empty());
    assert_eq!(take_due(&answers), 1, "one that stays away is missed");
    assert!(answers.lock().microservices.is_empty());
}

#[test]
fn a_proxy_that_moved_is_not_taken_along_by_where_it_came_from() {
    let answers = Arc::new(Answers::default());
    let mut report = answers.reported(10);
    assert!(report.told(proxy("order-1"), runs_by("seven")));
    let _here = answers.connected(key(), "order-1", "eight");
    assert!(report.told(proxy("order-1"), None));
    assert_eq!(known(&answers), ["order-1 eight"]);
    drop(report);
    answers.lock().sweep(Instant::now() + 2 * GRACE);
    assert_eq!(known(&answers), ["order-1 eight"]);
}

#[test]
fn a_report_that_ended_is_forgotten_after_a_grace() {
    let answers = Arc::new(Answers::default());
    let mut report = answers.reported(10);
    assert!(report.told(proxy("order-1"), runs_by("seven")));
    assert!(report.told(proxy("order-2"), runs_by("seven")));
    drop(report);
    let mut again = answers.reported(10);
    assert!(again.told(proxy("order-2"), runs_by("seven")));
    answers.lock().sweep(Instant::now());
    assert_eq!(known(&answers).len(), 2);
    answers.lock().sweep(Instant::now() + 2 * GRACE);
    assert_eq!(known(&answers), ["order-2 seven"]);
}

#[test]
fn a_report_tells_of_at_most_so_many_proxies() {
    let answers = Arc::new(Answers::default());
    let mut report = answers.reported(1);
    assert!(report.told(proxy("order-1"), runs_by("seven")));
    assert!(!report.told(proxy("order-2"), runs_by("seven")));
    assert!(
        report.told(proxy("order-1"), runs_by("eight")),
        "of a known one it does"
    );
    assert_eq!(known(&answers), ["order-1 eight"]);
}

#[test]
fn a_report_has_own_proxies_only_and_each_change_once() {
    let answers = Arc::new(Answers::default());
    let mut theirs = answers.reported(10);
    theirs.told(proxy("order-9"), runs_by("seven"));
    let mut own = answers.connected(key(), "order-1", "seven");
    let (_report, start) = answers.start_report();
    assert_eq!(start.len(), 1);
    assert_eq!(start[0].0, proxy("order-1"));

    theirs.told(proxy("order-9"), runs_by("eight"));
    own.acknowledged(8, "eight");
    own.acknowledged(8, "eight");
    assert_eq!(
        answers.lock().take_unreported(),
        [(proxy("order-1"), runs_by("eight"))]
    );
    drop(own);
    assert!(answers.lock().take_unreported().is_empty(), "it may come back");
    answers.lock().sweep(Instant::now() + 2 * GRACE);
    assert_eq!(answers.lock().take_unreported(), [(proxy("order-1"), None)]);
}

#[test]
fn when_a_report_ended_nothing_more_is_kept_for_it() {
    let answers = Arc::new(Answers::default());
    let _before = answers.connected(key(), "order-0", "seven");
    let (report, start) = answers.start_report();
    assert_eq!(start.len(), 1);
    drop(report);
    let connected: Vec<Connected> = (1..=1000)
        .map(|index| answers.connected(key(), &format!("order-{index}"), "seven"))
        .collect();
    assert_eq!(answers.lock().unreported, None);
    drop(connected);
    answers.lock().sweep(Instant::now() + 2 * GRACE);
    assert_eq!(answers.lock().unreported, None);
    assert_eq!(answers.start_report().1.len(), 1, "the next one starts anew");
}

#[test]
fn texts_are_cut() {
    let answers = Arc::new(Answers::default());
    let mut order = answers.connected(key(), &"p".repeat(5000), &"d".repeat(5000));
    order.refused(8, &"d".repeat(5000), &"f".repeat(5000));
    let (pod, answer) = answers.of(&key()).pop_first().unwrap();
    let refused = answer.refused.unwrap();
    assert_eq!((pod.len(), answer.in_use.len()), (LONGEST_NAME, LONGEST_DIGEST));
    assert_eq!(
        (refused.digest.len(), refused.fault.len()),
        (LONGEST_DIGEST, LONGEST_FAULT)
    );
    assert_eq!(proxy_key("shop".into(), "order".into(), "p".repeat(254)), None);
    assert_eq!(proxy_key("shop".into(), String::new(), "p".into()), None);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_answers_make_a_microservice_due_once() {
    let answers = Arc::new(Answers::default());
    let (triggers, mut due) = mpsc::unbounded_channel();
    let task = tokio::spawn(Arc::clone(&answers).trigger(triggers));
    let sessions: Vec<Connected> = (0..1000)
        .map(|index| answers.connected(key(), &format!("order-{index}"), "seven"))
        .collect();
    assert_eq!(due.recv().await.unwrap().0, key());
    let another = time::timeout(10 * COALESCE, due.recv()).await;
    assert!(another.is_err(), "{another:?}");
    assert_eq!(sessions.len(), answers.of(&key()).len());
    task.abort();
}
