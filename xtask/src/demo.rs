//! `cargo xtask demo`: what sagas are for, told in the terminal by the commands that a user would type.
//!
//! Each scene says what is about to happen, shows the command, runs it, and shows what came of it. Everything is real: orders go through
//! the gateway, their runs are the engine's, and what is asserted is read from the services. A scene that ends otherwise than it should
//! ends the demo.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::command::{cargo, output};
use crate::kubectl::Kubectl;
use crate::paths::Paths;
use crate::poll;
use crate::progress;
use crate::provider::{self, Options};

const STOCK: u32 = 10;
/// Longest wait for something to have happened.
const SOON: Duration = Duration::from_secs(30);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Tells the story.
pub fn run(paths: &Paths) -> Result<()> {
    let provider = provider::choose(paths, None, &Options::default())?;
    let kubectl = provider.kubectl();
    let gateway = provider
        .gateway()
        .context("no address of the gateway is known\n  fix: run the demo on the local cluster, after `cargo xtask up`")?;
    let api = Api::open(&kubectl)?;
    let story = Story {
        program: program(&paths.repository)?,
        kubectl,
        gateway,
        api,
        item: format!("tea-{:04x}", std::process::id()),
    };
    story.tell()
}

/// Compiles `trellis` as a build of the whole workspace does, so that nothing is compiled twice; it is put beside this program.
fn program(repository: &Path) -> Result<PathBuf> {
    let step = progress::step("compiling trellis");
    output(cargo(repository).args(["build", "--quiet", "--workspace", "--bin", "trellis"]))?;
    step.done("");
    Ok(std::env::current_exe()?.with_file_name("trellis"))
}

/// What the story is told with.
struct Story {
    /// The command line `trellis`.
    program: PathBuf,
    kubectl: Kubectl,
    gateway: String,
    api: Api,
    item: String,
}

/// The way to services that the gateway does not serve.
struct Api {
    proxy: Child,
    address: String,
}

