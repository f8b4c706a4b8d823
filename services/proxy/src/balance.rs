//! Which endpoint a request goes to: the less busy of two drawn at random.
//!
//! "Power of two choices" (Mitzenmacher 2001): nearly as even as asking all, without the herd that "least of all" makes
//! of many proxies that all see the same idle endpoint.

use std::{net::SocketAddr, sync::Arc};

use rand::RngExt as _;

use crate::endpoint::Endpoint;

/// Chooses an endpoint that is not among `tried`. Endpoints that just refused a connection come last.
pub(crate) fn choose<'a>(endpoints: &'a [Arc<Endpoint>], tried: &[SocketAddr]) -> Option<&'a Arc<Endpoint>> {
    let fresh = |endpoint: &&Arc<Endpoint>| !tried.contains(&endpoint.address);
    if tried.is_empty()
        && let Some(chosen) = of_two(endpoints)
        && !chosen.is_suspect()
    {
        return Some(chosen);
    }
    let (mut candidates, suspects): (Vec<_>, Vec<_>) = endpoints
        .iter()
        .filter(fresh)
        .partition(|endpoint| !endpoint.is_suspect());
    if candidates.is_empty() {
        candidates = suspects;
    }
    of_two(&candidates).copied()
}

/// The less busy of two, without a list of candidates: what happens when all is well.
fn of_two<T: AsRef<Endpoint>>(endpoints: &[T]) -> Option<&T> {
    match endpoints {
        [] => None,
        [only] => Some(only),
        _ => {
            let mut rng = rand::rng();
            let first = rng.random_range(0..endpoints.len());
            // Any but the first, each as likely.
            let second = (first + rng.random_range(1..endpoints.len())) % endpoints.len();
            let (first, second) = (&endpoints[first], &endpoints[second]);
            Some(if second.as_ref().cost() < first.as_ref().cost() {
                second
            } else {
                first
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use trellis_proxy_config::Protocol;

    use super::*;

    fn endpoints(count: u16) -> Vec<Arc<Endpoint>> {
        (1..=count)
            .map(|port| {
                let address = SocketAddr::from(([127, 0, 0, 1], port));
                Arc::new(Endpoint::new(address, Protocol::Http1, Duration::from_secs(1)))
            })
            .collect()
    }

    #[test]
    fn an_idle_endpoint_is_preferred_to_a_busy_one() {
        let endpoints = endpoints(2);
        let _busy = [endpoints[0].claim(), endpoints[0].claim()];
        for _ in 0..100 {
            assert_eq!(choose(&endpoints, &[]).unwrap().address, endpoints[1].address);
        }
    }

    #[test]
    fn equal_endpoints_get_equal_shares() {
        let endpoints = endpoints(4);
        let mut counts = HashMap::<SocketAddr, u32>::new();
        for _ in 0..4000 {
            *counts
                .entry(choose(&endpoints, &[]).unwrap().address)
                .or_default() += 1;
        }
        // Binomial with mean 1000 and deviation 27: 6 deviations.
        assert!(
            counts.values().all(|count| (836..1164).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn what_was_tried_is_not_chosen_again() {
        let endpoints = endpoints(3);
        let mut tried = Vec::new();
        while let Some(chosen) = choose(&endpoints, &tried) {
            assert!(!tried.contains(&chosen.address));
            tried.push(chosen.address);
        }
        assert_eq!(tried.len(), 3);
        assert!(choose(&[], &[]).is_none());
    }
}
