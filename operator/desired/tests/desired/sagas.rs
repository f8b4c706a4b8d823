//! Definitions of sagas and what is said of them: `golden/saga/*.in.yaml`, each with several, and the faults of each in `*.out.txt`.
//!
//! `TRELLIS_WRITE=1 cargo test -p trellis-operator-desired` writes the files anew; the diff is what to look at.

use std::{collections::BTreeSet, env, fmt::Write as _, fs, path::Path};

use serde::Deserialize as _;
use serde_json::json;
use trellis_api::Saga;
use trellis_operator_desired::saga;
use trellis_saga_core::simulation::{self, Faults};

const FOLDER: &str = "tests/golden/saga";

fn read(path: &Path) -> Vec<Saga> {
    let text = fs::read_to_string(path).unwrap();
    serde_saphyr::from_multiple::<serde_json::Value>(&text)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .into_iter()
        .map(|document| {
            let name = document["metadata"]["name"].clone();
            Saga::deserialize(document).unwrap_or_else(|error| panic!("{name}: {error}"))
        })
        .collect()
}

/// What is said of each definition.
fn said(sagas: &[Saga]) -> String {
    let mut text = String::new();
    for saga in sagas {
        let name = saga.metadata.name.as_deref().unwrap_or_default();
        writeln!(text, "{name}").unwrap();
        match saga::compile(saga) {
            Ok(compiled) => writeln!(text, "    revision {}", compiled.revision).unwrap(),
            Err(problems) => problems
                .iter()
                .for_each(|problem| writeln!(text, "    {problem}").unwrap()),
        }
    }
    text
}

#[test]
fn the_samples_are_sound_whatever_goes_wrong() {
    let sagas = read(Path::new("tests/golden/saga/good.in.yaml"));
    for saga in &sagas {
        let definition = saga::compile(saga).unwrap().program.definition;
        for seed in 0..200 {
            simulation::run_of(seed, Faults::ALL, vec![definition.clone()])
                .unwrap_or_else(|violation| panic!("{}: {violation}", definition.name));
        }
    }
}

#[test]
fn every_fault_is_found_where_it_is() {
    let mut names = BTreeSet::new();
    let (mut faulty, mut types) = (0, 0);
    for entry in fs::read_dir(FOLDER).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(stem) = file.strip_suffix(".in.yaml") else {
            continue;
        };
        let sagas = read(&path);
        for saga in &sagas {
            let name = saga.metadata.name.clone().unwrap();
            assert!(names.insert(name.clone()), "{name} is there twice");
        }
        let actual = said(&sagas);
        let faults = sagas.iter().filter(|saga| saga::compile(saga).is_err()).count();
        faulty += faults;
        if stem == "types" {
            types = faults;
        }
        let golden = path.with_file_name(format!("{stem}.out.txt"));
        if env::var_os("TRELLIS_WRITE").is_some() {
            fs::write(&golden, &actual).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        let diff = similar::TextDiff::from_lines(&expected, &actual);
        assert!(expected == actual, "{file}:\n{}", diff.unified_diff());
    }
    assert!(faulty >= 80, "{faulty} definitions have faults");
    assert!(types >= 30, "{types} of them are errors of types");
}

#[test]
fn what_a_timeout_leaves_is_shared_by_the_actions_that_say_nothing() {
    let timeouts = |timeout: &str, steps: &[(&str, &str, Option<&str>, &[&str])]| {
        let steps: Vec<_> = steps
            .iter()
            .map(|(name, kind, timeout, after)| {
                let call = json!({"call": {"microservice": "a", "method": "POST", "path": "/x"}});
                let mut step = json!({"name": name, "kind": kind, "after": after, "action": call});
                if *kind == "Compensatable" {
                    step["compensation"] = call;
                }
                if let Some(timeout) = timeout {
                    step["action"]["timeout"] = json!(timeout);
                }
                step
            })
            .collect();
        let saga: Saga = serde_json::from_value(json!({
            "apiVersion": "trellis.dev/v1alpha1", "kind": "Saga", "metadata": {"name": "a", "namespace": "a"},
            "spec": {"timeout": timeout, "steps": steps},
        }))
        .unwrap();
        match saga::compile(&saga) {
            Ok(compiled) => {
                let steps = compiled.program.definition.steps.into_iter();
                Ok(steps.map(|step| step.action.timeout.0).collect::<Vec<_>>())
            }
            Err(problems) => Err(problems[0].to_string()),
        }
    };
    let (c, p, r) = ("Compensatable", "Pivot", "Retriable");
    // What is after the pivot has no part in it.
    let all = timeouts(
        "12s",
        &[
            ("a", c, Some("4s"), &[]),
            ("b", c, None, &["a"]),
            ("p", p, None, &["b"]),
            ("r", r, None, &["p"]),
        ],
    );
    assert_eq!(all.unwrap(), [4_000, 4_000, 4_000, 10_000]);
    // Beside each other there is more for each.
    let all = timeouts(
        "12s",
        &[
            ("a", c, None, &[]),
            ("b", c, None, &[]),
            ("p", p, Some("3s"), &["a", "b"]),
        ],
    );
    assert_eq!(all.unwrap(), [9_000, 9_000, 3_000]);
    // Never so little that nobody could answer, unless there is not more.
    let all = timeouts("10s", &[("a", c, Some("9900ms"), &[]), ("b", c, None, &["a"])]);
    let message = all.unwrap_err();
    assert!(
        message.contains("one try of each may take 10900ms together"),
        "{message}"
    );
    let all = timeouts("3ms", &[("a", c, None, &[]), ("b", c, None, &["a"])]);
    assert_eq!(all.unwrap(), [1, 1]);
}
