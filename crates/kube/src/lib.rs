//! What Trellis's own processes in a cluster share: which of several leads, and who calls them.

pub mod caller;
pub mod leader;
