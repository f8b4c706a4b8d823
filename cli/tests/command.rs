//! The command, run as a user runs it.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

const HELLO: &str = "
apiVersion: trellis.dev/v1alpha1
kind: Microservice
metadata: {name: hello}
spec:
  image: hello:1.0
  ports: [{name: http, port: 8080}]
";

fn trellis(args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_trellis"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env("RUST_BACKTRACE", "1")
        .spawn()
        .unwrap();
    // A command that fails early does not read its input.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn golden(name: &str) -> PathBuf {
    Path::new("../operator/desired/tests/golden/microservice").join(name)
}

#[test]
fn a_microservice_without_faults_ends_with_0() {
    let output = trellis(&["check", "-f", "-"], HELLO);
    assert_eq!(text(&output.stdout), "1 object checked: no faults\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn each_fault_is_a_line_with_file_object_field_and_fix_and_the_end_is_1() {
    let output = trellis(&["check", "-f", "-"], &HELLO.replace("8080", "15020"));
    assert_eq!(
        text(&output.stdout),
        "stdin: Microservice/hello: spec.ports[0].port: ports 15000-15199 belong to the sidecar: let the app listen on \
         another port than 15020\n"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn faults_as_json_have_the_same_in_fields() {
    let output = trellis(&["check", "-o", "json", "-f", "-"], &HELLO.replace("8080", "0"));
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(findings[0]["file"], "stdin");
    assert_eq!(findings[0]["kind"], "Microservice");
    assert_eq!(findings[0]["name"], "hello");
    assert_eq!(findings[0]["severity"], "Error");
    assert_eq!(findings[0]["field"], "spec.ports[0].port");
    assert_eq!(output.status.code(), Some(1));
    let output = trellis(&["check", "-o", "json", "-f", "-"], HELLO);
    assert_eq!(text(&output.stdout), "[]\n");
}

#[test]
fn an_unknown_field_is_a_fault_with_its_path_and_the_field_that_was_meant() {
    for (wrong, path, hint) in [
        (
            HELLO.replace("image:", "imgae:"),
            "spec.imgae",
            "did you mean \"image\"?",
        ),
        (
            HELLO.replace("port: 8080", "port: 8080, protocl: HTTP"),
            "spec.ports[0].protocl",
            "did you mean \"protocol\"?",
        ),
        (
            format!("{HELLO}  env: [{{name: A, valeu: b}}]\n"),
            "spec.env[0].valeu",
            "did you mean \"value\"?",
        ),
        (
            HELLO.replace("name: hello", "name: hello, lables: {}"),
            "metadata.lables",
            "did you mean \"labels\"?",
        ),
    ] {
        let output = trellis(&["check", "-f", "-"], &wrong);
        let said = text(&output.stdout);
        assert!(said.contains(&format!("{path}: unknown field: {hint}")), "{said}");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn types_are_those_that_kubectl_reads() {
    for (wrong, expected) in [
        // Without quotes this is a number, a boolean.
        (
            HELLO.replace("hello:1.0", "1.0"),
            "spec.image: is 1.0, but must be a string: put it in quotes",
        ),
        (
            format!("{HELLO}  env: [{{name: A, value: on}}]\n"),
            "spec.env[0].value: is true, but must be a string: put it in quotes",
        ),
        (
            HELLO.replace("8080", "'8080'"),
            "spec.ports[0].port: is \"8080\", but must be of type integer",
        ),
        (
            format!("{HELLO}  args: [null]\n"),
            "spec.args[0]: has no value: give it one of type string, or remove it",
        ),
        (
            HELLO.replace("port: 8080", "port: 8080, protocol: http"),
            "spec.ports[0].protocol: \"http\" is none of the values it may have: use HTTP, H2C, GRPC, TCP",
        ),
        (
            HELLO.replace(", port: 8080", ""),
            "spec.ports[0].port: is missing, and has to be set",
        ),
        (
            format!("{HELLO}  preStopDelay: 5\n"),
            "spec.preStopDelay: is 5, but must be a string: put it in quotes",
        ),
        (
            format!("{HELLO}  preStopDelay: five\n"),
            "spec.preStopDelay: failed to read \"five\" as a duration",
        ),
    ] {
        let said = text(&trellis(&["check", "-f", "-"], &wrong).stdout);
        assert!(said.contains(expected), "expected {expected:?} in {said}");
    }
}

#[test]
fn a_key_that_is_there_twice_is_a_fault_with_object_field_line_and_fix() {
    let output = trellis(&["check", "-f", "-"], &format!("{HELLO}  image: other:1\n"));
    assert_eq!(
        text(&output.stdout),
        "stdin: Microservice/hello: spec.image: is there twice, again in line 8: remove one\n"
    );
    assert_eq!(output.status.code(), Some(1));
    let output = trellis(&["render", "-f", "-"], &format!("{HELLO}  image: other:1\n"));
    assert!(output.stdout.is_empty());
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn broken_yaml_is_a_fault_with_its_line() {
    let output = trellis(&["check", "-f", "-"], "a: [1\nb: 2\n");
    let said = text(&output.stdout);
    assert!(said.starts_with("stdin: ") && said.contains("line "), "{said}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_field_without_a_value_is_none_as_with_the_api_server() {
    for nothing in [
        "  replicas:\n",
        "  env: [{name: A, value: null}]\n",
        "  podMetadata: {labels: {team: null}}\n",
        "  gateway: ~\n",
    ] {
        let output = trellis(&["check", "-f", "-"], &format!("{HELLO}{nothing}"));
        assert_eq!(text(&output.stdout), "1 object checked: no faults\n", "{nothing}");
    }
    let said = text(&trellis(&["check", "-f", "-"], &HELLO.replace("8080", "null")).stdout);
    assert!(
        said.contains("spec.ports[0].port: is missing, and has to be set"),
        "{said}"
    );
}

#[test]
fn a_fault_of_the_schema_does_not_hide_those_of_the_rules() {
    let wrong = format!("{}  nope: 1\n", HELLO.replace("8080", "15020"));
    let said = text(&trellis(&["check", "-f", "-"], &wrong).stdout);
    assert!(said.contains("spec.nope: unknown field"), "{said}");
    assert!(
        said.contains("spec.ports[0].port: ports 15000-15199 belong to"),
        "{said}"
    );
}

#[test]
fn a_file_without_a_microservice_ends_with_1() {
    let other = "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\n";
    for nothing in ["", "# nothing\n---\n", other] {
        let output = trellis(&["check", "-f", "-"], nothing);
        assert_eq!(
            text(&output.stdout),
            "stdin: no Microservice, RateLimitPolicy or Saga in stdin\n",
            "{nothing:?}"
        );
        assert_eq!(output.status.code(), Some(1));
    }
    let empty = std::env::temp_dir().join(format!("trellis-empty-{}.yaml", std::process::id()));
    std::fs::write(&empty, "").unwrap();
    let name = empty.to_str().unwrap();
    let output = trellis(&["check", "-f", name, "-f", "-"], HELLO);
    std::fs::remove_file(&empty).unwrap();
    let said = text(&output.stdout);
    assert_eq!(
        said,
        format!("{name}: no Microservice, RateLimitPolicy or Saga in {name}\n")
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn two_objects_of_one_name_are_a_fault() {
    let output = trellis(&["check", "-f", "-"], &format!("{HELLO}---{HELLO}"));
    assert!(text(&output.stdout).contains("metadata.name: is there twice"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn objects_of_other_kinds_are_passed_over_and_unknown_ones_of_ours_are_not() {
    let other = "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\n";
    let output = trellis(&["check", "-f", "-"], &format!("{other}---{HELLO}"));
    assert_eq!(output.status.code(), Some(0));
    let output = trellis(&["check", "-f", "-"], &HELLO.replace("v1alpha1", "v2"));
    assert!(text(&output.stdout).contains("apiVersion: is \"trellis.dev/v2\": use trellis.dev/v1alpha1"));
    let output = trellis(
        &["check", "-f", "-"],
        &HELLO.replace("kind: Microservice", "kind: Microservcie"),
    );
    assert!(
        text(&output.stdout).contains("kind: is \"Microservcie\": use Microservice, RateLimitPolicy or Saga")
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_warning_is_printed_and_does_not_change_the_end() {
    let file = golden("warnings.in.yaml");
    let output = trellis(&["check", "-f", file.to_str().unwrap()], "");
    let said = text(&output.stdout);
    assert!(
        said.contains("Microservice/order: warning: spec.autoscaling: min and max are both 2"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_file_that_is_not_there_is_an_error_with_its_name_and_cause_and_no_backtrace() {
    for verb in ["check", "render"] {
        let output = trellis(&[verb, "-f", "not-there.yaml"], "");
        assert_eq!(
            text(&output.stderr),
            "error: failed to read not-there.yaml: No such file or directory (os error 2)\n"
        );
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn render_prints_what_the_operator_makes_with_the_other_microservices_as_context() {
    let file = golden("a-gateway.in.yaml");
    let output = trellis(&["render", "-f", file.to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let rendered = text(&output.stdout);
    let objects: Vec<serde_json::Value> = serde_saphyr::from_multiple(&rendered).unwrap();
    let named = |kind: &str, name: &str| {
        objects
            .iter()
            .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
            .unwrap_or_else(|| panic!("no {kind} {name} in {rendered}"))
    };
    assert_eq!(named("Service", "gateway")["spec"]["ports"][0]["nodePort"], 30080);
    assert_eq!(
        named("Service", "order")["spec"]["ports"][0]["targetPort"],
        "t-http"
    );
    let document = named("ConfigMap", "gateway-proxy")["data"]["proxy.json"]
        .as_str()
        .unwrap();
    assert!(
        document.contains("shop/payment/receipts") && !document.contains("finance"),
        "{document}"
    );
}

#[test]
fn render_fills_in_the_namespace_and_takes_the_operators_settings() {
    let output = trellis(
        &[
            "render",
            "-n",
            "demo",
            "--proxy-image",
            "registry.example/trellis-proxy:1",
            "-f",
            "-",
        ],
        HELLO,
    );
    let rendered = text(&output.stdout);
    assert!(rendered.contains("namespace: demo"));
    assert!(
        rendered.contains("image: registry.example/trellis-proxy:1"),
        "{rendered}"
    );
    // Without an API server there is no owner: what is printed can be applied by hand.
    assert!(!rendered.contains("ownerReferences"));
}

#[test]
fn render_prints_the_sound_ones_and_the_faults_of_the_others() {
    let broken = HELLO.replace("hello", "broken").replace("8080", "0");
    let output = trellis(&["render", "-f", "-"], &format!("{broken}---{HELLO}"));
    assert!(text(&output.stdout).contains("name: hello-proxy"));
    assert!(!text(&output.stdout).contains("name: broken"));
    assert!(text(&output.stderr).contains("Microservice/broken: spec.ports[0].port"));
    assert_eq!(output.status.code(), Some(1));
}

const POLICY: &str = "
apiVersion: trellis.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: hello-limits}
spec:
  targetRefs: [{group: trellis.dev, kind: Microservice, name: hello}]
  limits: {everyone: {scope: Pod}}
";

#[test]
fn a_policy_is_checked_by_schema_and_by_its_expressions() {
    let output = trellis(&["check", "-f", "-"], POLICY);
    assert_eq!(text(&output.stdout), "1 object checked: no faults\n");
    let faulty = POLICY.replace(
        "{scope: Pod}",
        "{scope: Pod, when: ['request.verb == \"GET\"'], bursts: 5}",
    );
    let output = trellis(&["check", "-f", "-"], &faulty);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("stdin: RateLimitPolicy/hello-limits: spec.limits[everyone].bursts: unknown field"),
        "{said}"
    );
    let fault = "stdin: RateLimitPolicy/hello-limits: spec.limits[everyone].when[0]: line 1, column 9: ";
    assert!(said.contains(fault), "{said}");
}

#[test]
fn a_rendered_document_has_the_limits_of_policies_beside_it() {
    let both = format!("{HELLO}---{POLICY}");
    let output = trellis(&["render", "-f", "-"], &both);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("\"policy\": \"hello-limits\""));
    assert!(!text(&output.stdout).contains("\"quota\""));
    let output = trellis(&["render", "-f", "-"], HELLO);
    assert!(!text(&output.stdout).contains("\"limits\""));
}

#[test]
fn a_rendered_limit_over_all_pods_is_leased_from_the_operators_default() {
    let both = format!(
        "{HELLO}---{}",
        POLICY.replace("{scope: Pod}", "{onQuotaLoss: Open}")
    );
    let rendered = text(&trellis(&["render", "-f", "-"], &both).stdout);
    assert!(
        rendered.contains("\"address\": \"http://trellis-quota.trellis-system.svc:8080\"")
            && rendered.contains("\"onLoss\": \"Open\""),
        "{rendered}"
    );
    let elsewhere = ["render", "--quota-address", "http://quota:1", "-f", "-"];
    assert!(text(&trellis(&elsewhere, &both).stdout).contains("\"address\": \"http://quota:1\""));
    let of_trellis = ["render", "-n", "trellis-system", "-f", "-"];
    assert!(!text(&trellis(&of_trellis, &both).stdout).contains("\"limits\""));
}

/// Two steps, a pivot and one after it.
const SAGA: &str = r#"
apiVersion: trellis.dev/v1alpha1
kind: Saga
metadata: {name: place-order, namespace: shop}
spec:
  timeout: 2m
  input: {schema: {type: object, required: [amount, lines], properties: {amount: {type: integer, minimum: 1, maximum: 100000}, lines: {type: array, items: {type: string}}}}}
  steps:
  - name: reserve
    forEach: {items: input.lines}
    action: {call: {microservice: stock, method: PUT, path: "/reservations/${run.id}/${index}"}, body: {sku: "${item}"}}
    compensation: {call: {microservice: stock, method: DELETE, path: "/reservations/${run.id}/${index}"}}
  - name: authorise
    after: []
    action: {call: {microservice: payment, method: POST, path: /authorisations}, body: {amount: "${input.amount}"}}
    compensation: {call: {microservice: payment, method: DELETE, path: "/authorisations/${run.id}"}}
  - name: confirm
    kind: Pivot
    after: [reserve, authorise]
    action: {call: {microservice: order, method: POST, path: /confirm}}
  - name: capture
    kind: Retriable
    action: {call: {microservice: payment, method: POST, path: "/authorisations/${run.id}/capture"}}
"#;

#[test]
fn a_sound_saga_leaves_nothing_behind_in_any_schedule() {
    let output = trellis(&["saga", "simulate", "-f", "-"], SAGA);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("two faults"), "{said}");
    assert!(
        said.contains("nothing was left behind, nothing was out of order"),
        "{said}"
    );
    assert!(
        said.contains("gets stuck: the compensation of reserve fails"),
        "{said}"
    );
    assert!(said.contains("DELETE payment /authorisations/"), "{said}");
    let strict = trellis(&["saga", "simulate", "--strict", "-f", "-"], SAGA);
    assert_eq!(strict.status.code(), Some(1), "what gets stuck counts");
}

#[test]
fn participants_without_a_barrier_move_money_twice() {
    let arguments = [
        "saga",
        "simulate",
        "--participants",
        "naive",
        "-o",
        "json",
        "-f",
        "-",
    ];
    let output = trellis(&arguments, SAGA);
    assert_eq!(output.status.code(), Some(1));
    let reports: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(reports[0]["saga"], "place-order");
    let found = reports[0]["unsafeSchedules"].as_array().unwrap();
    let what: Vec<&str> = found
        .iter()
        .map(|example| example["what"].as_str().unwrap())
        .collect();
    assert!(what.contains(&"authorise took effect 2 times"), "{what:?}");
    assert!(
        what.contains(&"what authorise did remains, although the run was compensated"),
        "{what:?}"
    );
    assert!(
        found
            .iter()
            .all(|example| !example["timeline"].as_array().unwrap().is_empty())
    );
}

#[test]
fn a_value_for_which_an_expression_fails_is_found() {
    let saga = SAGA.replace("${input.amount}", "${100 / (input.amount - input.lines.size())}");
    let output = trellis(&["saga", "simulate", "-f", "-"], &saga);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("spec.steps[1].action: failed to evaluate body.amount: division_by_zero, with input {"),
        "{said}"
    );
}

#[test]
fn a_faulty_saga_is_refused_and_not_simulated() {
    let saga = SAGA.replace("${input.amount}", "${input.amount + 'a'}");
    for arguments in [&["check", "-f", "-"][..], &["saga", "simulate", "-f", "-"]] {
        let output = trellis(arguments, &saga);
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stdout) + &text(&output.stderr);
        let fault = "Saga/place-order: spec.steps[1].action.body.amount: line 1, column 16: int + string";
        assert!(said.contains(fault), "{said}");
    }
}

#[test]
fn a_saga_is_rendered_as_its_revision() {
    let output = trellis(&["render", "-f", "-"], SAGA);
    let said = text(&output.stdout);
    assert!(
        said.contains("kind: ConfigMap") && said.contains("immutable: true"),
        "{said}"
    );
    assert!(said.contains("name: place-order-saga-"), "{said}");
}
