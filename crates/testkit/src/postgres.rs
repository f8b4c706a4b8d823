//! A throw-away PostgreSQL, one for each test process, and a database for each test.
//!
//! ```text
//! test process --pipe--> sh: starts postgres, reads the pipe; at its end kills postgres, removes the folder
//! ```
//!
//! A test process has no moment at which it could reliably stop a server: statics are not dropped, and it
//! may be killed. Its end of a pipe is closed whatever happens, so the shell at the other end does the
//! cleaning. The server listens on a Unix socket in its own folder: no port to collide on, and it may run
//! beside any other. Durability is off; nothing here outlives the process.
//!
//! PostgreSQL refuses to run as root; then it runs as `postgres`, or `nobody` where that user is missing.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::{Gid, Uid, User};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::sync::OnceCell;

use crate::wait;

const INSTALL: &str = "PostgreSQL's server is not installed; run: apt-get install postgresql-15";
const PASSWORD: &str = "first-password";
/// Part of the socket's name; nothing listens on it.
const PORT: u16 = 5432;
const KEEP: &str = r#"
trap '' INT TERM
"$1" -D "$2/data" -k "$2" -p 5432 -c listen_addresses= $3 >"$2/log" 2>&1 &
read -r nothing
kill -QUIT $!
wait $!
rm -rf "$2"
"#;

/// Nothing outlives the process.
const FAST: &str = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c shared_buffers=16MB";
/// As somebody would run it: what is committed is on the disk.
const DURABLE: &str = "-c shared_buffers=256MB -c max_wal_size=4GB";

static SERVER: OnceCell<Server> = OnceCell::const_new();
static DURABLE_SERVER: OnceCell<Server> = OnceCell::const_new();
static NEXT: AtomicU32 = AtomicU32::new(1);

/// The server of this process.
#[derive(Debug)]
struct Server {
    folder: PathBuf,
    /// Holds the write end of the pipe open.
    _keeper: Child,
}

/// A database with a role of its own and a Service Binding that leads to it.
#[derive(Debug)]
pub struct TestDatabase {
    server: &'static Server,
    name: String,
    binding_root: PathBuf,
}

impl TestDatabase {
    /// An empty database.
    ///
    /// # Panics
    /// If PostgreSQL is not installed or does not start; the message says what to do.
    pub async fn create() -> Self {
        let database = Self::reserve().await;
        database.appear().await;
        database
    }

    /// An empty database on a server that keeps what it commits, for measurements.
    ///
    /// # Panics
    /// As [`TestDatabase::create`].
    pub async fn durable() -> Self {
        let start = || Server::start("durable", DURABLE);
        let database = Self::reserve_on(DURABLE_SERVER.get_or_init(start).await).await;
        database.appear().await;
        database
    }

    /// A role and a binding for a database that does not exist yet, as a service meets it when it starts
    /// before its database.
    pub async fn reserve() -> Self {
        let start = || Server::start("fast", FAST);
        Self::reserve_on(SERVER.get_or_init(start).await).await
    }

    async fn reserve_on(server: &'static Server) -> Self {
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let binding_root = server.folder.join(format!("{name}-bindings"));
        fs::create_dir_all(binding_root.join("db")).unwrap();
        if let Some((uid, gid)) = owner() {
            // Whoever owns a folder may empty it, and the keeper cleans up as the server's user.
            for folder in [&binding_root, &binding_root.join("db")] {
                chown(folder, Some(uid.as_raw()), Some(gid.as_raw())).unwrap();
            }
        }
        let database = Self {
            server,
            name,
            binding_root,
        };
        let Self { name, .. } = &database;
        database
            .administer(&format!("CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'"))
            .await;
        let host = server.folder.display().to_string();
        let port = PORT.to_string();
        for (key, value) in [
            ("host", &*host),
            ("port", &port),
            ("database", name),
            ("username", name),
        ] {
            database.write(key, value);
        }
        database.write("password", PASSWORD);
        database
    }

    /// Makes a reserved database exist.
    pub async fn appear(&self) {
        self.administer(&format!("CREATE DATABASE {0} OWNER {0}", self.name))
            .await;
    }

