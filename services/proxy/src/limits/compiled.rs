//! The limits of a document, compiled.

use std::{
    borrow::Cow,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use smallvec::SmallVec;
use tokio::sync::Notify;
use trellis_expression::{Expression, request, request::HttpRequest, types::Type, value::Value};
use trellis_proxy_config::{
    RateLimit,
    limit::{self, Algorithm, Rule},
    path,
};
use trellis_quota_stream::{v1, wire};
use trellis_rate::{
    Charge, Decision, KeyMaker, Limit, LimitSet, Limiter, Mode, Moment, Rate, Reading, Share,
    lease::{OnLoss, with_drift},
    limit::LONGEST_WINDOW,
};

use super::answer::Told;
use crate::{
    body::Request,
    outbound::name_of,
    quota::{Leases, Part},
    route::Methods,
};

/// Callers whose counters are kept apart, per limit; beyond it they share one (see `trellis_rate`).
const MOST_KEYS: usize = 100_000;

/// All limits of a document.
#[derive(Debug)]
pub(crate) struct Limits {
    members: Vec<Member>,
    set: LimitSet,
    keys: KeyMaker,
    /// Told when a part of a shared limit is to be asked for at once.
    wake: Arc<Notify>,
}

/// What a request asks of each limit, by the limit's place.
pub(super) struct Charges(SmallVec<[Option<Asked>; 4]>);

/// Parts that a request waits for.
pub(super) type Parts = SmallVec<[Arc<Part>; 1]>;

/// What a request asks of a limit.
struct Asked {
    charge: Charge,
    /// This pod's part of the counter, if the limit is shared.
    part: Option<Arc<Part>>,
    is_shadow: bool,
}

/// A limit that all pods of the service share.
#[derive(Debug, Clone)]
pub(crate) struct Leased {
    settings: Arc<RateLimit>,
    /// What is leased of it.
    pub(crate) leases: Arc<Leases>,
    /// Counts what is used.
    pub(crate) limiter: Arc<Limiter>,
    /// What amounts are parts of.
    pub(crate) whole: NonZeroU32,
    memory: Duration,
    replicas: u32,
    on_loss: OnLoss,
}

#[derive(Debug)]
struct Member {
    settings: Arc<RateLimit>,
    told: Box<[Told]>,
    limit: Limit,
    /// If all pods share it.
    shared: Option<Shared>,
    counting: Arc<Counting>,
    counters: Vec<Expression>,
    when: Vec<Expression>,
    cost: Option<Expression>,
    route: Option<Prefix>,
}

/// On what terms a limit is shared.
#[derive(Debug)]
struct Shared {
    whole: NonZeroU32,
    memory: Duration,
    replicas: u32,
    on_loss: OnLoss,
}

/// What outlives documents.
#[derive(Debug)]
struct Counting {
    limiter: Arc<Limiter>,
    /// Empty while the limit is not shared.
    leases: Arc<Leases>,
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
        let wake = previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.wake));
        for (i, settings) in settings.iter().enumerate() {
            match Member::compile(settings, previous, &wake) {
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
        Arc::new(Self {
            members,
            set,
            keys,
            wake,
        })
    }

    /// Lets counters that were carried over go by their new rates. To be called once the document is in use.
    pub(crate) fn settle(&self, now: Moment) {
        for member in &self.members {
            member.counting.limiter.update(&member.limit, now);
            match &member.shared {
                Some(shared) => member.counting.leases.change(shared.on_loss),
                None => member.counting.leases.clear(),
            }
        }
    }

    /// The limits that all pods share.
    pub(crate) fn leased(&self) -> impl Iterator<Item = Leased> {
        self.members.iter().filter_map(|member| {
            let shared = member.shared.as_ref()?;
            Some(Leased {
                settings: Arc::clone(&member.settings),
                leases: Arc::clone(&member.counting.leases),
                limiter: Arc::clone(&member.counting.limiter),
                whole: shared.whole,
                memory: shared.memory,
                replicas: shared.replicas,
                on_loss: shared.on_loss,
            })
        })
    }

    /// What is told when a part of a shared limit is to be asked for at once.
    pub(crate) fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// What a request asks of the limits.
    pub(super) fn charges(&self, request: &Request, client: IpAddr) -> Charges {
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
        let members = self.members.iter();
        Charges(
            members
                .map(|member| member.charge(raw, &seen, &self.keys))
                .collect(),
        )
    }

    /// Decides on a request, over all limits that apply to it; for the first time or again.
    pub(super) fn decide(&self, charges: &Charges, now: Moment, is_first: bool) -> Decision {
        let decision = self.set.decide(now, |place| {
            let asked = charges.0.get(place)?.as_ref()?;
            match &asked.part {
                None => Some(asked.charge),
                Some(part) => {
                    if is_first {
                        part.wanted(asked.charge.cost, now);
                    }
                    Some(asked.charge.within(part.share(now)?))
                }
            }
        });
        for reading in decision.readings() {
            if let Some(part) = charges.part(reading.member)
                && !reading.quota.admits()
            {
                self.members[reading.member].counting.leases.press(part, now);
            }
        }
        decision
    }

    /// The parts that a request would have room in if they grew, and may; none if something else refuses it too.
    pub(super) fn growing(&self, charges: &Charges, decision: &Decision, now: Moment) -> Parts {
        let growing = |member| charges.part(member).filter(|part| part.may_grow(now)).cloned();
        let parts: Option<Parts> = decision
            .refusals()
            .map(|reading| growing(reading.member))
            .collect();
        parts.unwrap_or_default()
    }

    /// Whether all pods share a limit, by its place.
    pub(super) fn is_shared(&self, member: usize) -> bool {
        self.members
            .get(member)
            .is_some_and(|member| member.shared.is_some())
    }

    /// What callers are told of the rate of a reading.
    pub(super) fn told(&self, reading: &Reading) -> Option<(&RateLimit, &Told)> {
        let member = self.members.get(reading.member)?;
        Some((&member.settings, member.told.get(reading.rate)?))
    }

    /// The settings of a limit, by its place.
    pub(super) fn settings(&self, member: usize) -> Option<&RateLimit> {
        self.members.get(member).map(|member| &*member.settings)
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
            (&*member.settings, tallies, occupancy.keys, occupancy.evicted)
        })
    }
}

