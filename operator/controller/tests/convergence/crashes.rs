//! Nothing is left undone: an operator that dies at any of its writes, or loses the answer to it, leaves the next one with a
//! state from which it comes to the same end.
//!
//! ```text
//! undisturbed, three times:  act -> settled -> objects and writes: what must come out, and how many writes there are
//! for each write, for each fault:
//!     operator, told to fail at that write -> act -> it dies -> operator, undisturbed -> settled -> compare
//! ```
//!
//! The plans of a scenario have a namespace each, prepared together. The operator that mends what one plan has left is the one
//! that is told to fail in the next: faults are counted in one namespace only.
//!
//! Compared is every object, and how often each child was created, changed and deleted. Statuses are written as often as the
//! cluster changes under the operator's eyes, which is not the same in two runs: there is a bound.

use std::time::Instant;

use kube::Client;
use strum::{IntoStaticStr, VariantArray};
use trellis_testkit::control_plane::User;

use crate::{
    end_state::{EndState, of_operator},
    operator::{Launch, Operator},
    scenario::{REPLICAS, Scenario},
    settled::{settled, settled_or_ended},
    stage::Stage,
};

/// Undisturbed runs of a scenario.
const REFERENCES: usize = 3;
/// A crash may cost this many writes of the status more.
const MORE_STATUSES: u32 = 3;

/// What goes wrong; the operator's own names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
enum Fault {
    AbortBefore,
    AbortAfter,
    LoseAnswer,
    LoseAnswerThenAbort,
}

/// A fault at a write, counted from 1.
#[derive(Debug, Clone)]
struct Plan {
    fault: Fault,
    write: usize,
    namespace: String,
}

/// What undisturbed runs come to.
struct Reference {
    end: EndState,
    /// The fewest and the most writes, of children and status, that change nothing included.
    writes: (usize, usize),
    most_statuses: u32,
}

/// Which of the plans of a scenario are run.
type Choice = fn(usize, usize) -> Vec<(usize, Fault)>;

