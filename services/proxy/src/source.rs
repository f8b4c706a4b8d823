//! Where documents and endpoints come from. Each source runs by itself and only offers what it has; what is used, and
//! when, is decided in [`crate::configuration`] and [`crate::discovery`].

pub(crate) mod dns;
pub(crate) mod file;
pub(crate) mod last_good;
pub(crate) mod stream;
