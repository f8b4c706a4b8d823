//! etcd, API server and controller manager of the development cluster's own binary, without a kubelet: for what must be seen
//! on a real API server and needs no pods.
//!
//! Ports and folder are this process's own, so nothing is shared with a cluster that may run on the machine. Everything ends
//! with the process, however that ends (see [`process`]). Each writer is a user of its own, and the audit log has every write
//! with its author: who wrote what is counted there ([`audit`]) and nowhere else.

use std::env;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tokio::time;

use self::process::{Folder, Kept};

pub mod audit;
mod process;

/// How long anything may take to start.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Namespace of the operator.
pub const OPERATOR_NAMESPACE: &str = "trellis-system";
/// Environment variable with the folder of the components' binaries.
pub const PROGRAMS: &str = "TRELLIS_NODE_PROGRAMS";

/// Who speaks to the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// The test itself: an administrator.
    Test,
    /// Somebody else with the rights of an administrator.
    Rival,
    /// The controllers of Kubernetes.
    ControllerManager,
    /// The operator, with the rights that its manifests give to its ServiceAccount and no others.
    Operator,
}

impl User {
    const ALL: [Self; 4] = [Self::Test, Self::Rival, Self::ControllerManager, Self::Operator];

    /// As the API server knows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Rival => "rival",
            Self::ControllerManager => "system:kube-controller-manager",
            Self::Operator => "system:serviceaccount:trellis-system:trellis-operator",
        }
    }

    const fn group(self) -> &'static str {
        match self {
            Self::Operator => "system:serviceaccounts",
            Self::Test | Self::Rival | Self::ControllerManager => "system:masters",
        }
    }

    /// Not secret: the API server listens on this machine's loopback, for minutes, and holds nothing.
    fn token(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// What to start.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// Folder with the definitions and the operator's rights.
    pub manifests: &'a Path,
    /// Folder of the components' binaries; None: told by [`PROGRAMS`], or what the development cluster has built last.
    pub programs: Option<&'a Path>,
    /// What the audit log says of a write.
    pub audit_policy: &'static str,
    /// Whether the store writes through to the disk, as a real one does. Nothing here outlives the process.
    pub durable: bool,
}

impl<'a> Setup<'a> {
    /// What a test needs.
    pub const fn of_test(manifests: &'a Path) -> Self {
        Self {
            manifests,
            programs: None,
            audit_policy: audit::POLICY,
            durable: false,
        }
    }
}

/// The running control plane.
pub struct ControlPlane {
    programs: PathBuf,
    etcd: u16,
    api: u16,
    // In this order: the API server ends before its store, and the folder goes last.
    processes: Vec<Kept>,
    folder: Folder,
}

impl ControlPlane {
    /// Starts everything.
    ///
    /// # Errors
    /// A component is missing or does not start; its log is in the error.
    pub async fn start(setup: Setup<'_>) -> Result<Self> {
        let [etcd, peer, api, controllers] = [free_port()?, free_port()?, free_port()?, free_port()?];
        let mut cluster = Self {
            programs: setup.programs.map_or_else(programs, |told| Ok(told.to_owned()))?,
            etcd,
            api,
            processes: Vec::new(),
            folder: Folder::create("control-plane")?,
        };
        cluster.prepare(setup.audit_policy)?;
        cluster.start_etcd(peer, setup.durable)?;
        cluster.start_api_server().await?;
        cluster.install(setup.manifests)?;
        // After the definitions: the garbage collector looks for new kinds only every 30 s.
        cluster.start_controller_manager(controllers)?;
        Ok(cluster)
    }

