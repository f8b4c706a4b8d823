//! etcd, API server and controller manager, for this run only: own ports, own folder, nothing shared with a cluster that may
//! run on the machine.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tokio::process::Command;

use super::{audit, microservices};
use crate::{process::Process, wait};

/// How long anything may take to start.
const PATIENCE: Duration = Duration::from_secs(120);
/// Namespace of the operator.
pub const OPERATOR_NAMESPACE: &str = "trellis-system";

/// Who speaks to the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// This program.
    Bench,
    /// The controllers of Kubernetes.
    ControllerManager,
    /// The operator, with the rights that its manifests give to its ServiceAccount and no others.
    Operator,
}

impl User {
    const ALL: [Self; 3] = [Self::Bench, Self::ControllerManager, Self::Operator];

    /// As the API server knows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bench => "bench",
            Self::ControllerManager => "system:kube-controller-manager",
            Self::Operator => "system:serviceaccount:trellis-system:trellis-operator",
        }
    }

    const fn group(self) -> &'static str {
        match self {
            Self::Operator => "system:serviceaccounts",
            Self::Bench | Self::ControllerManager => "system:masters",
        }
    }

    const fn file(self) -> &'static str {
        match self {
            Self::Bench => "bench.conf",
            Self::ControllerManager => "controller-manager.conf",
            Self::Operator => "operator.conf",
        }
    }
}

/// The running control plane; it ends with this.
pub struct ControlPlane {
    programs: PathBuf,
    work: PathBuf,
    processes: Vec<Process>,
}

impl ControlPlane {
    /// Starts everything and waits until the API server is ready.
    pub async fn start(programs: &Path, work: &Path) -> Result<Self> {
        let mut cluster = Self {
            programs: programs.to_owned(),
            work: work.to_owned(),
            processes: Vec::new(),
        };
        let [etcd, peer, api, controllers] = [free_port()?, free_port()?, free_port()?, free_port()?];
        cluster.prepare(api).await?;
        cluster.etcd(etcd, peer)?;
        cluster.api_server(etcd, api)?;
        let what = format!("the API server is ready (logs: {})", work.display());
        wait::until(&what, PATIENCE, async || {
            cluster.check()?;
            // Its certificate is there a moment after it begins.
            let Ok(client) = cluster.client(User::Bench).await else {
                return Ok(None);
            };
            let ready = client.request_text(http_request("/readyz")?).await;
            Ok(ready.ok().map(drop))
        })
        .await?;
        cluster.controller_manager(controllers)?;
        Ok(cluster)
    }

    /// Keys, users, and what is logged.
    async fn prepare(&self, api: u16) -> Result<()> {
        // Two keys of the same kind are all that is needed of an authority here; kubeadm makes them.
        let keys = Command::new(self.programs.join("kubeadm"))
            .args(["init", "phase", "certs", "sa", "--cert-dir"])
            .arg(self.work.join("pki"))
            .output()
            .await
            .context("failed to start kubeadm")?;
        if !keys.status.success() {
            bail!("failed to make keys: {}", String::from_utf8_lossy(&keys.stderr));
        }
        let tokens = User::ALL.map(|user| {
            let name = user.name();
            format!("{},{name},{name},{}\n", token(user), user.group())
        });
        self.write("tokens.csv", &tokens.concat())?;
        self.write("audit-policy.yaml", audit::POLICY)?;
        for user in User::ALL {
            let certificate = self.work.join("certificates/apiserver.crt");
            let file = json!({
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "bench",
                "clusters": [{"name": "bench", "cluster": {
                    "server": format!("https://127.0.0.1:{api}"),
                    "certificate-authority": certificate,
                }}],
                "users": [{"name": "bench", "user": {"token": token(user)}}],
                "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
            });
            self.write(user.file(), &file.to_string())?;
        }
        Ok(())
    }

    /// With fsync, as in a real cluster.
    fn etcd(&mut self, port: u16, peer: u16) -> Result<()> {
        let (client, peer) = (
            format!("http://127.0.0.1:{port}"),
            format!("http://127.0.0.1:{peer}"),
        );
        let data = self.work.join("etcd");
        self.component(
            "etcd",
            &[
                ("data-dir", &data.display().to_string()),
                ("listen-client-urls", &client),
                ("advertise-client-urls", &client),
                ("listen-peer-urls", &peer),
                ("initial-advertise-peer-urls", &peer),
                ("initial-cluster", &format!("default={peer}")),
                ("log-level", "warn"),
            ],
        )
    }

