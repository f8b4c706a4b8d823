//! The database of a domain service: found by a Service Binding, reached by a small pool.
//!
//! ```text
//! $SERVICE_BINDING_ROOT/<name>/{host,port,database,username,password}
//!        |  read at start (a fault ends the start) and again every few seconds: passwords rotate
//!        v
//!   keeper task -- migrate, with retry --> ready       requests -- pool(), 503 until migrated
//! ```
//!
//! - A database that is away does not keep a service from starting: it is live, not ready, and answers 503
//!   with Retry-After. Once it has migrated it *stays* ready when the database goes away again: the fault is
//!   shared by every replica, and taking all of them out of the Service would only turn a clear 503 into a
//!   refused connection.
//! - Migrations run under PostgreSQL's advisory lock (sqlx), so that replicas that start together take
//!   turns, and on a connection of their own without a statement timeout. Applied migrations that this build
//!   does not know are fine: that is what a rollback looks like.
//! - Everything is bounded: connections, the wait for one, a statement, an idle transaction.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use serde::Serialize;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};
use tokio::time;

use crate::config::{Environment, Secret};
use crate::problem::{Kind, Problem};
use crate::readiness::Pending;

/// Environment variable with the folder of all bindings.
pub const BINDING_ROOT: &str = "SERVICE_BINDING_ROOT";

const MAX_CONNECTIONS: u32 = 5;
/// Together with one statement below the 15 s that a request has (`spec.resilience.timeouts` of a Microservice).
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
const STATEMENT_TIMEOUT_MS: &str = "5000";
const IDLE_TRANSACTION_TIMEOUT_MS: &str = "5000";
const LOCK_TIMEOUT_OF_MIGRATIONS_MS: &str = "30000";
/// Between looks at the binding's files; well under the minute that kubelet takes to update them.
const REREAD: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A Service Binding of a PostgreSQL database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Binding {
    folder: PathBuf,
    host: String,
    port: u16,
    database: String,
    username: String,
    password: Secret,
}

/// The pool and whether the schema is there. Clones share both.
#[derive(Clone, Debug)]
pub struct Database {
    pool: PgPool,
    migrated: Arc<AtomicBool>,
}