impl Member {
    fn compile(
        settings: &RateLimit,
        previous: Option<&Limits>,
        wake: &Arc<Notify>,
    ) -> Result<Self, Vec<(String, String)>> {
        let mut faults = Vec::new();
        let limit = limit(&settings.rule, settings.lease.is_some(), &mut faults);
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
                    leases: Arc::new(Leases::new(wake)),
                    tallies: Tallies::default(),
                })
            },
            |same| Arc::clone(&same.counting),
        );
        let shared = settings.lease.as_ref().map(|lease| Shared {
            whole: limit.whole(),
            memory: limit.memory(),
            replicas: lease.replicas,
            on_loss: on_loss(lease.on_loss),
        });
        Ok(Self {
            settings: Arc::new(settings.clone()),
            told: Told::of(settings),
            shared,
            limit,
            counting,
            counters,
            when,
            cost,
            route,
        })
    }

    /// What a request asks of this limit; None if it does not apply.
    fn charge(&self, path: &str, seen: &HttpRequest<'_>, keys: &KeyMaker) -> Option<Asked> {
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
        let mut values: SmallVec<[Cow<'_, str>; 4]> = SmallVec::new();
        if !self.counters.is_empty() {
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
        let part = match &self.shared {
            None => None,
            Some(shared) => {
                let values = || values.iter().map(|value| value.as_bytes());
                let part = self.counting.leases.part(charge.key, values, shared.on_loss);
                match (&part, shared.on_loss) {
                    (Some(_), _) => {}
                    // As if the authority were lost.
                    (None, OnLoss::Open) => return None,
                    (None, OnLoss::Share | OnLoss::Closed) => {
                        charge = charge.within(Share::new(0, NonZeroU32::MIN));
                    }
                }
                part
            }
        };
        Some(Asked {
            charge,
            part,
            is_shadow: self.settings.shadow,
        })
    }
}

impl Charges {
    /// This pod's part of a limit's counter, by the limit's place.
    fn part(&self, member: usize) -> Option<&Arc<Part>> {
        self.0.get(member)?.as_ref()?.part.as_ref()
    }

    /// The parts that are so new that a request waits for them; not for those of limits that do not decide.
    pub(super) fn new_parts(&self) -> Parts {
        let enforced = self.0.iter().flatten().filter(|asked| !asked.is_shadow);
        let parts = enforced.filter_map(|asked| asked.part.as_ref());
        parts.filter(|part| part.is_new()).cloned().collect()
    }
}

impl Leased {
    /// Whether it is the same limit, with the same counters.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.leases, &other.leases)
    }

    /// Whether the authority would have to know.
    pub(crate) fn terms_differ(&self, other: &Self) -> bool {
        let terms = |leased: &Self| (leased.whole, leased.memory, leased.replicas, leased.on_loss);
        terms(self) != terms(other)
    }

    /// For how long what was used counts.
    pub(crate) const fn memory(&self) -> Duration {
        self.memory
    }

    /// What the document says of it.
    pub(crate) fn settings(&self) -> &RateLimit {
        &self.settings
    }

    /// For the authority.
    pub(crate) fn message(&self, number: u32, version: u64) -> v1::Limit {
        let route = self.settings.route.as_ref();
        v1::Limit {
            policy: self.settings.policy.clone(),
            policy_uid: self.settings.policy_uid.clone(),
            name: self.settings.name.clone(),
            route: route.map(|route| route.name.clone()).unwrap_or_default(),
            counters: self.settings.counters.clone(),
            number,
            version,
            whole: self.whole.get(),
            window: u64::try_from(self.memory.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX),
            replicas: self.replicas,
            on_loss: wire::on_loss(self.on_loss).into(),
        }
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

const fn on_loss(on_loss: limit::OnLoss) -> OnLoss {
    match on_loss {
        limit::OnLoss::Share => OnLoss::Share,
        limit::OnLoss::Open => OnLoss::Open,
        limit::OnLoss::Closed => OnLoss::Closed,
    }
}

/// Whether two documents mean the same counters.
fn same_counters(one: &RateLimit, other: &RateLimit) -> bool {
    let route = |limit: &RateLimit| limit.route.as_ref().map(|route| route.name.clone());
    one.policy == other.policy
        && one.policy_uid == other.policy_uid
        && one.name == other.name
        && route(one) == route(other)
        && one.counters == other.counters
}

/// A window that is shared is a little longer here: it has to be long enough by every pod's clock.
fn limit(rule: &Rule, is_shared: bool, faults: &mut Vec<(String, String)>) -> Option<Limit> {
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
    let window = |millis| {
        let window = Duration::from_millis(millis);
        if is_shared {
            with_drift(window).min(LONGEST_WINDOW)
        } else {
            window
        }
    };
    let rates = rates.iter().map(|rate| Rate {
        limit: NonZeroU32::new(rate.limit).unwrap_or(NonZeroU32::MIN),
        window: window(rate.window),
        burst: rate.burst.and_then(NonZeroU32::new),
    });
    Limit::by_rates(algorithm, rates.collect())
        .map_err(|found| faults.extend(found.iter().map(|fault| ("rule".to_owned(), fault.to_string()))))
        .ok()
}