    fn api_server(&mut self, etcd: u16, port: u16) -> Result<()> {
        let at = |file: &str| self.work.join(file).display().to_string();
        let flags = [
            ("etcd-servers", format!("http://127.0.0.1:{etcd}")),
            ("bind-address", "127.0.0.1".to_owned()),
            ("secure-port", port.to_string()),
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
        self.component(
            "kube-apiserver",
            &flags.each_ref().map(|(flag, value)| (*flag, &**value)),
        )
    }

    /// Its client-side limit of 20 requests a second is lifted: the Deployment controller is a peer here.
    fn controller_manager(&mut self, port: u16) -> Result<()> {
        let at = |file: &str| self.work.join(file).display().to_string();
        let flags = [
            ("kubeconfig", at(User::ControllerManager.file())),
            ("authentication-kubeconfig", at(User::ControllerManager.file())),
            ("authorization-kubeconfig", at(User::ControllerManager.file())),
            ("bind-address", "127.0.0.1".to_owned()),
            ("secure-port", port.to_string()),
            ("cert-dir", at("certificates-of-controllers")),
            ("service-account-private-key-file", at("pki/sa.key")),
            ("root-ca-file", at("certificates/apiserver.crt")),
            ("leader-elect", "false".to_owned()),
            ("kube-api-qps", "1000".to_owned()),
            ("kube-api-burst", "2000".to_owned()),
        ];
        self.component(
            "kube-controller-manager",
            &flags.each_ref().map(|(flag, value)| (*flag, &**value)),
        )
    }

    fn component(&mut self, name: &str, flags: &[(&str, &str)]) -> Result<()> {
        let mut command = Command::new(self.programs.join(name));
        command.args(flags.iter().map(|(flag, value)| format!("--{flag}={value}")));
        let log = self.work.join(format!("{name}.log"));
        self.processes.push(Process::start(name, &mut command, &log)?);
        Ok(())
    }

    /// Definitions, the operator's rights, and a namespace to work in.
    pub async fn install(&self, manifests: &Path) -> Result<()> {
        let operator = manifests.join("base/operator");
        let rights = ["namespace", "service-account", "cluster-role", "role"];
        let files = rights.map(|file| operator.join(format!("{file}.yaml")));
        self.apply(&[manifests.join("crds.yaml")]).await?;
        self.kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd",
            "--all",
        ])
        .await?;
        // The namespace comes first in the list, and so is there when the others come.
        self.apply(&files).await?;
        for namespace in [microservices::NAMESPACE, super::plain::NAMESPACE] {
            self.kubectl(&["create", "namespace", namespace]).await?;
        }
        Ok(())
    }

    async fn apply(&self, files: &[PathBuf]) -> Result<()> {
        let mut arguments = vec!["apply", "--server-side", "--namespace", OPERATOR_NAMESPACE];
        let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        arguments.extend(files.iter().flat_map(|file| ["--filename", file]));
        self.kubectl(&arguments).await
    }

    async fn kubectl(&self, arguments: &[&str]) -> Result<()> {
        let done = Command::new(self.programs.join("kubectl"))
            .arg("--kubeconfig")
            .arg(self.kubeconfig(User::Bench))
            .args(arguments)
            .output()
            .await
            .context("failed to start kubectl")?;
        if !done.status.success() {
            bail!(
                "kubectl {} failed: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&done.stderr)
            );
        }
        Ok(())
    }

    /// A client of the API server.
    pub async fn client(&self, user: User) -> Result<Client> {
        let file = Kubeconfig::read_from(self.kubeconfig(user)).context("failed to read a kubeconfig")?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .context("failed to use a kubeconfig")?;
        Client::try_from(config).context("failed to make a client")
    }

    /// For programs that read one.
    pub fn kubeconfig(&self, user: User) -> PathBuf {
        self.work.join(user.file())
    }

    /// See [`audit`].
    pub fn audit_log(&self) -> PathBuf {
        self.work.join("audit.log")
    }

    /// An error if a process has ended.
    pub fn check(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Process::check)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        fs::write(self.work.join(file), text).with_context(|| format!("failed to write {file}"))
    }
}

/// Not secret: the API server listens on this machine's loopback, for minutes, and holds nothing.
fn token(user: User) -> String {
    format!("{user:?}").to_lowercase()
}

fn http_request(path: &str) -> Result<http::Request<Vec<u8>>> {
    http::Request::get(path)
        .body(Vec::new())
        .context("failed to make a request")
}

/// A port that nobody has now.
pub fn free_port() -> Result<u16> {
    let listener =
        TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).context("failed to find a free port")?;
    Ok(listener
        .local_addr()
        .context("a socket without an address")?
        .port())
}
