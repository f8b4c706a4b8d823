//! The judge: what four databases say of every order, when no saga has anything to do with one any more.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use e2e::Cluster;
use serde::Serialize;

use super::client::{Client, Order};
use crate::{database, sample::Quantiles};

/// Longest time from the last acknowledgement to the last order that is settled.
const SETTLED: Duration = Duration::from_secs(180);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// Faults that are kept word for word.
const SHOWN: usize = 20;
/// What the engine's database has for a run that is completed.
const COMPLETED: &str = "3";
/// And for one that is compensated.
const COMPENSATED: &str = "4";

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(super) struct Judged {
    pub(super) completed: usize,
    pub(super) rejected: usize,
    /// Of these, those that could have been completed.
    pub(super) in_vain: usize,
    /// Runs by revision.
    pub(super) revisions: BTreeMap<String, usize>,
    /// Runs of one revision that ended after one of another had begun.
    pub(super) outlasted: usize,
    /// From a run's start to its end, in milliseconds.
    pub(super) runs: Quantiles,
    pub(super) faults: Vec<String>,
}

/// What the databases have.
#[derive(Debug, Default)]
struct Books {
    /// Order -> status and cents.
    orders: BTreeMap<u64, (String, u64)>,
    /// Order -> cents that came to shop, to what is held, to the customer.
    ledger: BTreeMap<u64, [i64; 3]>,
    on_hand: u64,
    reserved: u64,
    /// In the order of their starts.
    runs: Vec<Run>,
}

#[derive(Debug)]
struct Run {
    order: u64,
    status: String,
    revision: String,
    started_at: u64,
    ended_at: u64,
}

/// Waits until every order is settled, and compares.
pub(super) async fn judge(cluster: &Cluster, client: &Client) -> Result<Judged> {
    let late = settled(cluster, client).await.err();
    let ids = client.ids();
    let between = |column: &str| format!("{column} BETWEEN {} AND {}", ids.start, ids.end - 1);
    let orders = format!(
        "SELECT order_id, status, amount FROM orders WHERE {}",
        between("order_id")
    );
    let sum = |account: &str| format!("coalesce(sum(amount) FILTER (WHERE account = '{account}'), 0)");
    let ledger = format!(
        "SELECT substring(authorisation_id FROM 7), {}, {}, {} FROM ledger
         WHERE authorisation_id ~ '^order-[0-9]{{1,16}}$' AND {} GROUP BY 1",
        sum("Shop"),
        sum("Open"),
        sum("Customer"),
        between("substring(authorisation_id FROM 7)::bigint"),
    );
    let stock = format!(
        "SELECT on_hand, reserved FROM items WHERE sku = '{}'",
        client.name()
    );
    let runs = format!(
        "SELECT key, status, revision, started_at, coalesce(ended_at, 0)
         FROM saga_run JOIN saga_definition ON saga_definition.id = saga_run.definition
         WHERE namespace = 'shop' AND saga = 'place-order' AND key ~ '^[0-9]{{1,16}}$' AND {} ORDER BY started_at",
        between("key::bigint"),
    );
    let ask = async |database: &str, query: &str| -> Result<Vec<Vec<String>>> {
        let printed = database::query(cluster, database, query).await?;
        let fields = |line: &str| line.split('|').map(str::to_owned).collect();
        Ok(printed
            .lines()
            .filter(|line| !line.is_empty())
            .map(fields)
            .collect())
    };
    let stock = ask("inventory", &stock).await?;
    let stock = stock.first().context("no stock")?;
    let books = Books {
        orders: ask("order", &orders)
            .await?
            .iter()
            .map(|row| Ok((row[0].parse()?, (row[1].clone(), row[2].parse()?))))
            .collect::<Result<_>>()?,
        ledger: ask("payment", &ledger)
            .await?
            .iter()
            .map(|row| {
                Ok((
                    row[0].parse()?,
                    [row[1].parse()?, row[2].parse()?, row[3].parse()?],
                ))
            })
            .collect::<Result<_>>()?,
        on_hand: stock[0].parse()?,
        reserved: stock[1].parse()?,
        runs: ask("trellis-saga", &runs)
            .await?
            .iter()
            .map(|row| {
                Ok(Run {
                    order: row[0].parse()?,
                    status: row[1].clone(),
                    revision: row[2].clone(),
                    started_at: row[3].parse()?,
                    ended_at: row[4].parse()?,
                })
            })
            .collect::<Result<_>>()?,
    };
    let mut judged = compare(&client.orders(), Client::stock(), &books);
    judged.faults.extend(late.map(|error| format!("{error:#}")));
    Ok(judged)
}

async fn settled(cluster: &Cluster, client: &Client) -> Result<()> {
    let ids = client.ids();
    let query = format!(
        "SELECT count(*) FROM orders
         WHERE order_id BETWEEN {} AND {} AND status IN ('Pending', 'Placing', 'Confirmed')",
        ids.start,
        ids.end - 1
    );
    let deadline = Instant::now() + SETTLED;
    loop {
        // The server may have been killed a moment ago.
        let left = database::query(cluster, "order", &query).await;
        if left.as_ref().is_ok_and(|left| left.trim() == "0") {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "orders are not settled {SETTLED:?} after the last was taken: {left:?}"
        );
        tokio::time::sleep(LOOK).await;
    }
}

