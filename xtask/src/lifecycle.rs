//! `cargo xtask check-cluster`: what `up` and `down` promise, tried on the running cluster, with the times they took.
//!
//! A second `up` restarts nothing; after an edit of one service only that one rolls; `down` leaves the machine as it was and
//! keeps the data; `up` copes with the death of each component and with a power cut, and refuses a full disk, a taken port
//! and a verb beside it. The edit is made in the checkout and taken back, so the file must be clean.

mod refusals;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::command::succeeds;
use crate::down;
use crate::install::{OPERATOR, SHOP};
use crate::kubectl::Kubectl;
use crate::lock;
use crate::node;
use crate::paths::Paths;
use crate::privilege;
use crate::progress;
use crate::provider::{self, Local, Name, Options};
use crate::up::{self, Wishes};

/// The service that is edited, and where.
const EDITED: &str = "user";
const FILE: &str = "services/user/src/main.rs";
/// How long a second `up` may take.
const QUICK: Duration = Duration::from_secs(15);

/// Why the checks cannot be made.
pub const IMPOSSIBLE: &str = "these checks are of the local provider, as root";

/// What each container is: pod, its id, and how often its containers were started again.
type Pods = BTreeMap<String, (String, i64)>;

/// Whether the checks can be made: they are of the local provider, and cutting the power takes root.
pub fn is_possible(paths: &Paths) -> bool {
    privilege::is_root()
        && provider::choose(paths, None, &Options::default())
            .is_ok_and(|provider| provider.name() == Name::Local)
}

/// Runs every check and prints the times.
pub fn check(paths: &Paths) -> Result<()> {
    ensure!(is_possible(paths), "{IMPOSSIBLE}");
    let provider = provider::choose(paths, None, &Options::default())?;
    // The lock of the end-to-end tests: what they look at is about to go away.
    let tests = File::create(std::env::temp_dir().join("trellis-e2e.lock"))
        .context("failed to open the lock of the tests")?;
    let step = progress::step("waiting for end-to-end tests that run");
    tests.lock().context("failed to wait for the end-to-end tests")?;
    step.done("");
    let lock = &lock::take(&paths.state)?;
    let up = |paths: &Paths| up::up_locked(paths, &Wishes::default(), lock);
    let kubectl = provider.kubectl();
    let local = Local::new(paths)?;
    let mut figures: Vec<(String, Duration)> = Vec::new();

    figures.push(("up, whatever is missing".to_owned(), timed(|| up(paths))?));
    let marker = mark(&kubectl)?;
    figures.push((
        "refused: a verb beside".to_owned(),
        timed(|| refusals::second_verb(paths, lock))?,
    ));
    figures.push((
        "refused: a full disk".to_owned(),
        timed(|| refusals::full_disk(paths))?,
    ));

    let (pods, components) = (pods(&kubectl)?, local.node().components());
    let again = timed(|| up(paths))?;
    figures.push(("up, nothing changed".to_owned(), again));
    ensure!(
        again < QUICK,
        "an `up` with nothing changed took {:.1} s, at most {} s",
        again.as_secs_f64(),
        QUICK.as_secs()
    );
    unchanged(&pods, &self::pods(&kubectl)?, |_| false)?;
    ensure!(
        components == local.node().components(),
        "an `up` with nothing changed restarted a component"
    );

    let edit = Edit::make(paths)?;
    figures.push(("up, one service edited".to_owned(), timed(|| up(paths))?));
    let rolled = self::pods(&kubectl)?;
    unchanged(&pods, &rolled, is_edited)?;
    ensure!(
        !rolled
            .keys()
            .any(|name| is_edited(name) && pods.contains_key(name)),
        "the edited service {EDITED} did not roll"
    );
    drop(edit);
    figures.push(("up, the edit taken back".to_owned(), timed(|| up(paths))?));

    for (component, _) in components {
        node::kill(local.node(), component)?;
        figures.push((format!("up after kill -9 of {component}"), timed(|| up(paths))?));
        unmarked(&kubectl, &marker)?;
    }

    let stop = Instant::now();
    let left = provider.stop()?;
    figures.push(("down".to_owned(), stop.elapsed()));
    down::report(&left);
    ensure!(
        left.is_empty(),
        "`down` left {} things on the machine",
        left.len()
    );
    let ports = timed(|| refusals::taken_ports(paths, provider.as_ref(), lock))?;
    figures.push(("refused: three taken ports".to_owned(), ports));
    figures.push(("up after down".to_owned(), timed(|| up(paths))?));
    unmarked(&kubectl, &marker)?;

    for (name, cleared) in [("up after kill -9 of all", false), ("up after a power cut", true)] {
        node::cut_power(local.node(), cleared)?;
        figures.push((name.to_owned(), timed(|| up(paths))?));
        unmarked(&kubectl, &marker)?;
    }

    println!();
    for (name, time) in figures {
        println!("{name:<42} {:>6.1} s", time.as_secs_f64());
    }
    Ok(())
}

fn timed(action: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let began = Instant::now();
    action().map(|()| began.elapsed())
}

fn is_edited(pod: &str) -> bool {
    pod.starts_with(&format!("{SHOP}/{EDITED}-"))
}

