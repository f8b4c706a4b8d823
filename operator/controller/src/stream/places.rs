//! Places for the sessions of one replica: so many in all, and so many for one ServiceAccount.
//!
//! A place is taken when the caller has proved who it is, so who has no token takes none from anybody; and one account,
//! whose token somebody may have stolen, cannot fill the replica. What this does not protect against: somebody with many
//! accounts, and connections that have not said anything yet.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::key::Key;

/// The places of a replica.
#[derive(Debug)]
pub struct Places {
    most: usize,
    most_of_account: usize,
    taken: Mutex<Taken>,
}

/// A place that is taken; given back when dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    account: Key,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// All are taken.
    Replica,
    /// The ServiceAccount has as many as it may.
    Account,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    of_account: HashMap<Key, usize>,
}

impl Places {
    /// So many places, of which one ServiceAccount gets at most `most_of_account`.
    pub fn new(most: usize, most_of_account: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            most_of_account,
            taken: Mutex::default(),
        })
    }

    /// A place for a caller that has proved to be `account`.
    ///
    /// # Errors
    /// There is none left, for anybody or for this account.
    pub fn take(self: &Arc<Self>, account: &Key) -> Result<Place, Full> {
        let mut taken = self.lock();
        if taken.all >= self.most {
            return Err(Full::Replica);
        }
        if taken.of_account.get(account).copied().unwrap_or_default() >= self.most_of_account {
            return Err(Full::Account);
        }
        taken.all += 1;
        *taken.of_account.entry(account.clone()).or_default() += 1;
        Ok(Place {
            places: Arc::clone(self),
            account: account.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all -= 1;
        if let Some(count) = taken.of_account.get_mut(&self.account) {
            *count -= 1;
            if *count == 0 {
                taken.of_account.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_gets_its_part_and_all_together_no_more_than_there_are() {
        let places = Places::new(3, 2);
        let [order, user, product] = ["order", "user", "product"].map(|name| Key::new("shop", name));
        let first = places.take(&order).unwrap();
        let _second = places.take(&order).unwrap();
        assert_eq!(places.take(&order).unwrap_err(), Full::Account);
        let third = places.take(&user).unwrap();
        assert_eq!(places.take(&product).unwrap_err(), Full::Replica);
        drop(first);
        let _fourth = places.take(&order).unwrap();
        drop(third);
        assert!(!places.lock().of_account.contains_key(&user), "nothing is kept");
        places.take(&product).unwrap();
    }
}
