//! The limits of a document, compiled.

use std::{
    borrow::Cow,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use smallvec::SmallVec;
use trellis_expression::{Expression, request, request::HttpRequest, types::Type, value::Value};
use trellis_proxy_config::{
    RateLimit,
    limit::{Algorithm, Rule},
    path,
};
use trellis_rate::{Charge, Decision, KeyMaker, Limit, LimitSet, Limiter, Mode, Moment, Rate};

use crate::{body::Request, outbound::name_of, route::Methods};

/// Callers whose counters are kept apart, per limit; beyond it they share one (see `trellis_rate`).
const MOST_KEYS: usize = 100_000;

/// All limits of a document.
#[derive(Debug)]
pub(crate) struct Limits {
    members: Vec<Member>,
    set: LimitSet,
    keys: KeyMaker,
}

#[derive(Debug)]
struct Member {
    settings: RateLimit,
    limit: Limit,
    counting: Arc<Counting>,
    counters: Vec<Expression>,
    when: Vec<Expression>,
    cost: Option<Expression>,
    route: Option<Prefix>,
}

/// What outlives documents.
#[derive(Debug)]
struct Counting {
    limiter: Arc<Limiter>,
    tallies: Tallies,
}

/// What happened by a limit; for metrics.
#[derive(Debug, Default)]
pub(crate) struct Tallies {
    /// Rates that refused a request.
    pub(crate) refused: AtomicU64,
    /// Rates in shadow mode that would have.
    pub(crate) in_shadow: AtomicU64,
}

/// The requests of a route.
#[derive(Debug)]
struct Prefix {
    elements: Vec<String>,
    methods: Methods,
}

impl Limits {
    /// Compiles the limits of a document. What `previous` has counted by the same limits is kept.
    pub(crate) fn compile(
        settings: &[RateLimit],
        previous: Option<&Self>,
        faults: &mut Vec<String>,
    ) -> Arc<Self> {
        let mut members = Vec::new();
        for (i, settings) in settings.iter().enumerate() {
            match Member::compile(settings, previous) {
                Ok(member) => members.push(member),
                Err(found) => faults.extend(
                    found
                        .into_iter()
                        .map(|(field, fault)| format!("config.limits[{i}].{field}: {fault}")),
                ),
            }
        }
        let set = LimitSet::new(members.iter().map(|member| {
            let mode = if member.settings.shadow {
                Mode::Shadow
            } else {
                Mode::Enforce
            };
            (Arc::clone(&member.counting.limiter), mode)
        }));
        let keys = previous.map_or_else(|| KeyMaker::new(rand::random()), |previous| previous.keys);
        Arc::new(Self { members, set, keys })
    }

    /// Lets counters that were carried over go by their new rates. To be called once the document is in use.
    pub(crate) fn settle(&self, now: Moment) {
        for member in &self.members {
            member.counting.limiter.update(&member.limit, now);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Decides on a request, over all limits that apply to it.
    pub(super) fn decide(&self, request: &Request, client: IpAddr, now: Moment) -> Decision {
        let raw = request.uri().path();
        // One that can be read in two ways is shown as it came.
        let path = path::canonical(raw).map_or(Cow::Borrowed(raw), Cow::Owned);
        let host = request.headers().get(http::header::HOST);
        let host = name_of(host.and_then(|host| host.to_str().ok()).unwrap_or_default());
        let seen = HttpRequest {
            method: request.method(),
            host: &host,
            path: &path,
            query: request.uri().query(),
            headers: request.headers(),
            source: client,
        };
        self.set.decide(now, |position| {
            let member = self.members.get(position)?;
            member.charge(raw, &seen, &self.keys)
        })
    }

    /// The settings of a limit, by its place.
    pub(super) fn settings(&self, member: usize) -> Option<&RateLimit> {
        self.members.get(member).map(|member| &member.settings)
    }

    /// What happened by a limit, by its place.
    pub(super) fn tallies(&self, member: usize) -> &Tallies {
        &self.members[member].counting.tallies
    }

    /// Every limit with what happened by it, how many counters it has, and how many were forgotten for lack of room or use.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&RateLimit, &Tallies, usize, u64)> {
        self.members.iter().map(|member| {
            let occupancy = member.counting.limiter.occupancy();
            let Counting { tallies, .. } = &*member.counting;
            (&member.settings, tallies, occupancy.keys, occupancy.evicted)
        })
    }
}

impl Member {
    fn compile(settings: &RateLimit, previous: Option<&Limits>) -> Result<Self, Vec<(String, String)>> {
        let mut faults = Vec::new();
        let limit = limit(&settings.rule, &mut faults);
        let environment = request::environment();
        let mut compile = |field: String, source: &str, types: &[Type]| {
            let compiled = Expression::compile(source, &environment, types);
            compiled
                .map_err(|found| faults.extend(found.iter().map(|fault| (field.clone(), fault.to_string()))))
                .ok()
        };
        let key = [Type::String, Type::Int, Type::Uint, Type::Bool];
        let mut all = |field: &str, sources: &[String], types: &[Type]| -> Vec<Expression> {
            let sources = sources.iter().enumerate();
            sources
                .filter_map(|(i, source)| compile(format!("{field}[{i}]"), source, types))
                .collect()
        };
        let counters = all("counters", &settings.counters, &key);
        let when = all("when", &settings.when, &[Type::Bool]);
        let cost = settings
            .cost
            .as_ref()
            .and_then(|source| compile("cost".to_owned(), source, &[Type::Int, Type::Uint]));
        let (Some(limit), true) = (limit, faults.is_empty()) else {
            return Err(faults);
        };
        let route = settings.route.as_ref().map(|route| Prefix {
            // A path that no request has limits nothing; the operator refuses it.
            elements: path::elements(&route.path)
                .filter_map(|element| element.ok().map(Cow::into_owned))
                .collect(),
            methods: Methods::new(&route.methods),
        });
        let same = previous.and_then(|previous| {
            let mut members = previous.members.iter();
            members.find(|member| same_counters(&member.settings, settings))
        });
        let counting = same.map_or_else(
            || {
                let limiter = if settings.counters.is_empty() {
                    Limiter::new(&limit)
                } else {
                    Limiter::keyed(&limit, MOST_KEYS)
                };
                Arc::new(Counting {
                    limiter: Arc::new(limiter),
                    tallies: Tallies::default(),
                })
            },
            |same| Arc::clone(&same.counting),
        );
        Ok(Self {
            settings: settings.clone(),
            limit,
            counting,
            counters,
            when,
            cost,
            route,
        })
    }

    /// What a request asks of this limit; None if it does not apply.
    fn charge(&self, path: &str, seen: &HttpRequest<'_>, keys: &KeyMaker) -> Option<Charge> {
        let on_route = self.route.as_ref().is_none_or(|route| route.takes(path, seen));
        if !on_route
            || !self
                .when
                .iter()
                .all(|condition| condition.holds(seen).unwrap_or(false))
        {
            return None;
        }
        let mut charge = Charge::ONE;
        if !self.counters.is_empty() {
            let mut values: SmallVec<[Cow<'_, str>; 4]> = SmallVec::new();
            for counter in &self.counters {
                values.push(counter.key(seen).ok()?);
            }
            charge = Charge::of(keys.key(values.iter().map(|value| value.as_bytes())));
        }
        if let Some(cost) = &self.cost {
            let cost = match cost.evaluate(seen) {
                Ok(Value::Int(cost)) => u32::try_from(cost.max(0)).unwrap_or(u32::MAX),
                Ok(Value::Uint(cost)) => u32::try_from(cost).unwrap_or(u32::MAX),
                // Nobody gets in for nothing because a header is missing.
                _ => 1,
            };
            charge = charge.costing(cost);
        }
        Some(charge)
    }
}

impl Prefix {
    /// Whether it takes a request. A path that can be read in two ways may be meant for it.
    fn takes(&self, path: &str, seen: &HttpRequest<'_>) -> bool {
        if !self.methods.serve(seen.method) {
            return false;
        }
        let mut elements = path::elements(path);
        for wanted in &self.elements {
            match elements.next() {
                Some(Ok(element)) if element == *wanted => {}
                Some(Err(_)) => return true,
                Some(Ok(_)) | None => return false,
            }
        }
        true
    }
}

/// Whether two documents mean the same counters.
fn same_counters(one: &RateLimit, other: &RateLimit) -> bool {
    let route = |limit: &RateLimit| limit.route.as_ref().map(|route| route.name.clone());
    one.policy == other.policy
        && one.name == other.name
        && route(one) == route(other)
        && one.counters == other.counters
}

fn limit(rule: &Rule, faults: &mut Vec<(String, String)>) -> Option<Limit> {
    let (algorithm, rates) = match rule {
        Rule::Concurrency(most) => {
            let most = NonZeroU32::new(*most);
            if most.is_none() {
                faults.push(("rule".to_owned(), "nothing may be under way".to_owned()));
            }
            return most.map(Limit::by_concurrency);
        }
        Rule::Rates { algorithm, rates } => (*algorithm, rates),
    };
    let algorithm = match algorithm {
        Algorithm::TokenBucket => trellis_rate::Algorithm::TokenBucket,
        Algorithm::SlidingWindow => trellis_rate::Algorithm::SlidingWindow,
        Algorithm::FixedWindow => trellis_rate::Algorithm::FixedWindow,
    };
    let rates = rates.iter().map(|rate| Rate {
        limit: NonZeroU32::new(rate.limit).unwrap_or(NonZeroU32::MIN),
        window: Duration::from_millis(rate.window),
        burst: rate.burst.and_then(NonZeroU32::new),
    });
    Limit::by_rates(algorithm, rates.collect())
        .map_err(|found| faults.extend(found.iter().map(|fault| ("rule".to_owned(), fault.to_string()))))
        .ok()
}
