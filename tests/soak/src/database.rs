//! Questions to the databases of the shop, in their server's own pod: past every part that is under test.

use anyhow::{Context as _, Result};
use e2e::Cluster;

use crate::shop::NAMESPACE;

/// What a query of a database prints: a line for each row, fields apart by `|`.
pub(crate) async fn query(cluster: &Cluster, database: &str, query: &str) -> Result<String> {
    let (cluster, database, query) = (cluster.clone(), database.to_owned(), query.to_owned());
    let run = move || {
        cluster.kubectl([
            "exec",
            "-n",
            NAMESPACE,
            "postgres-0",
            "--",
            "psql",
            "--username=postgres",
            "--no-psqlrc",
            "--tuples-only",
            "--no-align",
            "-v",
            "ON_ERROR_STOP=1",
            "--dbname",
            &database,
            "--command",
            &query,
        ])
    };
    tokio::task::spawn_blocking(run)
        .await?
        .context("failed to ask the database")
}
