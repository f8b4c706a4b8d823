//! Time in the policies of a request, inside of the proxy: `trellis-proxy-timing` measures, this subtracts and shows.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{report::Table, statistics::Spread};

/// What a way costs.
#[derive(Debug, Serialize)]
pub struct Row {
    case: String,
    /// Nanoseconds a request more than with nothing, round by round.
    nanos: Spread,
}

#[derive(Deserialize)]
struct Case {
    case: String,
    /// Nanoseconds a request, by round.
    nanos: Vec<f64>,
}

/// Measures.
pub fn measure(timing: &Path) -> Result<Vec<Row>> {
    eprintln!("policies in process");
    let output = Command::new(timing)
        .output()
        .context("failed to start what times the proxy's layers")?;
    if !output.status.success() {
        bail!(
            "what times the proxy's layers failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let cases: Vec<Case> =
        serde_json::from_slice(&output.stdout).context("failed to read the times of the proxy's layers")?;
    rows(&cases)
}

/// The first case is the one that does nothing.
fn rows(cases: &[Case]) -> Result<Vec<Row>> {
    let (nothing, others) = cases.split_first().context("there is no case")?;
    let row = |case: &Case| {
        let more = case
            .nanos
            .iter()
            .zip(&nothing.nanos)
            .map(|(all, nothing)| all - nothing);
        Ok(Row {
            case: case.case.clone(),
            nanos: Spread::of(more).context("no round was measured")?,
        })
    };
    others.iter().map(row).collect()
}

/// A table.
pub fn text(rows: &[Row]) -> String {
    let mut table = Table::new(["in process, more than without", "ns a request"]);
    for row in rows {
        table.row([row.case.clone(), row.nanos.to_string()]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_costs_is_taken_off_round_by_round() {
        let case = |name: &str, nanos: [f64; 3]| Case {
            case: name.to_owned(),
            nanos: nanos.into(),
        };
        let rows = rows(&[
            case("nothing", [10.0, 90.0, 20.0]),
            case("a limit", [15.0, 96.0, 27.0]),
        ])
        .unwrap();
        assert_eq!((rows.len(), rows[0].nanos.median), (1, 6.0));
    }
}