/// Why the database did not answer a query.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database was not reached since the start, so its schema is unknown.
    #[error("failed to use the database: it has not been reached yet")]
    NotReached,
    /// It is away, overloaded or about to stop: the same request may succeed later.
    #[error("failed to reach the database")]
    Unavailable(#[source] sqlx::Error),
    /// The query itself is at fault.
    #[error("failed to run a query")]
    Query(#[source] sqlx::Error),
}

#[derive(Debug, thiserror::Error)]
enum BindingError {
    #[error("failed to read {path}: {source}")]
    Read { path: String, source: io::Error },
    #[error("failed to parse {path} as a port: {source}")]
    Port {
        path: String,
        source: std::num::ParseIntError,
    },
}

#[derive(Debug, thiserror::Error)]
enum MigrationError {
    #[error("failed to connect")]
    Connect(#[source] sqlx::Error),
    #[error("failed to migrate")]
    Migrate(#[from] sqlx::migrate::MigrateError),
}

impl Binding {
    /// Reads the binding `name` below `SERVICE_BINDING_ROOT`.
    pub fn read(env: &mut Environment, name: &str) -> Option<Self> {
        let fix = format!(
            "bind a Secret as {name:?} (spec.bindings) with keys host, port, database, username, password"
        );
        let folder = env.required::<PathBuf>(BINDING_ROOT, &fix)?.join(name);
        Self::load(&folder)
            .map_err(|error| env.fault(BINDING_ROOT, format_args!("is no use: {error}"), &fix))
            .ok()
    }

    fn load(folder: &Path) -> Result<Self, BindingError> {
        let path = |key: &str| folder.join(key).display().to_string();
        let read = |key: &str| {
            let text = fs::read_to_string(folder.join(key)).map_err(|source| BindingError::Read {
                path: path(key),
                source,
            })?;
            // Secrets made from files or here-documents end in a newline more often than not.
            Ok(text.trim_end_matches(['\r', '\n']).to_owned())
        };
        let port = read("port")?.parse().map_err(|source| BindingError::Port {
            path: path("port"),
            source,
        })?;
        Ok(Self {
            host: read("host")?,
            port,
            database: read("database")?,
            username: read("username")?,
            password: Secret::new(read("password")?),
            folder: folder.to_owned(),
        })
    }

    /// What is in the folder now: passwords change. What cannot be read stays as it was.
    #[must_use]
    pub fn reread(&self) -> Self {
        Self::load(&self.folder).unwrap_or_else(|_| self.clone())
    }

    /// Host name, IP address, or folder of a Unix socket.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Name of the database.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Name of the role.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// Its password.
    #[must_use]
    pub const fn password(&self) -> &Secret {
        &self.password
    }

    fn options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host(&self.host)
            .port(self.port)
            .database(&self.database)
            .username(&self.username)
            .password(self.password.expose())
    }

    fn pool_options(&self) -> PgConnectOptions {
        self.options().options([
            ("statement_timeout", STATEMENT_TIMEOUT_MS),
            ("idle_in_transaction_session_timeout", IDLE_TRANSACTION_TIMEOUT_MS),
        ])
    }
}

impl Database {
    /// Starts to reach and migrate the database in the background; `ready` is told when that is done.
    ///
    /// Must be called within a Tokio runtime.
    pub fn open(binding: Binding, migrations: Migrator, ready: Pending) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(binding.pool_options());
        let database = Self {
            pool,
            migrated: Arc::default(),
        };
        tokio::spawn(keep(database.clone(), binding, migrations, ready));
        database
    }

    /// The pool, once the schema is known to be there.
    ///
    /// # Errors
    /// [`Error::NotReached`] before that.
    pub fn pool(&self) -> Result<&PgPool, Error> {
        if self.migrated.load(Ordering::Acquire) {
            Ok(&self.pool)
        } else {
            Err(Error::NotReached)
        }
    }

    /// Closes the connections after their current statement.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Migrates, then looks after the binding for as long as the pool lives.
async fn keep(database: Database, mut binding: Binding, mut migrations: Migrator, ready: Pending) {
    migrations.set_ignore_missing(true);
    let mut retry = FIRST_RETRY;
    while let Err(error) = migrate(&binding, &migrations).await {
        tracing::warn!(
            error = chain(&error),
            host = binding.host,
            retry_ms = retry.as_millis(),
            "database not usable yet"
        );
        time::sleep(retry).await;
        retry = (retry * 2).min(LAST_RETRY);
        reread(&database, &mut binding);
    }
    warm(&database.pool).await;
    database.migrated.store(true, Ordering::Release);
    ready.ready();
    // Only now: who reads this may ask at once.
    tracing::info!(host = binding.host, database = binding.database, "database ready");
    while !database.pool.is_closed() {
        time::sleep(REREAD).await;
        reread(&database, &mut binding);
    }
}

/// Fills the pool: a new pod gets its part of the load at once, and would make all its requests wait for connections.
async fn warm(pool: &PgPool) {
    let connections = join_all((0..MAX_CONNECTIONS).map(|_| pool.acquire())).await;
    if let Some(Err(error)) = connections.iter().find(|connection| connection.is_err()) {
        tracing::warn!(error = chain(error), "the pool of connections is not full");
    }
}

async fn migrate(binding: &Binding, migrations: &Migrator) -> Result<(), MigrationError> {
    let options = binding
        .options()
        .options([("lock_timeout", LOCK_TIMEOUT_OF_MIGRATIONS_MS)]);
    let connecting = time::timeout(CONNECT_TIMEOUT, options.connect());
    let mut connection: PgConnection = match connecting.await {
        Ok(connected) => connected.map_err(MigrationError::Connect)?,
        Err(_) => return Err(MigrationError::Connect(sqlx::Error::PoolTimedOut)),
    };
    migrations.run_direct(None, &mut connection, false).await?;
    // The migration is done; a farewell that is lost changes nothing.
    let _ = connection.close().await;
    Ok(())
}

/// Takes over changed credentials for connections made from now on.
fn reread(database: &Database, binding: &mut Binding) {
    match Binding::load(&binding.folder) {
        Ok(fresh) if fresh != *binding => {
            tracing::info!(folder = %binding.folder.display(), "binding changed");
            database.pool.set_connect_options(fresh.pool_options());
            *binding = fresh;
        }
        Ok(_) => {}
        // What worked a moment ago may still work.
        Err(error) => tracing::warn!(%error, "keeping the binding as it was"),
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if may_pass(&error) {
            Self::Unavailable(error)
        } else {
            Self::Query(error)
        }
    }
}

/// Whether the same query may succeed later. Classes of SQLSTATE: PostgreSQL documentation, appendix A.
fn may_pass(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // 08 connection, 28 credentials (rotating), 40 rolled back, 53 resources, 57 operator's action;
            // 25006 a standby after failover, 3D000 a database that is being made, 55P03 a lock.
            ["08", "28", "40", "53", "57"]
                .iter()
                .any(|class| code.starts_with(class))
                || ["25006", "3D000", "55P03"].contains(&code.as_ref())
        }),
        _ => false,
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match &error {
            Error::NotReached => Self::unavailable("the database has not been reached yet", RETRY_AFTER),
            Error::Unavailable(_) => {
                tracing::warn!(error = chain(&error), "database away");
                Self::unavailable("the database is away", RETRY_AFTER)
            }
            Error::Query(_) => {
                tracing::error!(error = chain(&error), "query failed");
                Self::new(Kind::Internal)
            }
        }
    }
}

