//! Files of objects, read as kubectl reads them.
//!
//! kubectl reads YAML 1.1: `yes` and `on` are booleans, `0755` is octal. A key that is there twice is a fault, as with
//! `kubectl apply --validate=strict`; the object is looked at all the same. A `List` is taken apart.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;
use trellis_api::Problem;

use crate::duplicates::Recorded;

/// Endings of the files that are read in a folder.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// An object and where it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// File, as it was named.
    pub file: String,
    /// The object, or why the file has none.
    pub content: Result<Value, String>,
    /// Keys of the object that are there twice.
    pub duplicates: Vec<Problem>,
}

/// Why files could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder is not readable.
    #[error("failed to read {path}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A folder has no file with one of the endings.
    #[error("failed to find a .yaml, .yml or .json file in {0}")]
    NoFile(String),
}

/// Reads every object of a file or folder, in order.
///
/// # Errors
/// A file cannot be read. A file that is no YAML is no error but a fault: the others are still looked at.
pub fn read(path: &Path) -> Result<Vec<Manifest>, Error> {
    let mut manifests = Vec::new();
    for file in files(path)? {
        let (name, text) = text(&file)?;
        manifests.extend(parse(&name, &text));
    }
    Ok(manifests)
}

/// How a path of the command line is named in faults.
pub fn name(path: &Path) -> String {
    if path == Path::new("-") {
        "stdin".to_owned()
    } else {
        path.display().to_string()
    }
}

fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let fault = |source| Error::Read {
        path: path.display().to_string(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(fault)? {
        let file = entry.map_err(fault)?.path();
        let ending = file.extension().and_then(|ending| ending.to_str());
        if file.is_file() && ending.is_some_and(|ending| ENDINGS.contains(&ending)) {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(Error::NoFile(path.display().to_string()));
    }
    files.sort();
    Ok(files)
}

fn text(path: &Path) -> Result<(String, String), Error> {
    let mut text = String::new();
    let name = name(path);
    let read = if path == Path::new("-") {
        io::stdin().read_to_string(&mut text).map(|_| ())
    } else {
        fs::read_to_string(path).map(|content| text = content)
    };
    read.map_err(|source| Error::Read {
        path: name.clone(),
        source,
    })?;
    Ok((name, text))
}

fn parse(file: &str, text: &str) -> Vec<Manifest> {
    let manifest = |content, duplicates| Manifest {
        file: file.to_owned(),
        content,
        duplicates,
    };
    let error = match documents::<Value>(text, DuplicateKeyPolicy::Error) {
        Ok(documents) => {
            return documents
                .into_iter()
                .filter(|document| !document.is_null())
                .flat_map(take_apart)
                .map(|document| manifest(Ok(document), Vec::new()))
                .collect();
        }
        Err(error) => error,
    };
    let serde_saphyr::Error::DuplicateMappingKey { key, location } = &error else {
        return vec![manifest(Err(error.to_string()), Vec::new())];
    };
    // Once more, for the paths. The reader stopped at the first, so of that one the line is known too.
    let mut line = Some(location.line());
    let read = documents::<Recorded>(text, DuplicateKeyPolicy::LastWins).unwrap_or_default();
    if read.iter().all(|document| document.duplicates.is_empty()) {
        let fault = format!(
            "line {}: the key {} is there twice: remove one",
            location.line(),
            key.as_deref().unwrap_or("of a map")
        );
        return vec![manifest(Err(fault), Vec::new())];
    }
    let mut manifests = Vec::new();
    for document in read.into_iter().filter(|document| !document.value.is_null()) {
        let is_list = is_list(&document.value);
        for (i, object) in take_apart(document.value).into_iter().enumerate() {
            let item = format!("items[{i}].");
            let own = document.duplicates.iter().filter_map(|path| {
                if is_list {
                    path.strip_prefix(&item)
                } else {
                    Some(path.as_str())
                }
            });
            let problems = own.map(|path| twice(path, line.take())).collect();
            manifests.push(manifest(Ok(object), problems));
        }
    }
    manifests
}

fn twice(path: &str, line: Option<impl std::fmt::Display>) -> Problem {
    let place = line
        .map(|line| format!(", again in line {line}"))
        .unwrap_or_default();
    Problem::error(path, format!("is there twice{place}: remove one"))
}

fn documents<T: DeserializeOwned>(
    text: &str,
    duplicate_keys: DuplicateKeyPolicy,
) -> Result<Vec<T>, serde_saphyr::Error> {
    // A rendered tree of a whole cluster is one file; what guards against alias bombs stays.
    let budget = serde_saphyr::budget! {
        max_documents: 100_000,
        max_events: 50_000_000,
        max_nodes: 20_000_000,
    };
    let options = serde_saphyr::options! {
        budget: budget,
        duplicate_keys: duplicate_keys,
        legacy_octal_numbers: true,
        strict_booleans: false,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options(text, options)
}

fn is_list(document: &Value) -> bool {
    document["kind"] == "List" && document["apiVersion"] == "v1" && document["items"].is_array()
}

fn take_apart(mut document: Value) -> Vec<Value> {
    if is_list(&document)
        && let Value::Array(items) = document["items"].take()
    {
        items
    } else {
        vec![document]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn documents(text: &str) -> Vec<Value> {
        parse("x.yaml", text)
            .into_iter()
            .map(|manifest| manifest.content.unwrap())
            .collect()
    }

    #[test]
    fn yaml_is_read_as_kubectl_reads_it() {
        let document = &documents("a: yes\nb: Off\nc: 0755\nd: '0755'\ne: 1.5\nf: 8080\ng: \"yes\"\n")[0];
        let expected = serde_json::json!({"a": true, "b": false, "c": 493, "d": "0755", "e": 1.5, "f": 8080, "g": "yes"});
        assert_eq!(*document, expected);
    }

    #[test]
    fn empty_documents_are_passed_over_and_lists_taken_apart() {
        let text =
            "---\n---\na: 1\n---\napiVersion: v1\nkind: List\nitems: [{b: 2}, {c: 3}]\n---\n# nothing\n";
        assert_eq!(documents(text).len(), 3);
    }

    #[test]
    fn a_file_may_have_thousands_of_documents() {
        assert_eq!(documents(&"a: 1\n---\n".repeat(5000)).len(), 5000);
    }

    #[test]
    fn a_key_that_is_there_twice_is_a_fault_of_its_object_with_its_path_and_line() {
        let text = "a: 1\n---\nb: {c: 2, d: 3, c: 4}\n---\napiVersion: v1\nkind: List\nitems: [{e: [{f: 1, f: 2}]}]\n";
        let manifests = parse("x.yaml", text);
        let problems: Vec<Vec<String>> = manifests
            .iter()
            .map(|manifest| manifest.duplicates.iter().map(ToString::to_string).collect())
            .collect();
        assert_eq!(
            problems,
            [
                vec![],
                vec!["b.c: is there twice, again in line 3: remove one"],
                vec!["e[0].f: is there twice: remove one"]
            ]
        );
        let documents: Vec<&Value> = manifests
            .iter()
            .map(|manifest| manifest.content.as_ref().unwrap())
            .collect();
        assert_eq!(*documents[1], serde_json::json!({"b": {"c": 4, "d": 3}}));
    }

    #[test]
    fn a_number_as_a_key_that_is_there_twice_is_a_fault_with_its_line() {
        let manifests = parse("x.yaml", "8: 1\n9: 2\n8: 3\n");
        let said = match &manifests[0].content {
            Ok(_) => manifests[0].duplicates[0].to_string(),
            Err(fault) => fault.clone(),
        };
        assert!(
            said.contains("line 3") && said.ends_with("is there twice: remove one"),
            "{said}"
        );
    }
}