    /// Keys, users, and what is logged.
    fn prepare(&self, audit_policy: &str) -> Result<()> {
        // Two keys of the same kind are all that is needed of an authority here; kubeadm makes them.
        run(Command::new(self.programs.join("kubeadm"))
            .args(["init", "phase", "certs", "sa", "--cert-dir"])
            .arg(self.file("pki")))?;
        let tokens = User::ALL.map(|user| {
            let name = user.name();
            format!("{},{name},{name},{}\n", user.token(), user.group())
        });
        self.write("tokens.csv", &tokens.concat())?;
        self.write("audit-policy.yaml", audit_policy)?;
        for user in User::ALL {
            let certificate = self.file("certificates/apiserver.crt");
            let file = json!({
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": {
                    "server": format!("https://127.0.0.1:{}", self.api),
                    "certificate-authority": certificate,
                }}],
                "users": [{"name": "test", "user": {"token": user.token()}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            });
            fs::write(self.kubeconfig(user), file.to_string()).context("failed to write a kubeconfig")?;
        }
        Ok(())
    }

    fn start_etcd(&mut self, peer: u16, durable: bool) -> Result<()> {
        let (client, peer) = (
            format!("http://127.0.0.1:{}", self.etcd),
            format!("http://127.0.0.1:{peer}"),
        );
        self.component(
            "etcd",
            &[
                ("data-dir", self.file("etcd").display().to_string()),
                ("listen-client-urls", client.clone()),
                ("advertise-client-urls", client),
                ("listen-peer-urls", peer.clone()),
                ("initial-advertise-peer-urls", peer.clone()),
                ("initial-cluster", format!("default={peer}")),
                ("log-level", "warn".to_owned()),
                ("unsafe-no-fsync", (!durable).to_string()),
            ],
        )
    }

    async fn start_api_server(&mut self) -> Result<()> {
        let at = |file: &str| self.file(file).display().to_string();
        let flags = [
            ("etcd-servers", format!("http://127.0.0.1:{}", self.etcd)),
            ("bind-address", "127.0.0.1".to_owned()),
            ("secure-port", self.api.to_string()),
            ("cert-dir", at("certificates")),
            ("token-auth-file", at("tokens.csv")),
            ("authorization-mode", "RBAC".to_owned()),
            (
                "service-account-issuer",
                "https://kubernetes.default.svc.cluster.local".to_owned(),
            ),
            ("service-account-key-file", at("pki/sa.pub")),
            ("service-account-signing-key-file", at("pki/sa.key")),
            ("service-cluster-ip-range", "10.96.0.0/16".to_owned()),
            ("audit-policy-file", at("audit-policy.yaml")),
            ("audit-log-path", self.audit_log().display().to_string()),
            // One file: it is read as a whole.
            ("audit-log-maxsize", "10000".to_owned()),
            ("profiling", "false".to_owned()),
        ];
        self.component("kube-apiserver", &flags)?;
        let deadline = Instant::now() + PATIENCE;
        while !self.is_ready().await {
            self.check()?;
            ensure!(
                Instant::now() < deadline,
                "the API server is not ready within {PATIENCE:?}"
            );
            time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    async fn is_ready(&self) -> bool {
        // Its certificate is there a moment after it begins.
        let Ok(client) = self.client(User::Test).await else {
            return false;
        };
        let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else {
            return false;
        };
        client.request_text(request).await.is_ok()
    }

    /// Kills the API server, runs `meanwhile`, and starts it anew: it remembers no watch.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart_api_server(&mut self) -> Result<()> {
        self.processes
            .retain(|process| process.name() != "kube-apiserver");
        self.start_api_server().await
    }

    /// Its client-side limit of 20 requests a second is lifted, and autoscalers are looked at every second.
    fn start_controller_manager(&mut self, port: u16) -> Result<()> {
        let at = |file: &str| self.file(file).display().to_string();
        let kubeconfig = self.kubeconfig(User::ControllerManager).display().to_string();
        let flags = [
            ("kubeconfig", kubeconfig.clone()),
            ("authentication-kubeconfig", kubeconfig.clone()),
            ("authorization-kubeconfig", kubeconfig),
            ("bind-address", "127.0.0.1".to_owned()),
            ("secure-port", port.to_string()),
            ("cert-dir", at("certificates-of-controllers")),
            ("service-account-private-key-file", at("pki/sa.key")),
            ("root-ca-file", at("certificates/apiserver.crt")),
            ("leader-elect", "false".to_owned()),
            ("kube-api-qps", "1000".to_owned()),
            ("kube-api-burst", "2000".to_owned()),
            ("horizontal-pod-autoscaler-sync-period", "1s".to_owned()),
        ];
        self.component("kube-controller-manager", &flags)
    }

    fn component(&mut self, name: &'static str, flags: &[(&str, String)]) -> Result<()> {
        let mut command = Command::new(self.programs.join(name));
        command.args(flags.iter().map(|(flag, value)| format!("--{flag}={value}")));
        let process = Kept::start(name, &command, &self.file(&format!("{name}.log")))?;
        // Last started, first ended.
        self.processes.insert(0, process);
        Ok(())
    }

    /// Makes the definitions and the operator's rights what `manifests` say.
    ///
    /// # Errors
    /// kubectl failed; its output is in the error.
    pub fn install(&self, manifests: &Path) -> Result<()> {
        let operator = manifests.join("base/operator");
        // The namespace comes first in the list, and so is there when the others come.
        let rights = ["namespace", "service-account", "cluster-role", "role"];
        let mut arguments = vec!["apply".to_owned(), "--server-side".to_owned()];
        arguments.push(format!("--namespace={OPERATOR_NAMESPACE}"));
        arguments.push(format!("--filename={}", manifests.join("crds.yaml").display()));
        arguments.extend(rights.map(|file| format!("--filename={}/{file}.yaml", operator.display())));
        self.kubectl(&arguments)?;
        self.kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd",
            "--all",
        ])
    }

    /// Runs kubectl as an administrator.
    ///
    /// # Errors
    /// It failed; its output is in the error.
    pub fn kubectl<S: AsRef<str>>(&self, arguments: &[S]) -> Result<()> {
        run(Command::new(self.programs.join("kubectl"))
            .arg("--kubeconfig")
            .arg(self.kubeconfig(User::Test))
            .args(arguments.iter().map(AsRef::as_ref)))
    }

    /// A client of the API server.
    ///
    /// # Errors
    /// The API server has no certificate yet.
    pub async fn client(&self, user: User) -> Result<Client> {
        let file = Kubeconfig::read_from(self.kubeconfig(user)).context("failed to read a kubeconfig")?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .context("failed to use a kubeconfig")?;
        Client::try_from(config).context("failed to make a client")
    }

    /// For programs that read one.
    pub fn kubeconfig(&self, user: User) -> PathBuf {
        self.file(&format!("{}.conf", user.token()))
    }

    /// See [`audit`].
    pub fn audit_log(&self) -> PathBuf {
        self.file("audit.log")
    }

    /// A place for a file that goes with the control plane.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An error if a process has ended, with the end of its log.
    pub fn check(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Kept::check)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        fs::write(self.file(file), text).with_context(|| format!("failed to write {file}"))
    }
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command
        .output()
        .with_context(|| format!("failed to start {name}"))?;
    ensure!(
        done.status.success(),
        "{name} failed: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

/// Where the components are: told by the environment, or what the development cluster has built last.
fn programs() -> Result<PathBuf> {
    if let Some(folder) = env::var_os(PROGRAMS) {
        return Ok(folder.into());
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .context("HOME is not set")?;
    let built = fs::read_dir(cache.join("trellis/node"))
        .into_iter()
        .flatten()
        .flatten();
    let newest = built
        .map(|entry| entry.path())
        .filter(|folder| folder.join("kube-apiserver").exists())
        .max_by_key(|folder| folder.metadata().and_then(|meta| meta.modified()).ok());
    match newest {
        Some(folder) => Ok(folder),
        None => bail!(
            "there is no kube-apiserver\n  fix: `cargo xtask up` builds it, or set {PROGRAMS} to a folder with it"
        ),
    }
}

/// A port that nobody has now.
///
/// # Errors
/// There is none.
pub fn free_port() -> Result<u16> {
    let listener =
        TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).context("failed to find a free port")?;
    let address = listener.local_addr().context("a socket without an address")?;
    Ok(address.port())
}