struct Matrix {
    client: Client,
    rival: Client,
    plans: u32,
    /// Plans for a write of a status that did not come: how many there are is up to the controllers of Kubernetes.
    missed: u32,
    faults: Vec<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_dies_or_loses_an_answer_leaves_nothing_undone() {
    Matrix::run(&Scenario::ALL, spread).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; cargo xtask soak crashes"]
async fn whichever_write_an_operator_dies_at_nothing_is_left_undone() {
    Matrix::run(&Scenario::ALL, every).await;
}

/// Every fault at every write.
fn every(_: usize, writes: usize) -> Vec<(usize, Fault)> {
    (1..=writes)
        .flat_map(|write| Fault::VARIANTS.iter().map(move |fault| (write, *fault)))
        .collect()
}

/// Three writes of each scenario, each with another fault.
fn spread(scenario: usize, writes: usize) -> Vec<(usize, Fault)> {
    let mut chosen = vec![1, writes.div_ceil(2), writes];
    chosen.retain(|write| (1..=writes).contains(write));
    chosen.dedup();
    let fault = |place: usize| Fault::VARIANTS[(scenario + place) % Fault::VARIANTS.len()];
    chosen
        .into_iter()
        .enumerate()
        .map(|(place, write)| (write, fault(place)))
        .collect()
}

impl Matrix {
    async fn run(scenarios: &[Scenario], choice: Choice) {
        let began = Instant::now();
        let mut stage = Stage::enter().await;
        let mut matrix = Self {
            client: stage.client(User::Test).await,
            rival: stage.client(User::Rival).await,
            plans: 0,
            missed: 0,
            faults: Vec::new(),
        };
        for (number, scenario) in scenarios.iter().enumerate() {
            matrix
                .scenario(&mut stage, *scenario, |writes| choice(number, writes))
                .await;
        }
        let Self {
            plans,
            missed,
            faults,
            ..
        } = matrix;
        println!(
            "{plans} plans in {:.0?}: {} differ, {missed} for a status that was not written",
            began.elapsed(),
            faults.len()
        );
        assert!(faults.is_empty(), "{}", faults.join("\n\n"));
    }

    async fn scenario(
        &mut self,
        stage: &mut Stage,
        scenario: Scenario,
        choice: impl Fn(usize) -> Vec<(usize, Fault)>,
    ) {
        let mut operator = Operator::start(&stage.cluster, &Launch::default()).await;
        let reference = self.reference(stage, scenario, &mut operator).await;
        let plans = choice(reference.writes.0);
        let namespaces = self
            .prepare(stage, scenario, &mut operator, plans.len().max(1))
            .await;
        operator.kill();
        if plans.is_empty() {
            self.killed(stage, scenario, &reference, &namespaces[0]).await;
        }
        let plans = plans
            .into_iter()
            .zip(&namespaces)
            .map(|((write, fault), namespace)| Plan {
                fault,
                write,
                namespace: namespace.clone(),
            });
        let mut broken: Option<(Plan, usize, Instant)> = None;
        for plan in plans.map(Some).chain([None]) {
            let launch = Launch {
                faults: plan.as_ref().map(Plan::text),
                ..Launch::default()
            };
            let mut operator = Operator::start(&stage.cluster, &launch).await;
            if let Some((plan, before, began)) = broken.take() {
                settled(
                    stage,
                    &self.client,
                    &mut operator,
                    std::slice::from_ref(&plan.namespace),
                )
                .await;
                self.compare(stage, scenario, &reference, &plan, before, began)
                    .await;
            }
            let Some(plan) = plan else { break };
            let before = stage.writes(&plan.namespace).len();
            let began = Instant::now();
            scenario.act(&self.client, &self.rival, &plan.namespace).await;
            let namespace = std::slice::from_ref(&plan.namespace);
            let alive = settled_or_ended(stage, &self.client, &mut operator, namespace).await;
            let dies = matches!(plan.fault, Fault::AbortBefore | Fault::AbortAfter);
            if alive && dies {
                let sure = reference.end.children.values().sum::<u32>() as usize;
                assert!(
                    plan.write > sure,
                    "{scenario:?}: write {} did not come",
                    plan.write
                );
                self.missed += 1;
            }
            broken = Some((plan, before, began));
        }
        for namespace in &namespaces {
            stage.leave(&self.client, namespace).await;
        }
    }

    /// Runs without a fault, and what they come to; they must agree.
    async fn reference(
        &mut self,
        stage: &mut Stage,
        scenario: Scenario,
        operator: &mut Operator,
    ) -> Reference {
        let namespaces = self.prepare(stage, scenario, operator, REFERENCES).await;
        let before: Vec<usize> = namespaces.iter().map(|name| stage.writes(name).len()).collect();
        for namespace in &namespaces {
            scenario.act(&self.client, &self.rival, namespace).await;
        }
        settled(stage, &self.client, operator, &namespaces).await;
        let mut ends = Vec::new();
        let mut counts = Vec::new();
        for (namespace, before) in namespaces.iter().zip(before) {
            let writes = stage.writes(namespace).split_off(before);
            counts.push(writes.iter().filter(|write| of_operator(write)).count());
            ends.push(EndState::read(&self.client, namespace, &writes).await);
            stage.leave(&self.client, namespace).await;
        }
        let most_statuses = ends.iter().map(|end| end.statuses).max().unwrap_or_default();
        let end = ends.remove(0);
        assert_eq!(wrong_replicas(scenario, &end), None, "{scenario:?}");
        if scenario.is_one_edit() {
            let once = end.children.values().all(|times| *times == 1);
            assert!(once, "{scenario:?} rolls more than once: {:?}", end.children);
        }
        for other in ends {
            if let Some(difference) = other.difference(&end) {
                panic!("{scenario:?} does not come to the same end twice:\n{difference}");
            }
        }
        let writes = (
            counts.iter().copied().min().unwrap_or_default(),
            counts.iter().copied().max().unwrap_or_default(),
        );
        println!(
            "{scenario:?}: {}-{} writes, {most_statuses} of them statuses; {:?}",
            writes.0, writes.1, end.children
        );
        Reference {
            end,
            writes,
            most_statuses,
        }
    }

    /// Namespaces in which the scenario may begin.
    async fn prepare(
        &self,
        stage: &mut Stage,
        scenario: Scenario,
        operator: &mut Operator,
        count: usize,
    ) -> Vec<String> {
        let mut namespaces = Vec::new();
        for _ in 0..count {
            let namespace = stage.namespace(&self.client).await;
            scenario.prepare(&self.client, &namespace).await;
            namespaces.push(namespace);
        }
        settled(stage, &self.client, operator, &namespaces).await;
        namespaces
    }

    /// A scenario in which the operator has nothing to write: it is killed just after.
    async fn killed(
        &mut self,
        stage: &mut Stage,
        scenario: Scenario,
        reference: &Reference,
        namespace: &str,
    ) {
        let plan = Plan {
            fault: Fault::AbortBefore,
            write: 0,
            namespace: namespace.to_owned(),
        };
        let operator = Operator::start(&stage.cluster, &Launch::default()).await;
        let (before, began) = (stage.writes(namespace).len(), Instant::now());
        scenario.act(&self.client, &self.rival, namespace).await;
        operator.kill();
        let mut operator = Operator::start(&stage.cluster, &Launch::default()).await;
        settled(stage, &self.client, &mut operator, &[namespace.to_owned()]).await;
        self.compare(stage, scenario, reference, &plan, before, began)
            .await;
    }

    async fn compare(
        &mut self,
        stage: &mut Stage,
        scenario: Scenario,
        reference: &Reference,
        plan: &Plan,
        before: usize,
        began: Instant,
    ) {
        let writes = stage.writes(&plan.namespace).split_off(before);
        let end = EndState::read(&self.client, &plan.namespace, &writes).await;
        let count = writes.iter().filter(|write| of_operator(write)).count();
        let mut difference = end.difference(&reference.end);
        if let Some(wrong) = wrong_replicas(scenario, &end) {
            difference.get_or_insert_default().push_str(&wrong);
        }
        if end.statuses > reference.most_statuses + MORE_STATUSES {
            difference.get_or_insert_default().push_str(&format!(
                "{} writes of the status, at most {} undisturbed",
                end.statuses, reference.most_statuses
            ));
        }
        let fault: &str = plan.fault.into();
        let line = format!(
            "{:<16} {:>2}/{:<2} {fault:<22} {count:>2} writes {:>5.1} s",
            format!("{scenario:?}"),
            plan.write,
            reference.writes.1,
            began.elapsed().as_secs_f64(),
        );
        println!(
            "{line}  {}",
            if difference.is_some() { "DIFFERS" } else { "equal" }
        );
        self.plans += 1;
        self.faults.extend(difference.map(|difference| {
            let writes: String = writes.iter().map(|write| format!("{write}\n")).collect();
            format!("{line}\n{difference}\n{writes}")
        }));
    }
}

/// Whether the number of replicas was lost on the way, or ends as another than it should.
fn wrong_replicas(scenario: Scenario, end: &EndState) -> Option<String> {
    let wanted = scenario.replicas()?;
    let wrong = end.replicas.iter().any(|replicas| *replicas < REPLICAS)
        || end.replicas.last().is_some_and(|last| *last != wanted);
    wrong.then(|| format!("replicas: {:?}, {wanted} wanted\n", end.replicas))
}

impl Plan {
    /// As the operator is told.
    fn text(&self) -> String {
        let fault: &str = self.fault.into();
        format!("{fault}:{}@{}", self.write, self.namespace)
    }
}