/// The pods that are not on their way out.
fn pods(kubectl: &Kubectl) -> Result<Pods> {
    let list = kubectl.json(&["get", "pods", "--all-namespaces", "-o", "json"])?;
    Ok(parse(&list))
}

fn parse(list: &Value) -> Pods {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // Other namespaces are somebody else's, who may be at work in them.
    let watched =
        |pod: &&Value| [SHOP, OPERATOR].contains(&pod["metadata"]["namespace"].as_str().unwrap_or_default());
    let living = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|pod| !pod["metadata"]["deletionTimestamp"].is_string())
        .filter(watched);
    living
        .map(|pod| {
            let name = format!(
                "{}/{}",
                text(&pod["metadata"]["namespace"]),
                text(&pod["metadata"]["name"])
            );
            let containers = ["initContainerStatuses", "containerStatuses"]
                .iter()
                .flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
            let restarts = containers
                .filter_map(|container| container["restartCount"].as_i64())
                .sum();
            (name, (text(&pod["metadata"]["uid"]), restarts))
        })
        .collect()
}

/// Fails if a pod of before is gone, is another, or was restarted, unless it may.
fn unchanged(before: &Pods, after: &Pods, may_change: impl Fn(&str) -> bool) -> Result<()> {
    let changed: Vec<&str> = before
        .iter()
        .filter(|(name, pod)| !may_change(name) && after.get(*name) != Some(pod))
        .map(|(name, _)| name.as_str())
        .collect();
    ensure!(
        changed.is_empty(),
        "restarted without need: {}",
        changed.join(", ")
    );
    Ok(())
}

/// Writes something into the database server that has to be there later.
fn mark(kubectl: &Kubectl) -> Result<String> {
    let marker = format!("check-cluster {}", jiff::Timestamp::now());
    query(kubectl, &format!("COMMENT ON DATABASE postgres IS '{marker}'"))?;
    Ok(marker)
}

/// Fails if it is not there any more.
fn unmarked(kubectl: &Kubectl, marker: &str) -> Result<()> {
    let found = query(
        kubectl,
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'postgres'",
    )?;
    ensure!(
        found.trim() == marker,
        "the database lost what was written: {found:?} instead of {marker:?}"
    );
    Ok(())
}

fn query(kubectl: &Kubectl, statement: &str) -> Result<String> {
    kubectl.output(&[
        "exec",
        "-n",
        SHOP,
        "postgres-0",
        "--",
        "psql",
        "-U",
        "postgres",
        "-tAc",
        statement,
    ])
}

/// A change of one source file, taken back when dropped.
struct Edit {
    file: PathBuf,
    original: String,
}

impl Edit {
    fn make(paths: &Paths) -> Result<Self> {
        let file = paths.repository.join(FILE);
        let mut git = Command::new("git");
        git.args(["diff", "--quiet", "HEAD", "--", FILE])
            .current_dir(&paths.repository);
        if !succeeds(&mut git) {
            bail!(
                "{FILE} has changes that are not committed\n  fix: commit them first; this check edits the file and takes it back"
            );
        }
        let original =
            fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
        let edited = edited(&original, &jiff::Timestamp::now().to_string())
            .with_context(|| format!("no main in {FILE}"))?;
        fs::write(&file, edited).with_context(|| format!("failed to write {}", file.display()))?;
        Ok(Self { file, original })
    }
}

impl Drop for Edit {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.file, &self.original) {
            eprintln!(
                "warning: failed to take the edit of {} back: {error}",
                self.file.display()
            );
        }
    }
}

/// The source with a statement in `main` that changes the binary and nothing that it does.
fn edited(source: &str, nonce: &str) -> Option<String> {
    let main = source.find("fn main(")?;
    let body = main + source[main..].find('{')? + 1;
    Some(format!(
        "{}\n    std::hint::black_box(\"{nonce}\");{}",
        &source[..body],
        &source[body..]
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_edit_is_the_first_statement_of_main() {
        let source = "use a;\n#[tokio::main]\nasync fn main() -> X {\n    run()\n}\n";
        let expected = "use a;\n#[tokio::main]\nasync fn main() -> X {\n    std::hint::black_box(\"n\");\n    run()\n}\n";
        assert_eq!(edited(source, "n").unwrap(), expected);
        assert_eq!(edited("fn other() {}", "n"), None);
    }

    #[test]
    fn a_restart_and_a_new_pod_are_changes_and_a_leaving_pod_is_none() {
        let list = |uid: &str, restarts: i64| {
            json!({"items": [
                {"metadata": {"namespace": "shop", "name": "user-1", "uid": uid}, "status": {"containerStatuses": [{"restartCount": restarts}]}},
                {"metadata": {"namespace": "shop", "name": "old", "uid": "o", "deletionTimestamp": "2026-01-01T00:00:00Z"}},
            ]})
        };
        let before = parse(&list("a", 0));
        assert_eq!(before.len(), 1);
        unchanged(&before, &parse(&list("a", 0)), |_| false).unwrap();
        assert!(unchanged(&before, &parse(&list("a", 1)), |_| false).is_err());
        assert!(unchanged(&before, &parse(&list("b", 0)), |_| false).is_err());
        unchanged(&before, &parse(&list("b", 0)), is_edited).unwrap();
    }
}
