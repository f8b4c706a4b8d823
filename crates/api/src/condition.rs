//! Condition types and reasons. They are an interface: dashboards, alerts and scripts match on them.

use strum::{AsRefStr, Display, EnumIter, EnumString};

/// Types of the conditions of a Microservice. `Ready` sums up; `Reconciling` and `Stalled` are abnormal-true, as the
/// kstatus algorithm of `kubernetes-sigs/cli-utils` reads them.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, AsRefStr, Display, EnumIter, EnumString,
)]
pub enum ConditionType {
    /// The Microservice serves as its spec says. Its message repeats the first failing detail.
    Ready,
    /// Work towards the spec is under way and will end by itself.
    Reconciling,
    /// Nothing will change until somebody mends the cause.
    Stalled,
    /// The Deployment has as many available replicas as it wants.
    WorkloadAvailable,
    /// Every binding's Secret and keys are there for the pods.
    BindingsReady,
    /// Every Microservice in `dependsOn` exists and has the port. Reported; it does not hold the start back.
    DependenciesReady,
    /// Every declared route is served by a gateway, or lost to an older one.
    RoutesAccepted,
    /// The autoscaler reads its metric and is able to scale.
    AutoscalerActive,
    /// The proxies of all ready pods run by the newest document.
    Programmed,
    /// Rate limit policies hold here. Only there if one does.
    RateLimitPolicyAffected,
}

/// Reasons of the conditions of a Microservice.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, AsRefStr, Display, EnumIter, EnumString,
)]
pub enum Reason {
    /// Every replica is updated and available.
    Available,
    /// The spec asks for no replicas, and none run.
    ScaledToZero,
    /// First visit: nothing was read or made yet.
    Pending,
    /// New or changed pods are on their way.
    Progressing,
    /// As asked for.
    Reconciled,
    /// The spec has faults; `status.problems` has each with its field path.
    Invalid,
    /// A child could not be written; the message has the answer of the API server.
    ApplyFailed,
    /// An object with the name of a child exists and belongs to somebody else.
    ChildNotOwned,
    /// The image cannot be pulled.
    ImagePullFailed,
    /// The image's name is no image reference.
    ImageNameInvalid,
    /// The kubelet cannot make the container from the pod's settings.
    ContainerConfigInvalid,
    /// The image runs as root and the pod may not.
    RunsAsRoot,
    /// The container ended with an error and is started again.
    ContainerCrashed,
    /// The container was killed for memory.
    OutOfMemory,
    /// No node has room for the pod, or none matches.
    Unschedulable,
    /// The app runs and its readiness probe fails.
    ProbeFailed,
    /// The sidecar is not ready.
    ProxyNotReady,
    /// The API server refuses the pods (quota, admission).
    PodsRefused,
    /// The rollout made no progress within its deadline.
    ProgressDeadlineExceeded,
    /// A binding's Secret or one of its keys is missing.
    BindingNotReady,
    /// A Secret or ConfigMap that `env` or `envFrom` names is missing.
    ReferenceNotFound,
    /// A Microservice in `dependsOn` does not exist or has no such port.
    DependencyNotFound,
    /// An older Microservice declares the same route.
    RouteConflict,
    /// No gateway serves this namespace.
    NoGateway,
    /// The autoscaler cannot read its metric, or cannot scale.
    AutoscalerFailed,
    /// Every proxy runs by the newest document.
    Programmed,
    /// A proxy refused the newest document; the last good one stays in force there.
    ProxyRefused,
    /// The proxies have not said yet whether they take the newest document.
    ProxiesPending,
    /// A proxy has not answered for so long that it should be looked into.
    ProxiesBehind,
    /// There is nothing of this sort in the spec.
    NotApplicable,
    /// The message names the rate limit policies.
    Affected,
}

/// Types of the conditions of a RateLimitPolicy.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, AsRefStr, Display, EnumIter, EnumString,
)]
pub enum PolicyConditionType {
    /// The spec has no faults.
    Accepted,
    /// An older policy has a target of it, and holds there.
    Conflicted,
    /// Microservices have policies of their own in place of this one of their namespace.
    Overridden,
    /// It decides at a target at least.
    Enforced,
    /// All proxies of the targets where it holds run by its newest generation.
    Programmed,
}

/// Reasons of the conditions of a RateLimitPolicy.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, AsRefStr, Display, EnumIter, EnumString,
)]
pub enum PolicyReason {
    /// The spec has no faults.
    Accepted,
    /// The spec has faults; `status.problems` has each with its field path.
    Invalid,
    /// An older policy, or of equal age one with a lesser name, has the target.
    OlderPolicy,
    /// None has.
    NoConflict,
    /// A Microservice has a policy of its own.
    OwnPolicy,
    /// None has.
    NotOverridden,
    /// It decides.
    Enforced,
    /// There is no such Microservice, or it has no such route.
    TargetNotFound,
    /// Its namespace is the operator's own, whose Microservices are parts of Trellis.
    PartOfTrellis,
    /// All proxies run by it.
    Programmed,
    /// A proxy refused the document that has it.
    ProxyRefused,
    /// The proxies have not said yet whether they run by it.
    Pending,
}

/// Types of the conditions of a Saga.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, AsRefStr, Display, EnumIter, EnumString,
)]
pub enum SagaConditionType {
    /// The definition has no faults.
    Accepted,
    /// Every Microservice and port that it calls exists.
    ParticipantsResolved,
    /// The engine has the newest revision.
    Programmed,
    /// Runs of the newest revision can be started.
    Ready,
    /// Some runs cannot go on by themselves. Only there while the engine is.
    StuckInstances,
}

/// Reasons of the conditions of a Saga.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, AsRefStr, Display, EnumIter, EnumString,
)]
pub enum SagaReason {
    /// The definition has no faults.
    Accepted,
    /// The definition has faults; `status.problems` has each with its field path. The last good revision stays what runs are made
    /// of.
    Invalid,
    /// The revision could not be written; the message has the answer of the API server.
    ApplyFailed,
    /// Every Microservice and port exists.
    Resolved,
    /// A Microservice or one of its ports does not exist, or the port speaks no HTTP.
    ParticipantNotFound,
    /// No replica of a saga engine is ready.
    EngineNotInstalled,
    /// Not every replica of the engine has said that it has the newest revision; the message names one.
    Pending,
    /// A replica of the engine cannot use the revision; the message says which and why.
    EngineRefused,
    /// Every replica of the engine has the newest revision.
    Programmed,
    /// It is being deleted, and waits for its runs; the message says how to end them, or not to wait.
    Deleting,
    /// Runs cannot go on by themselves; the message names some.
    RunsStuck,
    /// No run is stuck.
    NoneStuck,
}

/// `True`, `False` and `Unknown` of a condition.
pub mod status {
    /// The condition holds.
    pub const TRUE: &str = "True";
    /// The condition does not hold.
    pub const FALSE: &str = "False";
    /// Not known yet.
    pub const UNKNOWN: &str = "Unknown";
}
