//! From the spec to the definition: defaults.

use strum::IntoEnumIterator as _;
use trellis_api::{
    Duration, Saga,
    saga::{Call, Payload, SagaRetry, SagaRetryCondition, SagaSpec, Step, StepKind},
};
use trellis_saga_core::{
    definition::{self as core, Definition, Kind, Millis, RetryCondition},
    order::{self, Order},
};

/// How long one try may take.
const TIMEOUT: Millis = Millis(10_000);
/// The same if the saga's timeout leaves less.
const LEAST_TIMEOUT: Millis = Millis(1_000);
/// First pause before another try.
const INITIAL: Millis = Millis(500);
/// By how much pauses grow.
const FACTOR: f64 = 2.0;
/// Longest pause.
const MAX_INTERVAL: Millis = Millis(30_000);
/// Percent of a pause that is random.
const JITTER: u32 = 20;
/// How long actions before the pivot are tried.
const MAX_ELAPSED: Millis = Millis(60_000);
/// How long runs are kept that were completed, and that were compensated.
const KEPT: (Millis, Millis) = (Millis(7 * 86_400_000), Millis(30 * 86_400_000));
/// Elements at once, and longest list.
const ITEMS: (u32, u32) = (8, 100);

/// The definition that a Saga stands for.
#[must_use]
pub fn definition(saga: &Saga) -> Definition {
    let spec = &saga.spec;
    let mut steps = steps(spec, None);
    if let Some(timeout) = spec.timeout.map(millis) {
        let share = share(spec, &steps, timeout);
        steps = self::steps(spec, Some(Bound { saga: timeout, share }));
    }
    let retention = spec.retention.clone().unwrap_or_default();
    let on_stuck = spec.on_stuck.clone().unwrap_or_default();
    Definition {
        api_version: core::API_VERSION.to_owned(),
        namespace: saga.metadata.namespace.clone().unwrap_or_default(),
        name: saga.metadata.name.clone().unwrap_or_default(),
        input: spec.input.as_ref().map(payload),
        steps,
        timeout: spec.timeout.map(millis),
        retention: core::Retention {
            completed: retention.completed.map_or(KEPT.0, millis),
            compensated: retention.compensated.map_or(KEPT.1, millis),
        },
        concurrency: spec.concurrency,
        on_stuck: core::OnStuck {
            event: on_stuck.event.unwrap_or(true),
            webhook: on_stuck.webhook.map(|webhook| webhook.url),
        },
        secret: spec.secret.iter().cloned().collect(),
    }
}

fn steps(spec: &SagaSpec, bound: Option<Bound>) -> Vec<core::Step> {
    let above = std::iter::once(None).chain(spec.steps.iter().map(|step| Some(&step.name)));
    let steps = spec.steps.iter().zip(above);
    steps
        .map(|(step, above)| self::step(step, above, bound))
        .collect()
}

/// How long a try of an action that does not say it may take: as long as is usual, or as is left of the saga's timeout by those that say
/// it, on the longest way up to the pivot.
fn share(spec: &SagaSpec, steps: &[core::Step], timeout: Millis) -> Millis {
    let before_pivot = steps.iter().filter(|step| step.kind != Kind::Retriable).count();
    // With less the times that are written are at fault, which the check says.
    let even = Millis((timeout.0 / before_pivot.max(1) as u64).max(1));
    let least = LEAST_TIMEOUT.min(even);
    let Ok(order) = Order::of(steps) else {
        return least;
    };
    let fits = |share: u64| {
        let ends = order.ends(|step| {
            let written = spec.steps[step].action.timeout.or(spec.steps[step].timeout);
            written.map_or(share, Duration::as_millis)
        });
        let end = match order::pivot(steps) {
            Some(pivot) => ends[pivot].0,
            None => ends.iter().map(|end| end.0).max().unwrap_or_default(),
        };
        end <= timeout.0
    };
    let (mut share, mut too_long) = (least.0, TIMEOUT.0 + 1);
    while share + 1 < too_long {
        let middle = u64::midpoint(share, too_long);
        if fits(middle) {
            share = middle;
        } else {
            too_long = middle;
        }
    }
    Millis(share)
}

