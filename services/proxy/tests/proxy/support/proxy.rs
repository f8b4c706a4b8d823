//! The real binary.

use std::{
    fs,
    net::SocketAddr,
    ops::Deref,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use trellis_proxy_config::{Document, Protocol};

use super::{
    backend::Backend,
    client::{Answer, Client, get},
    document, eventually, free_port, soon,
};

/// A proxy. It is killed when it is dropped.
pub struct Proxy {
    pub health: SocketAddr,
    pub admin: SocketAddr,
    pub outbound: SocketAddr,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    _folder: Arc<Folder>,
}

/// A folder that goes when nobody needs it any more.
#[derive(Debug)]
pub struct Folder(PathBuf);

/// What a proxy is started with.
#[derive(Debug)]
pub struct Setup {
    pub folder: Arc<Folder>,
    env: Vec<(String, String)>,
    ports: [u16; 3],
}

impl Setup {
    /// A folder of its own and free ports, without a document.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("proxy").join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("state")).unwrap();
        fs::write(folder.join("token"), "a-token\n").unwrap();
        fs::write(folder.join("quota-token"), "a-quota-token\n").unwrap();
        Self {
            folder: Arc::new(Folder(folder)),
            env: Vec::new(),
            ports: [free_port(), free_port(), free_port()],
        }
    }

    /// With a document in the mounted file.
    pub fn with(document: &Document) -> Self {
        let setup = Self::new();
        setup.write(document);
        setup
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Replaces the mounted file.
    pub fn write(&self, document: &Document) {
        self.write_text(&serde_json::to_string(document).unwrap());
    }

    pub fn write_text(&self, text: &str) {
        let new = self.folder.join("new.json");
        fs::write(&new, text).unwrap();
        fs::rename(&new, self.folder.join("proxy.json")).unwrap();
    }

    /// Starts the proxy and waits until it answers about its health.
    pub async fn start(&self) -> Proxy {
        let [health, admin, outbound] = self.ports;
        let mut child = Command::new(env!("CARGO_BIN_EXE_trellis-proxy"))
            .arg("run")
            .args(["--config".as_ref(), self.folder.join("proxy.json").as_os_str()])
            .args(["--state-dir".as_ref(), self.folder.join("state").as_os_str()])
            .args(["--token-file".as_ref(), self.folder.join("token").as_os_str()])
            .arg("--quota-token-file")
            .arg(self.folder.join("quota-token"))
            .args(["--health-port", &health.to_string()])
            .args(["--admin-port", &admin.to_string()])
            .args(["--outbound-port", &outbound.to_string()])
            .args(["--pod", "order-0"])
            .env("LOG", "info,trellis_proxy=debug")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let read = Arc::clone(&lines);
        tokio::spawn(async move {
            while let Ok(Some(line)) = stdout.next_line().await {
                read.lock().unwrap().push(line);
            }
        });
        let proxy = Proxy {
            health: local(health),
            admin: local(admin),
            outbound: local(outbound),
            child,
            lines,
            _folder: Arc::clone(&self.folder),
        };
        eventually("the proxy answers", || async {
            Client::try_http1(proxy.health).await.ok()
        })
        .await;
        proxy
    }
}

impl Proxy {
    /// Starts a proxy with a document and waits until it is ready.
    pub async fn start(document: &Document) -> Self {
        let proxy = Setup::with(document).start().await;
        proxy.ready().await;
        proxy
    }

    pub async fn ready(&self) {
        eventually("the proxy is ready", || async {
            (self.readyz().await == 200).then_some(())
        })
        .await;
    }

    pub async fn readyz(&self) -> u16 {
        ask(self.health, "/readyz").await.status()
    }

    pub async fn metrics(&self) -> String {
        ask(self.health, "/metrics").await.text()
    }

    /// What the proxy runs by.
    pub async fn config(&self) -> Value {
        serde_json::from_slice(&ask(self.admin, "/config").await.body).unwrap()
    }

    /// Waits until a version is in use.
    pub async fn uses(&self, version: u64) {
        let what = format!("version {version} is in use");
        eventually(&what, || async {
            (self.config().await["version"] == version).then_some(())
        })
        .await;
    }

    /// Waits until a cluster has as many endpoints.
    pub async fn knows(&self, cluster: &str, count: usize) {
        eventually(&format!("{cluster} has {count} endpoints"), || async {
            let config = self.config().await;
            let known = config["endpoints"][cluster]["addresses"]
                .as_array()
                .map_or(0, Vec::len);
            (known == count).then_some(())
        })
        .await;
    }

    /// Runs the drain verb.
    pub async fn drain(&self, hold: u64) -> ExitStatus {
        let drain = Command::new(env!("CARGO_BIN_EXE_trellis-proxy"))
            .args(["drain", "--admin-port", &self.admin.port().to_string()])
            .args(["--hold", &hold.to_string()])
            .kill_on_drop(true)
            .status();
        soon("the drain verb returns", drain).await.unwrap()
    }

    /// Sends a signal by name.
    pub async fn signal(&self, name: &str) {
        let Some(pid) = self.child.id() else { return };
        let kill = Command::new("kill")
            .args([&format!("-{name}"), &pid.to_string()])
            .status();
        assert!(kill.await.unwrap().success());
    }

    /// Waits until the process has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        soon("the proxy ends", self.child.wait()).await.unwrap()
    }

    /// Everything written to stdout so far.
    pub fn lines(&self) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits for a line of the access log.
    pub async fn logged(&self, matches: impl Fn(&Value) -> bool) -> Value {
        eventually("a line in the access log", || async {
            self.lines()
                .into_iter()
                .find(|line| line["target"] == "access" && matches(line))
        })
        .await
    }
}

impl Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What a killed proxy writes at its end may come in between.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.lines.lock().unwrap();
            eprintln!("--- proxy {}\n{}", self.health, lines.join("\n"));
        }
    }
}

/// A sidecar before `app`, and the address at which it takes requests.
pub async fn before(app: &Backend, protocol: Protocol) -> (Proxy, SocketAddr) {
    let port = free_port();
    let document = document::sidecar().inbound(port, app.address, protocol);
    (Proxy::start(&document.build()).await, local(port))
}

/// The same before an app that tells what it got.
pub async fn before_echo(protocol: Protocol) -> (Backend, Proxy, SocketAddr) {
    let app = Backend::echo().await;
    let (proxy, address) = before(&app, protocol).await;
    (app, proxy, address)
}

pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

async fn ask(address: SocketAddr, path: &str) -> Answer {
    Client::http1(address).await.send(get(path)).await
}
