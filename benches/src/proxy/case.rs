//! What is asked of every subject.

use serde::Serialize;

use super::{Options, load::Pace};

/// What clients speak. To the upstream all subjects speak HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1, a connection a lane.
    Http1,
    /// HTTP/2 without TLS, by prior knowledge; eight lanes a connection.
    H2c,
}

/// One measurement of every subject in every round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Case {
    /// What clients speak.
    pub protocol: Protocol,
    /// Whether every lane sends its next request as soon as it has its answer.
    pub saturated: bool,
}

impl Case {
    /// Every case. HTTP/2 has no saturated one: the load generator would be what is measured.
    pub const ALL: [Self; 3] = [
        Self {
            protocol: Protocol::Http1,
            saturated: false,
        },
        Self {
            protocol: Protocol::Http1,
            saturated: true,
        },
        Self {
            protocol: Protocol::H2c,
            saturated: false,
        },
    ];

    /// How fast requests are made.
    pub fn pace(self, options: &Options) -> Pace {
        if self.saturated {
            Pace::Saturated
        } else {
            Pace::Rate(options.rate)
        }
    }

    /// In words.
    pub fn describe(self, options: &Options) -> String {
        let protocol = match self.protocol {
            Protocol::Http1 => "HTTP/1.1",
            Protocol::H2c => "HTTP/2",
        };
        if self.saturated {
            format!("{protocol}, {} requests under way at all times", options.lanes)
        } else {
            format!("{protocol}, {} requests/s", options.rate)
        }
    }
}
