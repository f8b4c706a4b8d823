//! A family of metrics whose members go when what they are about has gone.
//!
//! A family of the registry knows its members only by their labels, and it grows for ever. In a gateway, whose documents
//! come and go with every Microservice of its namespaces, that would be a leak that Prometheus pays for as well. Here the
//! labels are remembered, at no cost for a member that exists.

use std::{
    collections::HashSet,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::metrics::family::{Family, MetricConstructor};

/// See the module; clones are the same family.
#[derive(Debug, Clone)]
pub(super) struct Series<L, M, C = fn() -> M> {
    family: Family<L, M, C>,
    labels: Arc<Mutex<HashSet<L>>>,
}

impl<L: Clone + Hash + Eq, M: Default> Default for Series<L, M> {
    fn default() -> Self {
        Self {
            family: Family::default(),
            labels: Arc::default(),
        }
    }
}

impl<L: Clone + Hash + Eq, M: Clone, C: MetricConstructor<M> + Clone> Series<L, M, C> {
    /// A family whose members `constructor` makes.
    pub(super) fn of(constructor: C) -> Self {
        Self {
            family: Family::new_with_constructor(constructor),
            labels: Arc::default(),
        }
    }

    /// What is registered.
    pub(super) fn family(&self) -> Family<L, M, C> {
        self.family.clone()
    }

    /// The member with these labels. What is told to it after it was removed is lost.
    pub(super) fn member(&self, labels: &L) -> M {
        if let Some(member) = self.family.get(labels) {
            return member.clone();
        }
        // Held until the member is there, so that it is never there without its labels.
        let mut known = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(labels.clone());
        self.family.get_or_create_owned(labels)
    }

    /// Removes the members that `keep` does not want.
    pub(super) fn retain(&self, keep: impl Fn(&L, &M) -> bool) {
        let mut known = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|labels| {
            // Looked at first: nothing may be held while it is removed.
            let kept = self
                .family
                .get(labels)
                .is_some_and(|member| keep(labels, &member));
            if !kept {
                self.family.remove(labels);
            }
            kept
        });
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    type Labels = [(&'static str, &'static str); 1];

    #[test]
    fn members_that_are_not_kept_go_and_may_come_again() {
        let series: Series<Labels, Counter> = Series::default();
        let (stays, goes): (Labels, Labels) = ([("route", "stays")], [("route", "goes")]);
        series.member(&stays).inc();
        series.member(&goes).inc();
        series.retain(|labels, _| *labels == stays);
        assert!(series.family().get(&goes).is_none());
        assert_eq!(series.member(&stays).get(), 1);
        assert_eq!(series.member(&goes).get(), 0, "it begins anew");
        series.retain(|_, member| member.get() > 0);
        assert!(series.family().get(&goes).is_none());
    }
}
