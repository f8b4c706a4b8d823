//! The judge: the orders table, read past every part that is under test, when the sagas are done with the orders.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use e2e::Cluster;
use serde::Serialize;

use crate::{
    database,
    sample::Sample,
    traffic::{Kind, Ticket, Traffic},
};

/// Longest time from the last request to the last order that is completed.
const SETTLED: Duration = Duration::from_secs(180);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    order_id: u64,
    /// In cents.
    amount: u64,
    is_completed: bool,
}

/// What the table says about the requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    /// Orders of this run in the table, those from before the load included.
    pub(crate) rows: usize,
    /// Orders that were answered with 202.
    pub(crate) acknowledged: usize,
    /// Acknowledged and not there.
    pub(crate) lost: Vec<Ticket>,
    /// There with another content, or more than once.
    pub(crate) altered: Vec<u64>,
    /// There, and nobody asked for it.
    pub(crate) unasked: Vec<u64>,
    /// There, though the client was told that it failed or was told nothing.
    pub(crate) unacknowledged: Vec<Ticket>,
    /// There, and not completed.
    pub(crate) incomplete: Vec<u64>,
}

impl Verdict {
    /// What contradicts the answers, if anything does. What failed is counted elsewhere.
    pub(crate) fn fault(&self) -> Option<String> {
        let sound = self.lost.is_empty()
            && self.altered.is_empty()
            && self.unasked.is_empty()
            && self.incomplete.is_empty();
        (!sound).then(|| {
            format!(
                "the orders table differs from the answers: lost {:?}, altered {:?}, unasked {:?}, incomplete {:?}",
                self.lost, self.altered, self.unasked, self.incomplete
            )
        })
    }
}

/// Reads the table and compares it with what the client saw.
pub(crate) async fn judge(cluster: &Cluster, traffic: &Traffic, samples: &[Sample]) -> Result<Verdict> {
    // The user orders in this run alone, so a row that nobody asked for is found too.
    let query = format!(
        "SELECT order_id, amount, status = 'Completed' FROM orders WHERE username = '{}' ORDER BY order_id",
        traffic.username
    );
    settled(cluster, traffic).await?;
    let printed = database::query(cluster, "order", &query).await?;
    let rows: Vec<Row> = printed.lines().map(parse).collect::<Result<_>>()?;
    Ok(compare(traffic, samples, &rows))
}

/// Waits until no saga has anything to do with the orders any more.
async fn settled(cluster: &Cluster, traffic: &Traffic) -> Result<()> {
    let query = format!(
        "SELECT count(*) FROM orders WHERE username = '{}' AND status IN ('Pending', 'Placing', 'Confirmed')",
        traffic.username
    );
    let deadline = Instant::now() + SETTLED;
    loop {
        let left = database::query(cluster, "order", &query).await?;
        if left.trim() == "0" {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{} orders are neither completed nor rejected {SETTLED:?} after the last was taken",
            left.trim()
        );
        tokio::time::sleep(LOOK).await;
    }
}

/// Takes the run's rows away again.
pub(crate) async fn forget(cluster: &Cluster, traffic: &Traffic) -> Result<()> {
    let username = &traffic.username;
    database::query(
        cluster,
        "order",
        &format!("DELETE FROM orders WHERE username = '{username}'"),
    )
    .await?;
    database::query(
        cluster,
        "user",
        &format!("DELETE FROM users WHERE username = '{username}'"),
    )
    .await?;
    Ok(())
}

fn parse(line: &str) -> Result<Row> {
    let fields: Vec<&str> = line.split('|').collect();
    let [order_id, amount, is_completed] = fields[..] else {
        bail!("failed to read the row `{line}`");
    };
    Ok(Row {
        order_id: order_id.parse()?,
        amount: amount.parse()?,
        is_completed: is_completed == "t",
    })
}

fn compare(traffic: &Traffic, samples: &[Sample], rows: &[Row]) -> Verdict {
    let orders: BTreeMap<Ticket, &Sample> = samples
        .iter()
        .filter(|sample| sample.kind == Kind::CreateOrder)
        .map(|sample| (sample.ticket, sample))
        .collect();
    let mut verdict = Verdict {
        rows: rows.len(),
        acknowledged: orders.values().filter(|sample| sample.fault.is_none()).count(),
        ..Verdict::default()
    };
    let mut seen = BTreeSet::new();
    for row in rows {
        if !seen.insert(row.order_id) || row.amount != Traffic::amount(row.order_id) {
            verdict.altered.push(row.order_id);
        }
        if !row.is_completed {
            verdict.incomplete.push(row.order_id);
        }
        if traffic.known().contains(&row.order_id) {
            continue;
        }
        match traffic
            .ticket(row.order_id)
            .and_then(|ticket| orders.get(&ticket))
        {
            None => verdict.unasked.push(row.order_id),
            Some(sample) if sample.fault.is_some() => verdict.unacknowledged.push(sample.ticket),
            Some(_) => {}
        }
    }
    let is_lost =
        |sample: &&&Sample| sample.fault.is_none() && !seen.contains(&traffic.order_id(sample.ticket));
    verdict.lost = orders
        .values()
        .filter(is_lost)
        .map(|sample| sample.ticket)
        .collect();
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ticket: Ticket, fault: Option<&str>) -> Sample {
        Sample {
            ticket,
            kind: Traffic::kind(ticket),
            due: Duration::ZERO,
            sent: Duration::ZERO,
            ended: Duration::ZERO,
            fault: fault.map(str::to_owned),
        }
    }

    fn row(order_id: u64) -> Row {
        Row {
            order_id,
            amount: Traffic::amount(order_id),
            is_completed: true,
        }
    }

    #[test]
    fn a_table_that_has_each_acknowledged_order_once_is_sound() {
        let traffic = Traffic::new(3);
        let samples = [sample(0, None), sample(1, None), sample(3, Some("502"))];
        let rows = [row(traffic.known().start), row(traffic.order_id(0))];
        let verdict = compare(&traffic, &samples, &rows);
        assert_eq!(verdict.fault(), None);
        assert_eq!((verdict.rows, verdict.acknowledged), (2, 1));
    }

    #[test]
    fn every_way_in_which_a_table_can_contradict_the_answers_is_told() {
        let traffic = Traffic::new(3);
        let samples = [
            sample(0, None),
            sample(3, Some("502")),
            sample(6, None),
            sample(9, None),
        ];
        let mut other = row(traffic.order_id(6));
        other.amount += 1;
        other.is_completed = false;
        let twice = row(traffic.order_id(9));
        let rows = [
            other,
            row(traffic.order_id(3)),
            row(traffic.order_id(12)),
            twice,
            twice,
        ];
        let verdict = compare(&traffic, &samples, &rows);
        assert_eq!(verdict.lost, [0]);
        assert_eq!(verdict.altered, [traffic.order_id(6), traffic.order_id(9)]);
        assert_eq!(verdict.unasked, [traffic.order_id(12)]);
        assert_eq!(verdict.incomplete, [traffic.order_id(6)]);
        assert_eq!(verdict.unacknowledged, [3]);
        assert!(verdict.fault().is_some());
    }

    #[test]
    fn rows_are_read_as_psql_prints_them() {
        assert_eq!(
            parse("7|1999|t").unwrap(),
            Row {
                order_id: 7,
                amount: 1999,
                is_completed: true
            }
        );
        assert!(parse("(0 rows)").is_err());
    }
}
