//! Which way a request goes through the proxy.

use std::fmt;

/// Which way a request goes. The stacks are alike; what differs is how a target is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// From the mesh to the app in the same pod.
    Inbound,
    /// From the app to another service.
    Outbound,
    /// From outside the mesh to a service.
    Gateway,
}

impl Direction {
    /// The word in logs and metric labels.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Gateway => "gateway",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
