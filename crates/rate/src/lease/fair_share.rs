//! Max-min fair shares: nobody gets more than they ask for, and nobody gets less than they could have while another
//! one has more than they do.
//!
//! Source: D. Bertsekas, R. Gallager, "Data Networks" (max-min flow control), for one link ("progressive filling").

/// Each demand's share of `capacity`, in the order of the demands. What cannot be divided evenly goes to those that ask for
/// most, one unit each.
pub fn fair_shares(capacity: u32, demands: &[u32]) -> Vec<u32> {
    let mut order: Vec<usize> = (0..demands.len()).collect();
    order.sort_by_key(|index| demands[*index]);
    let mut shares = vec![0; demands.len()];
    let mut left = capacity;
    let mut waiting = u32::try_from(demands.len()).unwrap_or(u32::MAX);
    for index in order {
        let even = left / waiting.max(1);
        shares[index] = demands[index].min(even);
        left -= shares[index];
        waiting -= 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_small_get_what_they_ask_and_the_large_share_the_rest() {
        assert_eq!(fair_shares(100, &[10, 60, 80]), [10, 45, 45]);
        assert_eq!(fair_shares(100, &[10, 20, 30]), [10, 20, 30]);
        assert_eq!(fair_shares(10, &[9, 9, 9]), [3, 3, 4]);
        assert_eq!(fair_shares(2, &[1, 1, 1]).iter().sum::<u32>(), 2);
        assert_eq!(fair_shares(5, &[]), [0; 0]);
    }

    proptest! {
        #[test]
        fn shares_are_max_min_fair(capacity in 0..500u32, demands in prop::collection::vec(0..200u32, 0..12)) {
            let shares = fair_shares(capacity, &demands);
            let wanted: u32 = demands.iter().sum();
            prop_assert_eq!(shares.iter().sum::<u32>(), wanted.min(capacity), "nothing is left that somebody wants");
            for (share, demand) in shares.iter().zip(&demands) {
                prop_assert!(share <= demand);
                // Who wants more than they have: nobody has more than that, but for the one unit that is not divisible.
                if share < demand {
                    prop_assert!(shares.iter().all(|other| *other <= share + 1));
                }
            }
        }
    }
}
