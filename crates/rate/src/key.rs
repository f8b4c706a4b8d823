//! Whose requests are counted together.
//!
//! A counter has values (a header, a path, an address) of any length, chosen by callers. A [`Key`] is their 128-bit SipHash
//! with a secret seed: of fixed size, so that nobody fills the memory with long values, and not to be guessed, so
//! that nobody makes values that share a counter with somebody else's. Among a million keys, two are equal by chance with a
//! probability of about 1e-27.
//!
//! Source: J.-P. Aumasson, D. J. Bernstein, "SipHash: a fast short-input PRF" (2012); 1-3 rounds, as in Rust's own maps.

use std::hash::{BuildHasherDefault, Hasher};

use siphasher::sip128::{Hasher128, SipHasher13};

/// The values of one counter's keys, as one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u64; 2]);

/// Makes keys from values. Each process takes a seed of its own, at random.
#[derive(Clone, Copy, Debug)]
pub struct KeyMaker {
    seed: [u64; 2],
}

impl KeyMaker {
    /// With a seed that callers of the limited service must not know.
    pub const fn new(seed: [u64; 2]) -> Self {
        Self { seed }
    }

    /// The key of these values, in this order. `("ab", "c")` is another key than `("a", "bc")`.
    #[inline]
    pub fn key<'a>(&self, values: impl IntoIterator<Item = &'a [u8]>) -> Key {
        let mut hasher = SipHasher13::new_with_keys(self.seed[0], self.seed[1]);
        for value in values {
            hasher.write_u64(value.len() as u64);
            hasher.write(value);
        }
        let hash = hasher.finish128();
        Key([hash.h1, hash.h2])
    }
}

impl Key {
    /// Spreads keys over a number of shards that is a power of two.
    pub(crate) const fn shard(self, shards: usize) -> usize {
        self.0[1] as usize & (shards - 1)
    }
}

impl std::hash::Hash for Key {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.0[0]);
    }
}

/// A key is a hash already.
pub(crate) type KeyHash = BuildHasherDefault<Verbatim>;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Verbatim(u64);

impl Hasher for Verbatim {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only keys are hashed with it, and they write one number; this is the rest of the trait.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_one_value_ends_and_the_next_begins_matters() {
        let maker = KeyMaker::new([1, 2]);
        let key = |values: &[&str]| maker.key(values.iter().map(|value| value.as_bytes()));
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["ab"]), key(&["ab", ""]));
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
    }

    #[test]
    fn another_seed_makes_other_keys() {
        let value = [b"a".as_slice()];
        assert_ne!(KeyMaker::new([1, 2]).key(value), KeyMaker::new([1, 3]).key(value));
    }
}
