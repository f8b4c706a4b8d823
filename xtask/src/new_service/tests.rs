use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::*;
use crate::command::{cargo, output};

const REPOSITORY: &str = "..";
const PAYMENT: &str = "../services/payment";
const SHOP: &str = "manifests/samples/shop";

/// As much of a checkout as a service is written into.
struct Checkout(PathBuf);

impl Checkout {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = env::temp_dir().join(format!("trellis-new-service-{}-{number}", std::process::id()));
        for folder in ["", "services", SHOP] {
            fs::create_dir_all(root.join(folder)).unwrap();
            for entry in fs::read_dir(Path::new(REPOSITORY).join(folder)).unwrap() {
                let (from, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
                if from.is_file() {
                    fs::copy(from, root.join(folder).join(name)).unwrap();
                } else if folder == "services" {
                    fs::create_dir(root.join(folder).join(name)).unwrap();
                }
            }
        }
        Self(root)
    }

    /// Makes one package the only member. The libraries stay where they are: so they are other packages than those of the
    /// workspace, and what is compiled of them here takes nobody's place in the target folder.
    fn keep_only(&self, member: &str) {
        let repository = fs::canonicalize(REPOSITORY).unwrap();
        let text = fs::read_to_string(self.0.join(MANIFEST)).unwrap();
        let (before, rest) = text.split_once("members = [\n").unwrap();
        let (_, after) = rest.split_once("]\n").unwrap();
        let text = format!("{before}members = [\"{member}\"]\n{after}");
        let libraries = format!("{{ path = \"{}/", repository.display());
        fs::write(self.0.join(MANIFEST), text.replace("{ path = \"", &libraries)).unwrap();
    }

    /// Every file, with its text.
    fn files(&self) -> BTreeMap<PathBuf, String> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.0.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                if entry.path().is_dir() {
                    folders.push(entry.path());
                } else {
                    files.insert(entry.path(), fs::read_to_string(entry.path()).unwrap());
                }
            }
        }
        files
    }

    fn cargo(&self, arguments: &[&str]) {
        // Where this test was compiled to: target/debug/deps.
        let program = env::current_exe().unwrap();
        let mut command = cargo(&self.0);
        command
            .args(arguments)
            .env("CARGO_TARGET_DIR", program.ancestors().nth(3).unwrap());
        if let Err(error) = output(&mut command) {
            panic!("{error:#}");
        }
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn filled(name: &str) -> BTreeMap<String, String> {
    let files = template::fill(Path::new(REPOSITORY), &Name::parse(name).unwrap()).unwrap();
    files.into_iter().map(|file| (file.place, file.text)).collect()
}

/// What is made for the name `payment`, and what the payment service has.
fn both(place: &str) -> (String, String) {
    let made = filled("payment").remove(&format!("services/payment/{place}"));
    let real = fs::read_to_string(Path::new(PAYMENT).join(place)).unwrap();
    (made.unwrap_or_else(|| panic!("no {place} is made")), real)
}

/// A text without its first line.
fn below(text: &str) -> &str {
    text.split_once('\n').map_or("", |(_, rest)| rest)
}

/// The item of a program that begins with `start`, to the brace that closes it.
fn item<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    let mut lines = text
        .lines()
        .skip_while(|line| !line.trim_start().starts_with(start));
    let first = lines.next().unwrap_or_else(|| panic!("no {start}"));
    let indent = &first[..first.len() - first.trim_start().len()];
    let end = format!("{indent}}}");
    let mut item = vec![first];
    for line in lines {
        item.push(line);
        if line == end {
            break;
        }
    }
    item
}

#[test]
fn every_placeholder_is_filled_and_nothing_of_the_model_is_left() {
    for (place, text) in filled("gift-card") {
        let both = format!("{place}\n{text}");
        assert!(!both.contains("__"), "{both}");
        assert!(!both.contains("payment") && !both.contains("uthoris"), "{both}");
        assert!(text.ends_with('\n'), "{place}");
    }
}

#[test]
fn the_name_stands_in_rust_where_a_keyword_may_stand() {
    for (place, text) in filled("yield") {
        let lines = text.lines().filter(|line| line.contains("yield"));
        for line in lines.filter(|_| place.ends_with(".rs")) {
            let is_text = line
                .split('"')
                .skip(1)
                .step_by(2)
                .any(|text| text.contains("yield"));
            assert!(is_text || line.starts_with("//!"), "{place}: {line}");
        }
    }
}

#[test]
fn a_new_service_has_the_files_of_the_others() {
    let mut folders = vec![PathBuf::from(PAYMENT)];
    let mut real = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                real.push(entry.path().display().to_string().replace("../", ""));
            }
        }
    }
    real.push("manifests/samples/shop/payment.yaml".to_owned());
    // The types of its domain are more than one file holds.
    real.retain(|place| !place.ends_with("src/domain/name.rs"));
    real.sort();
    assert_eq!(filled("payment").into_keys().collect::<Vec<_>>(), real);
}

