//! One database and one role for each service of the shop that binds to a Secret `<service>-db`.
//!
//! A Job runs the same statements for all of them. Its name is a digest of what it does: a service that is added later
//! makes another Job, which finds the old databases there and adds the new one; with nothing changed there is nothing to do.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::SHOP;
use super::manifests::{self, ImageNames};
use super::passwords::{Passwords, SUPERUSER};
use crate::digest;
use crate::kubectl::Kubectl;

/// Marks the Job.
pub const LABEL: &str = "trellis.dev/databases";

/// Waits for the server, then makes or mends role and database. psql reads the password from the file itself, so that it
/// stands on no command line.
const SCRIPT: &str = r#"
set -eu
export PGHOST=postgres.shop PGUSER=postgres PGCONNECT_TIMEOUT=5
PGPASSWORD=$(cat /secrets/postgres/password); export PGPASSWORD
deadline=$(($(date +%s) + 240))
until pg_isready --quiet; do
    [ "$(date +%s)" -lt "$deadline" ] || { echo "error: the database server does not answer" >&2; exit 1; }
    sleep 1
done
for name in "$@"; do
    export PASSWORD_FILE=/secrets/$name-db/password
    psql --no-psqlrc --quiet -v ON_ERROR_STOP=1 -v name="$name" --dbname=postgres <<'SQL'
\set password `cat "$PASSWORD_FILE"`
SELECT format('CREATE ROLE %I LOGIN', :'name') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') \gexec
SELECT format('ALTER ROLE %I LOGIN PASSWORD %L', :'name', :'password') \gexec
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'name') WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
SELECT format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', :'name') \gexec
SQL
    echo "database $name is there"
done
"#;

/// The services that want a database, by the bindings in the objects of the shop.
pub fn wanted(objects: &[Value]) -> Vec<String> {
    let mut names: Vec<String> = objects
        .iter()
        .filter(|object| object["kind"] == "Microservice")
        .filter_map(|object| {
            let name = object["metadata"]["name"].as_str()?;
            let secret = format!("{name}-db");
            let bindings = object["spec"]["bindings"].as_array()?;
            bindings
                .iter()
                .any(|binding| binding["secret"] == secret.as_str())
                .then(|| name.to_owned())
        })
        .collect();
    names.sort();
    names
}

/// Runs the Job unless one with the same content did.
pub fn provision(
    kubectl: &Kubectl,
    images: &ImageNames,
    databases: &[String],
    passwords: &Passwords,
) -> Result<()> {
    let image = images.get("postgres:17").map_or("postgres:17", String::as_str);
    let name = job_name(databases, passwords);
    let current = kubectl.output(&[
        "get",
        "jobs",
        "-n",
        SHOP,
        "-l",
        "trellis.dev/databases",
        "-o",
        "name",
    ])?;
    let old: Vec<&str> = current.lines().filter(|known| !known.ends_with(&name)).collect();
    if !old.is_empty() {
        let mut arguments = vec!["delete", "-n", SHOP, "--wait=false"];
        arguments.extend(old);
        kubectl.output(&arguments)?;
    }
    manifests::apply(kubectl, &[job(&name, image, databases)]).context("failed to apply the Job")
}

/// A name that changes with the statements, the databases and the passwords.
fn job_name(databases: &[String], passwords: &Passwords) -> String {
    let input = format!("{SCRIPT} {databases:?} {passwords:?}");
    format!("databases-{}", &digest::sha256(input.as_bytes())[..10])
}

fn job(name: &str, image: &str, databases: &[String]) -> Value {
    let secrets: Vec<String> = databases
        .iter()
        .map(|database| format!("{database}-db"))
        .chain([SUPERUSER.to_owned()])
        .collect();
    let volumes: Vec<Value> = secrets
        .iter()
        .map(|secret| json!({"name": secret, "secret": {"secretName": secret}}))
        .collect();
    let mounts: Vec<Value> = secrets
        .iter()
        .map(|secret| json!({"name": secret, "mountPath": format!("/secrets/{secret}"), "readOnly": true}))
        .collect();
    let labels = json!({"app.kubernetes.io/name": "databases", LABEL: "true"});
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": SHOP, "labels": labels},
        "spec": {"backoffLimit": 20, "template": {"metadata": {"labels": labels}, "spec": {
            "restartPolicy": "OnFailure", "automountServiceAccountToken": false, "enableServiceLinks": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 999, "runAsGroup": 999, "fsGroup": 999, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "psql", "image": image, "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/bash", "-c", SCRIPT, "databases"], "args": databases,
                "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "128Mi"}},
                "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        }}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_gets_a_database_when_it_binds_to_a_secret_of_its_name() {
        let service = |name: &str, secret: &str| json!({"kind": "Microservice", "metadata": {"name": name}, "spec": {"bindings": [{"name": "db", "secret": secret}]}});
        let objects = [
            service("user", "user-db"),
            service("order", "other"),
            json!({"kind": "Microservice", "metadata": {"name": "gateway"}, "spec": {}}),
        ];
        assert_eq!(wanted(&objects), ["user"]);
    }

    #[test]
    fn another_service_or_another_password_makes_another_job() {
        let passwords = Passwords::from([("user-db".to_owned(), "a".to_owned())]);
        let first = job_name(&["user".to_owned()], &passwords);
        assert_eq!(first, job_name(&["user".to_owned()], &passwords));
        assert_ne!(
            first,
            job_name(&["order".to_owned(), "user".to_owned()], &passwords)
        );
        assert_ne!(
            first,
            job_name(
                &["user".to_owned()],
                &Passwords::from([("user-db".to_owned(), "b".to_owned())])
            )
        );
    }
}