    /// Folder for `SERVICE_BINDING_ROOT`; the binding's name is `db`.
    pub fn binding_root(&self) -> &Path {
        &self.binding_root
    }

    /// Name of the database and of its role.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Overwrites one file of the binding.
    pub fn write(&self, key: &str, value: &str) {
        fs::write(self.binding_root.join("db").join(key), value).unwrap();
    }

    /// Runs one statement as the server's administrator, in the administrator's database.
    pub async fn administer(&self, sql: &str) {
        let mut connection = self.server.connect().await.unwrap();
        let ran = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&mut connection)
            .await;
        ran.unwrap_or_else(|error| panic!("{sql}: {error}"));
        connection.close().await.unwrap();
    }

    /// Takes the database away from its role: open connections end, new ones are refused.
    pub async fn go_away(&self) {
        let Self { name, .. } = self;
        self.administer(&format!("ALTER ROLE {name} NOLOGIN")).await;
        self.administer(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'"
        ))
        .await;
    }

    /// Undoes [`TestDatabase::go_away`].
    pub async fn come_back(&self) {
        self.administer(&format!("ALTER ROLE {} LOGIN", self.name)).await;
    }
}

impl Server {
    async fn start(name: &str, settings: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("trellis-postgres-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        // Tests of the same process may run as root while the server does not.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let owner = owner();
        if let Some((uid, gid)) = owner {
            chown(&folder, Some(uid.as_raw()), Some(gid.as_raw())).unwrap();
        }
        let pwfile = folder.join("pwfile");
        fs::write(&pwfile, PASSWORD).unwrap();
        let mut initdb = Command::new(binary("initdb"));
        initdb
            .arg("-D")
            .arg(folder.join("data"))
            .arg("--pwfile")
            .arg(&pwfile)
            .args([
                "--username=admin",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "--no-instructions",
            ]);
        let made = as_owner(&mut initdb, owner).output().unwrap();
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );

        let mut keeper = Command::new("sh");
        keeper
            .args(["-c", KEEP, "keep"])
            .arg(binary("postgres"))
            .arg(&folder)
            .arg(settings);
        keeper
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/");
        let keeper = as_owner(&mut keeper, owner).spawn().unwrap();
        let server = Self {
            folder,
            _keeper: keeper,
        };
        server.wait_for_start().await;
        server
    }

    async fn wait_for_start(&self) {
        let log = self.folder.join("log");
        let started = async || match self.connect().await {
            Ok(connection) => connection.close().await.is_ok(),
            Err(error) => {
                let mut text = String::new();
                // The log appears with the server.
                let _ = fs::File::open(&log).and_then(|mut file| file.read_to_string(&mut text));
                assert!(!text.contains("FATAL:  could not"), "postgres: {error}\n{text}");
                false
            }
        };
        wait::until("PostgreSQL accepts connections", started).await;
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnectOptions::new_without_pgpass()
            .host(&self.folder.display().to_string())
            .port(PORT)
            .username("admin")
            .password(PASSWORD)
            .database("postgres")
            .connect()
            .await
    }
}

/// The user that the server runs as, if not the present one.
fn owner() -> Option<(Uid, Gid)> {
    if !Uid::effective().is_root() {
        return None;
    }
    let find = |name| User::from_name(name).ok().flatten();
    let user = find("postgres")
        .or_else(|| find("nobody"))
        .expect("root needs a user postgres or nobody");
    Some((user.uid, user.gid))
}

fn as_owner(command: &mut Command, owner: Option<(Uid, Gid)>) -> &mut Command {
    match owner {
        Some((uid, gid)) => command.uid(uid.as_raw()).gid(gid.as_raw()).current_dir("/"),
        None => command,
    }
}

/// A program of the server, to be run as whoever owns a database of tests.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(binary(name));
    as_owner(&mut command, owner());
    command
}

/// Finds a program of the server: in PATH, or where Debian keeps it, newest version first.
fn binary(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    versions.sort_by_key(|path| {
        std::cmp::Reverse(
            path.file_name()
                .and_then(|name| name.to_str()?.parse::<u32>().ok()),
        )
    });
    folders.extend(versions.into_iter().map(|version| version.join("bin")));
    let found = folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{INSTALL} ({name} is neither in PATH nor in /usr/lib/postgresql)"))
}