#[test]
fn files_that_differ_by_the_name_alone_are_as_in_the_payment_service() {
    for place in ["src/config.rs", "migrations/0002_saga_barrier.sql"] {
        let (made, real) = both(place);
        assert_eq!(made, real, "{place}");
    }
    let (made, real) = both("src/main.rs");
    assert_eq!(below(&made), below(&real));
    let (made, real) = both("Cargo.toml");
    assert_eq!(made, real.replace("strum.workspace = true\n", ""));
    let (made, real) = both("tests/process.rs");
    let made = made.replace("items", "authorisations");
    assert_eq!(template::format(Path::new(REPOSITORY), &made).unwrap(), real);
    let place = "manifests/samples/shop/payment.yaml";
    let real = fs::read_to_string(Path::new(REPOSITORY).join(place)).unwrap();
    assert_eq!(below(&filled("payment")[place]), below(&real));
}

#[test]
fn what_is_the_same_in_every_service_is_as_in_the_payment_service() {
    for (place, starts) in [
        ("src/domain.rs", &["fn noted<"][..]),
        (
            "src/error.rs",
            &["impl From<sqlx::Error> for Error", "impl IntoResponse for Error"],
        ),
        ("src/routes.rs", &["pub fn build("]),
        (
            "src/store.rs",
            &[
                "pub struct Store",
                "pub fn migrations(",
                "pub async fn change(",
                "pub async fn keep_clean(",
                "pub async fn clean(",
                "fn decode(",
            ],
        ),
        (
            "src/routes/tests.rs",
            &[
                "struct Shop",
                "fn start(",
                "async fn ready(",
                "async fn wait(",
                "async fn get(",
                "async fn send(",
                "fn request(",
                "fn the_openapi_document_says_what_is_routed(",
                "fn the_barrier_is_migrated_as_its_crate_says(",
            ],
        ),
    ] {
        let (made, real) = both(place);
        for start in starts {
            assert_eq!(item(&made, start), item(&real, start), "{place}");
        }
    }
    let (made, real) = both("openapi.json");
    let [made, real]: [Value; 2] = [made, real].map(|text| serde_json::from_str(&text).unwrap());
    for part in [
        "/openapi",
        "/paths/~1openapi.json",
        "/components/responses",
        "/components/schemas/Problem",
    ] {
        assert_eq!(made.pointer(part).unwrap(), real.pointer(part).unwrap(), "{part}");
    }
}

#[test]
fn a_bad_or_taken_name_is_refused_with_the_fix_and_nothing_is_written() {
    let checkout = Checkout::new();
    let before = checkout.files();
    for (name, wrong) in [
        ("Shipping", "'S' is in it"),
        ("../shipping", "'.' is in it"),
        ("trellis-mail", "no name starts with trellis-"),
        ("payment", "services/payment exists"),
        ("quota", "services/quota exists"),
        ("gateway", "manifests/samples/shop/gateway.yaml exists"),
        (
            "kustomization",
            "manifests/samples/shop/kustomization.yaml exists",
        ),
    ] {
        let error = format!("{:#}", run(&checkout.0, name).unwrap_err());
        assert!(error.contains(wrong) && error.contains("\n  fix: "), "{error}");
    }
    assert_eq!(checkout.files(), before);
}

#[test]
fn what_fails_half_way_is_taken_back() {
    let checkout = Checkout::new();
    let before = checkout.files();
    // In the way of the last change.
    fs::create_dir(checkout.0.join(format!("{KUSTOMIZATION}.new"))).unwrap();
    let error = format!("{:#}", run(&checkout.0, "probe").unwrap_err());
    assert!(
        error
            .starts_with("failed to make the service probe: nothing was changed: failed to write manifests/"),
        "{error}"
    );
    assert_eq!(checkout.files(), before);
    assert!(!checkout.0.join("services/probe").exists());
}

#[test]
fn a_new_service_compiles_without_a_warning_and_is_formatted() {
    let checkout = Checkout::new();
    // So long that lines break elsewhere.
    let name = format!("probe-{}", "x".repeat(44));
    run(&checkout.0, &name).unwrap();
    checkout.keep_only(&format!("services/{name}"));
    let package = format!("shop-{name}");
    checkout.cargo(&["fmt", "--package", &package, "--check"]);
    let lints = [
        "clippy",
        "--offline",
        "--all-targets",
        "--package",
        &package,
        "--",
        "-D",
        "warnings",
    ];
    checkout.cargo(&lints);
}

#[test]
fn what_to_type_next_is_said() {
    let report = report(&Name::parse("shipping").unwrap());
    for line in [
        "    services/shipping/ ",
        "    manifests/samples/shop/shipping.yaml ",
        "    cargo test -p shop-shipping ",
        "    cargo xtask up ",
    ] {
        assert!(report.contains(line), "{report}");
    }
}
