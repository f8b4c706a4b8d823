//! Which stuck runs are news: each is told of once by a leader, and what an earlier leader told of is none.

use std::collections::BTreeSet;

use trellis_api::SagaStatus;
use trellis_operator_desired::saga::Engine;

/// Most runs that an Event names.
const SHOWN: usize = 3;
/// Most characters of a cause.
const LONGEST_CAUSE: usize = 200;

/// The runs that were told of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Told {
    runs: BTreeSet<String>,
    /// How many there were; the engine names some of them.
    count: u64,
}

impl Told {
    /// What an earlier leader has told of, by the status that it wrote: if there were as many, of all.
    pub(super) fn by_status(before: Option<&SagaStatus>, engine: &Engine) -> Self {
        let before = before
            .and_then(|status| status.runs.as_ref())
            .map_or(0, |runs| runs.stuck);
        let count = count(engine);
        if u64::try_from(before).is_ok_and(|before| before >= count) {
            let runs = named(engine).map(str::to_owned).collect();
            return Self { runs, count };
        }
        Self::default()
    }

    /// What is to be told of runs that are stuck and were not before; None: nothing.
    pub(super) fn news(&mut self, engine: &Engine) -> Option<String> {
        let count = count(engine);
        let new: Vec<&str> = named(engine).filter(|run| !self.runs.contains(*run)).collect();
        let is_news = !new.is_empty() || count > self.count;
        self.count = count;
        let new: Vec<String> = new.into_iter().map(str::to_owned).collect();
        // If all are named, the others are stuck no more; getting stuck again is news.
        if u64::try_from(named(engine).count()).is_ok_and(|named| named == count) {
            self.runs.retain(|run| named(engine).any(|named| named == run));
        }
        self.runs.extend(new.iter().cloned());
        let fix = format!(
            "look with: trellis saga show {}",
            new.first().map_or("RUN", String::as_str)
        );
        let shown = new.iter().take(SHOWN).map(|run| match cause(engine, run) {
            Some(cause) => format!("{run} ({cause})"),
            None => run.clone(),
        });
        let shown = shown.collect::<Vec<_>>().join("; ");
        let more = match new.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        is_news.then(|| match (count, new.len()) {
            (1, _) => format!("a run is stuck: {shown}; {fix}"),
            (_, 0) => format!("{count} runs are stuck; {fix}"),
            _ => format!("{count} runs are stuck, now also {shown}{more}; {fix}"),
        })
    }
}

fn count(engine: &Engine) -> u64 {
    engine.runs.values().map(|runs| runs.stuck).sum()
}

fn named(engine: &Engine) -> impl Iterator<Item = &str> {
    let runs = engine.runs.values().flat_map(|runs| &runs.stuck_runs);
    runs.map(String::as_str)
}

fn cause(engine: &Engine, run: &str) -> Option<String> {
    let cause = engine.runs.values().find_map(|runs| runs.causes.get(run))?;
    let short: String = cause.chars().take(LONGEST_CAUSE).collect();
    (!short.is_empty()).then_some(short)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use trellis_operator_desired::saga::Runs;

    use super::*;

    fn engine(stuck: u64, runs: &[&str]) -> Engine {
        let cause = |run: &&str| ((*run).to_owned(), "PivotUnknown at pay".to_owned());
        let runs = Runs {
            stuck,
            stuck_runs: runs.iter().map(|run| (*run).to_owned()).collect(),
            causes: runs.iter().map(cause).collect(),
            ..Runs::default()
        };
        Engine {
            runs: [("r".to_owned(), runs)].into(),
            ..Engine::default()
        }
    }

    #[test]
    fn each_run_is_told_of_once() {
        let mut told = Told::default();
        let first = told.news(&engine(1, &["A"])).unwrap();
        assert_eq!(
            first,
            "a run is stuck: A (PivotUnknown at pay); look with: trellis saga show A"
        );
        assert_eq!(told.news(&engine(1, &["A"])), None);
        let second = told.news(&engine(2, &["B", "A"])).unwrap();
        assert_eq!(
            second,
            "2 runs are stuck, now also B (PivotUnknown at pay); look with: trellis saga show B"
        );
        // One is ended and another gets stuck.
        assert!(told.news(&engine(2, &["C", "A"])).unwrap().contains("now also C"));
        // More than the engine names.
        let many = told.news(&engine(30, &["C", "A"])).unwrap();
        assert_eq!(many, "30 runs are stuck; look with: trellis saga show RUN");
        let many = told.news(&engine(34, &["D", "E", "F", "G", "A"])).unwrap();
        assert!(
            many.contains("now also D (PivotUnknown at pay); E") && many.contains("; and 1 more;"),
            "{many}"
        );
        assert_eq!(told.news(&engine(1, &["A"])), None);
        let again = told.news(&engine(2, &["D", "A"])).unwrap();
        assert!(
            again.contains("now also D"),
            "it was retried, and is stuck again: {again}"
        );
        assert_eq!(told.news(&engine(0, &[])), None);
        assert!(
            told.news(&engine(1, &["A"])).is_some(),
            "it was ended, or retried, and is stuck again"
        );
    }

    #[test]
    fn what_an_earlier_leader_told_of_is_no_news() {
        let status = |stuck: i64| -> SagaStatus {
            let runs = json!({"running": 0, "stuck": stuck, "completed": 0, "compensated": 0});
            serde_json::from_value(json!({"runs": runs})).unwrap()
        };
        let now = engine(2, &["B", "A"]);
        assert_eq!(Told::by_status(Some(&status(2)), &now).news(&now), None);
        assert!(Told::by_status(Some(&status(1)), &now).news(&now).is_some());
        assert!(Told::by_status(None, &now).news(&now).is_some());
    }
}