/// What is not said is never longer than this.
#[derive(Debug, Clone, Copy)]
struct Bound {
    /// How long the saga may take up to its pivot.
    saga: Millis,
    /// How long a try of an action may take that does not say it.
    share: Millis,
}

fn step(step: &Step, above: Option<&String>, bound: Option<Bound>) -> core::Step {
    let kind = kind(step.kind());
    let forward = Usual {
        bound: bound.filter(|_| kind != Kind::Retriable),
        elapsed: (kind == Kind::Compensatable).then_some(MAX_ELAPSED),
    };
    let backward = Usual {
        bound: None,
        elapsed: None,
    };
    core::Step {
        name: step.name.clone(),
        after: match &step.after {
            Some(named) => named.iter().cloned().collect(),
            None => above.into_iter().cloned().collect(),
        },
        when: step.when.clone(),
        for_each: step.for_each.as_ref().map(|for_each| core::ForEach {
            items: for_each.items.clone(),
            concurrency: for_each.concurrency.unwrap_or(ITEMS.0),
            max_items: for_each.max_items.unwrap_or(ITEMS.1),
        }),
        kind,
        action: call(&step.action, step, forward),
        compensation: step
            .compensation
            .as_ref()
            .map(|compensation| call(compensation, step, backward)),
        output: step.output.as_ref().map(payload),
    }
}

const fn kind(kind: StepKind) -> Kind {
    match kind {
        StepKind::Compensatable => Kind::Compensatable,
        StepKind::Pivot => Kind::Pivot,
        StepKind::Retriable => Kind::Retriable,
    }
}

/// What holds of a call that does not say otherwise.
#[derive(Debug, Clone, Copy)]
struct Usual {
    bound: Option<Bound>,
    elapsed: Option<Millis>,
}

fn call(call: &Call, step: &Step, usual: Usual) -> core::Call {
    let timeout = call.timeout.or(step.timeout);
    let share = usual.bound.map_or(TIMEOUT, |bound| bound.share);
    let timeout = timeout.map_or(share, millis);
    let elapsed = usual.elapsed.map(|elapsed| {
        let elapsed = elapsed.max(timeout);
        usual.bound.map_or(elapsed, |bound| elapsed.min(bound.saga))
    });
    let target = &call.call;
    let method: &str = target.method.as_ref();
    core::Call {
        call: core::HttpCall {
            microservice: target.microservice.clone(),
            port: target.port.clone(),
            method: method.to_owned(),
            path: target.path.clone(),
        },
        // Names of headers have no case.
        headers: call
            .headers
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .collect(),
        body: call.body.clone(),
        timeout,
        retry: retry(call.retry.as_ref().or(step.retry.as_ref()), elapsed),
    }
}

fn retry(settings: Option<&SagaRetry>, elapsed: Option<Millis>) -> core::Retry {
    let settings = settings.cloned().unwrap_or_default();
    let max_interval = settings.max_interval.map_or(MAX_INTERVAL, millis);
    core::Retry {
        // Who shortens the longest pause alone means the first as well.
        initial: settings.initial.map_or_else(|| INITIAL.min(max_interval), millis),
        factor: settings.factor.unwrap_or(FACTOR),
        max_interval,
        jitter: settings.jitter.unwrap_or(JITTER),
        max_elapsed: settings.max_elapsed.map(millis).or(elapsed),
        max_attempts: settings.max_attempts,
        retry_on: if settings.retry_on.is_empty() {
            RetryCondition::iter().collect()
        } else {
            settings.retry_on.iter().map(|on| condition(*on)).collect()
        },
    }
}

const fn condition(on: SagaRetryCondition) -> RetryCondition {
    match on {
        SagaRetryCondition::Unreachable => RetryCondition::Unreachable,
        SagaRetryCondition::Timeout => RetryCondition::Timeout,
        SagaRetryCondition::Throttled => RetryCondition::Throttled,
        SagaRetryCondition::ServerError => RetryCondition::ServerError,
    }
}

fn payload(payload: &Payload) -> core::Payload {
    core::Payload {
        schema: payload.schema.clone(),
    }
}

const fn millis(duration: Duration) -> Millis {
    Millis(duration.as_millis())
}