/// As a field value that logs the whole chain of causes.
fn chain<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn binding(name: &str, files: &[(&str, &str)]) -> (PathBuf, Result<Binding, config::Faults>) {
        let root = std::env::temp_dir().join(format!("trellis-binding-{name}-{}", std::process::id()));
        fs::create_dir_all(root.join("db")).unwrap();
        for (key, value) in files {
            fs::write(root.join("db").join(key), value).unwrap();
        }
        let env = Environment::from_pairs([(BINDING_ROOT, root.display().to_string())]);
        let read = config::load(env, |env| Binding::read(env, "db"));
        (root, read)
    }

    #[test]
    fn a_binding_is_a_folder_of_files_and_its_password_is_not_shown() {
        let files = [
            ("host", "postgres.shop\n"),
            ("port", "5432"),
            ("database", "user"),
            ("username", "user"),
        ];
        let (root, read) = binding("good", &[&files[..], &[("password", "s3cret\n")]].concat());
        let binding = read.unwrap();
        fs::remove_dir_all(root).unwrap();
        assert_eq!((binding.host.as_str(), binding.port), ("postgres.shop", 5432));
        assert_eq!(binding.password.expose(), "s3cret");
        assert!(!serde_json::to_string(&binding).unwrap().contains("s3cret"));
    }

    #[test]
    fn a_missing_key_is_a_fault_that_names_the_file_and_the_fix() {
        let (root, read) = binding("bad", &[("port", "5432")]);
        fs::remove_dir_all(root).unwrap();
        let text = read.unwrap_err().to_string();
        assert!(text.contains("db/host"), "{text}");
        assert!(text.contains("spec.bindings"), "{text}");
    }

    #[test]
    fn only_faults_that_may_pass_are_unavailable() {
        assert!(matches!(
            Error::from(sqlx::Error::PoolTimedOut),
            Error::Unavailable(_)
        ));
        assert!(matches!(
            Error::from(sqlx::Error::Io(io::Error::other("reset"))),
            Error::Unavailable(_)
        ));
        assert!(matches!(Error::from(sqlx::Error::RowNotFound), Error::Query(_)));
    }
}