impl Api {
    fn open(kubectl: &Kubectl) -> Result<Self> {
        let mut proxy = kubectl
            .command(["proxy", "--port=0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("failed to start kubectl; `cargo xtask up` makes it")?;
        let mut line = String::new();
        let said = proxy.stdout.take().map(BufReader::new);
        said.context("kubectl proxy has no output")?
            .read_line(&mut line)?;
        // "Starting to serve on 127.0.0.1:8001"
        let address = line
            .split_whitespace()
            .next_back()
            .map(|address| format!("http://{address}"));
        let address =
            address.with_context(|| "kubectl proxy did not start; is the cluster up? `cargo xtask up`");
        match address {
            Ok(address) => Ok(Self { proxy, address }),
            Err(error) => {
                end(&mut proxy);
                Err(error)
            }
        }
    }

    /// A path of a service of the shop, as a URL.
    fn url(&self, service: &str, path: &str) -> String {
        format!(
            "{}/api/v1/namespaces/shop/services/{service}:8080/proxy{path}",
            self.address
        )
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        end(&mut self.proxy);
    }
}

impl Story {
    fn tell(&self) -> Result<()> {
        say(
            "An order is a saga over three services: inventory reserves, payment holds the money, order confirms; then the goods leave the house, and the money is taken.",
        );
        self.curl(
            "PUT",
            &self.api.url("inventory", &format!("/items/{}", self.item)),
            Some(&json!({"on_hand": STOCK})),
        )?;
        for username in ["ada", "declined-dan", "frozen-fay"] {
            self.quietly(
                "POST",
                &format!("{}/user/users/", self.gateway),
                Some(&json!({"username": username})),
            )?;
        }

        say("1. A good order. Two teas for Ada; the client waits for it.");
        let good = self.order("ada")?;
        self.expect(&good, "Completed")?;
        self.show(&good)?;
        self.stock(STOCK - 2)?;

        say("2. A payment is declined. What was reserved is given back, and the order is rejected.");
        let declined = self.order("declined-dan")?;
        self.expect(&declined, "Rejected")?;
        self.show(&declined)?;
        self.stock(STOCK - 2)?;

        say(
            "3. An account is frozen after the order was confirmed: there is no way back, and no way on. The run is stuck, and says so.",
        );
        let stuck = self.order("frozen-fay")?;
        let run = until("the run to be stuck", || {
            let run = self.run_of(&stuck)?;
            Ok((run["status"] == "Stuck").then_some(run))
        })?;
        until("the saga to tell of it", || {
            let saga = self
                .kubectl
                .json(&["get", "saga", "place-order", "-n", "shop", "-o", "json"])?;
            Ok(saga["status"]["runs"]["stuck"]
                .as_u64()
                .filter(|stuck| *stuck > 0))
        })?;
        self.kubectl(&["get", "sagas", "-n", "shop"])?;
        self.show(&stuck)?;
        say(
            "Fay pays in cash. An operator says so, and the run goes on; who said it, and why, stands in the run.",
        );
        let id = run["id"].as_str().context("a run without an id")?;
        self.trellis(&[
            "saga",
            "skip",
            id,
            "--step",
            "capture",
            "--reason",
            "paid in cash",
        ])?;
        self.expect(&stuck, "Completed")?;
        self.stock(STOCK - 4)?;

        say("4. Ada changes her mind. Money and goods return.");
        self.curl(
            "POST",
            &format!("{}/order/orders/{good}/cancel", self.gateway),
            None,
        )?;
        self.expect(&good, "Cancelled")?;
        self.stock(STOCK - 2)?;
        self.trellis(&["saga", "list", "-n", "shop", "--limit", "4"])?;
        println!("\nThe same, with everything killed meanwhile: cargo xtask soak orders");
        Ok(())
    }

    /// Orders two of the item, and returns the order's id.
    fn order(&self, username: &str) -> Result<String> {
        let lines = json!([{"sku": self.item, "quantity": 2}]);
        let body = json!({"username": username, "amount": 12.50, "lines": lines});
        let order = self.curl("POST", &format!("{}/order/orders/", self.gateway), Some(&body))?;
        let id = order["order_id"]
            .as_u64()
            .with_context(|| format!("no order: {order}"))?;
        Ok(id.to_string())
    }

    /// Waits until the order is what it should be.
    fn expect(&self, order: &str, status: &str) -> Result<()> {
        let url = format!("{}/order/orders/{order}", self.gateway);
        until(&format!("order {order} to be {status}"), || {
            let found = self.quietly("GET", &url, None)?;
            Ok((found["status"] == status).then_some(()))
        })?;
        self.curl("GET", &url, None)?;
        Ok(())
    }

    /// Says how much of the item there is, and fails if it is another number.
    fn stock(&self, available: u32) -> Result<()> {
        let url = self.api.url("inventory", &format!("/items/{}", self.item));
        let found = self.quietly("GET", &url, None)?;
        println!("  stock: {found}");
        ensure!(
            found["available"] == available,
            "{available} of {} should be available",
            self.item
        );
        Ok(())
    }

    /// The newest run of an order: its key is the order's id.
    fn run_of(&self, order: &str) -> Result<Value> {
        let listed = output(
            self.command()
                .args(["saga", "list", "-n", "shop", "--limit", "50", "-o", "json"]),
        )?;
        let runs: Vec<Value> = serde_json::from_str(&listed)?;
        let run = runs.into_iter().find(|run| run["key"] == order);
        run.with_context(|| format!("order {order} has no run"))
    }

    fn show(&self, order: &str) -> Result<()> {
        let run = self.run_of(order)?;
        self.trellis(&["saga", "show", run["id"].as_str().unwrap_or_default()])
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(file) = self.kubectl.kubeconfig() {
            command.env("KUBECONFIG", file);
        }
        command
    }

    fn trellis(&self, arguments: &[&str]) -> Result<()> {
        shown("trellis", arguments.iter().copied());
        indented(&output(self.command().args(arguments))?);
        Ok(())
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<()> {
        shown("kubectl", arguments.iter().copied());
        indented(&self.kubectl.output(arguments)?);
        Ok(())
    }

    /// A request, as a user would type it, and its answer.
    fn curl(&self, method: &str, url: &str, body: Option<&Value>) -> Result<Value> {
        let arguments = curl_arguments(method, url, body);
        shown("curl", arguments.iter().map(String::as_str));
        let answer = self.quietly(method, url, body)?;
        println!("  {answer}");
        Ok(answer)
    }

    fn quietly(&self, method: &str, url: &str, body: Option<&Value>) -> Result<Value> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error"]);
        curl.args(curl_arguments(method, url, body));
        let text = output(&mut curl).context("the demo speaks to the shop by curl, 7.82 or later")?;
        serde_json::from_str(&text).with_context(|| format!("an answer that is no JSON: {text}"))
    }
}

fn curl_arguments(method: &str, url: &str, body: Option<&Value>) -> Vec<String> {
    let implied = if body.is_some() { "POST" } else { "GET" };
    let method = (method != implied).then_some(["-X", method]);
    let mut arguments = vec![url.to_owned()];
    arguments.extend(method.iter().flatten().map(|argument| (*argument).to_owned()));
    if let Some(body) = body {
        arguments.extend(["--json".to_owned(), body.to_string()]);
    }
    if url.ends_with("/orders/") {
        arguments.extend(["-H".to_owned(), "Prefer: wait=5".to_owned()]);
    }
    arguments
}

fn until<T>(what: &str, ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let found = poll::until(SOON, PAUSE, ask)?;
    found.with_context(|| {
        format!("waited {SOON:?} for {what}\n  see: trellis saga list -n shop; cargo xtask logs saga")
    })
}

fn say(text: &str) {
    println!("\n{text}\n");
}

/// A command as a user would type it.
fn shown<'a>(program: &str, arguments: impl Iterator<Item = &'a str>) {
    let quoted = arguments.map(|argument| {
        let is_plain = argument
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_./:=".contains(&byte));
        if is_plain {
            argument.to_owned()
        } else {
            format!("'{argument}'")
        }
    });
    println!("$ {program} {}", quoted.collect::<Vec<_>>().join(" "));
}

fn indented(text: &str) {
    text.lines().for_each(|line| println!("  {line}"));
}

fn end(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}