fn compare(sent: &[Order], stock: u64, books: &Books) -> Judged {
    let mut judged = Judged::default();
    let mut faults = Vec::new();
    let mut sold = 0;
    let mut runs: BTreeMap<u64, Vec<&Run>> = BTreeMap::new();
    for run in &books.runs {
        runs.entry(run.order).or_default().push(run);
        *judged.revisions.entry(run.revision.clone()).or_default() += 1;
    }
    for order in sent {
        let id = order.id;
        let found = books.orders.get(&id);
        let Some((status, amount)) = found else {
            if order.is_acknowledged {
                faults.push(format!("order {id} was acknowledged, and is not there"));
            }
            if runs.contains_key(&id) {
                faults.push(format!("order {id} is not there, and has a run"));
            }
            continue;
        };
        let is_completed = status == "Completed";
        let (run, money) = if is_completed {
            let cents = i64::try_from(order.amount()).unwrap_or(i64::MAX);
            judged.completed += 1;
            sold += order.quantity();
            (COMPLETED, [cents, 0, -cents])
        } else {
            judged.rejected += 1;
            // What could have been placed may still have come to nothing in time.
            judged.in_vain += usize::from(order.sort.is_placed());
            (COMPENSATED, [0, 0, 0])
        };
        let is_legal = is_completed && order.sort.is_placed() || status == "Rejected";
        if !is_legal || *amount != order.amount() {
            faults.push(format!(
                "order {id} of {}, {:?}, is {status} of {amount}",
                order.amount(),
                order.sort
            ));
        }
        let held = books.ledger.get(&id).copied().unwrap_or_default();
        if held != money {
            faults.push(format!(
                "order {id} moved {held:?} to shop, open, customer, and should have moved {money:?}"
            ));
        }
        match runs.get(&id).map(Vec::as_slice) {
            Some([one]) if one.status == run => {}
            found => faults.push(format!("order {id} is {status}, and its runs are {found:?}")),
        }
    }
    let expected = (stock.saturating_sub(sold), 0);
    if (books.on_hand, books.reserved) != expected {
        faults.push(format!(
            "{} are on hand and {} reserved, and should be {expected:?}",
            books.on_hand, books.reserved
        ));
    }
    let began: BTreeMap<&str, u64> = books
        .runs
        .iter()
        .rev()
        .map(|run| (&*run.revision, run.started_at))
        .collect();
    let outlasted = |run: &&Run| {
        began.iter().any(|(revision, began)| {
            *revision != run.revision && run.started_at < *began && run.ended_at > *began
        })
    };
    judged.outlasted = books.runs.iter().filter(outlasted).count();
    let took = |run: &Run| Duration::from_millis(run.ended_at.saturating_sub(run.started_at));
    judged.runs = Quantiles::of(books.runs.iter().map(took).collect());
    let more = faults.len().saturating_sub(SHOWN);
    faults.truncate(SHOWN);
    if more > 0 {
        faults.push(format!("and {more} faults more"));
    }
    judged.faults = faults;
    judged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orders::client::Sort;

    fn order(id: u64, sort: Sort) -> Order {
        Order {
            id,
            sort,
            is_acknowledged: true,
        }
    }

    fn run(order: u64, status: &str) -> Run {
        Run {
            order,
            status: status.to_owned(),
            revision: "a".to_owned(),
            started_at: 1,
            ended_at: 2,
        }
    }

    /// Two orders: of 4 cents and 2 things, and one that was declined.
    fn sound() -> (Vec<Order>, Books) {
        let orders = vec![order(10_000, Sort::Good), order(10_001, Sort::Declined)];
        let paid = i64::try_from(orders[0].amount()).unwrap();
        let books = Books {
            orders: BTreeMap::from([
                (10_000, ("Completed".to_owned(), orders[0].amount())),
                (10_001, ("Rejected".to_owned(), orders[1].amount())),
            ]),
            ledger: BTreeMap::from([(10_000, [paid, 0, -paid])]),
            on_hand: 100 - orders[0].quantity(),
            reserved: 0,
            runs: vec![run(10_000, COMPLETED), run(10_001, COMPENSATED)],
        };
        (orders, books)
    }

    #[test]
    fn books_that_balance_are_sound() {
        let (orders, books) = sound();
        let judged = compare(&orders, 100, &books);
        assert!(judged.faults.is_empty(), "{judged:?}");
        assert_eq!((judged.completed, judged.rejected, judged.outlasted), (1, 1, 0));
    }

    #[test]
    fn every_way_in_which_books_can_be_wrong_is_told() {
        type Wrong = (fn(&mut Vec<Order>, &mut Books), &'static str);
        let ways: [Wrong; 9] = [
            (|orders, _| orders[0].sort = Sort::Short, "Short, is Completed"),
            (
                |_, books| drop(books.orders.remove(&10_000)),
                "was acknowledged, and is not there",
            ),
            (
                |_, books| books.orders.get_mut(&10_001).unwrap().0 = "Placing".to_owned(),
                "is Placing",
            ),
            (|_, books| books.ledger.get_mut(&10_000).unwrap()[1] = 1, "moved"),
            (|_, books| books.ledger.extend([(10_001, [0, 5, -5])]), "moved"),
            (|_, books| books.on_hand -= 1, "on hand"),
            (|_, books| books.reserved += 1, "on hand"),
            (|_, books| books.runs.push(run(10_000, COMPLETED)), "its runs are"),
            (|_, books| books.runs[0].status = "2".to_owned(), "its runs are"),
        ];
        for (wrong, told) in ways {
            let (mut orders, mut books) = sound();
            wrong(&mut orders, &mut books);
            let faults = compare(&orders, 100, &books).faults;
            assert!(
                faults.iter().any(|fault| fault.contains(told)),
                "{told}: {faults:?}"
            );
        }
    }

    #[test]
    fn runs_that_outlast_a_new_revision_are_counted() {
        let (orders, mut books) = sound();
        books.runs[0].ended_at = 9;
        books.runs[1].revision = "b".to_owned();
        books.runs[1].started_at = 5;
        assert_eq!(compare(&orders, 100, &books).outlasted, 1);
    }
}
