//! Who may import whom, between crates: ours and third-party ones.
//!
//! Promises: the tables below are checked against `cargo metadata`, for normal, build and dev
//! dependencies. A new edge is a line here and an ADR.
//! Not here: edges between modules (`layers`), licences (`licences`).

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{cargo, output, tidy::Finding};

/// Each crate of ours, lowest first, and which others it may use. Its tests may use what stands
/// before it, too (a door's tests open engines), but no door, and itself with other features.
const EDGES: &[(&str, &[&str])] = &[
    ("larder-base", &[]),
    ("larder-disk", &["larder-base"]),
    ("larder-meta", &["larder-base", "larder-disk"]),
    ("larder-chunk", &["larder-base", "larder-disk"]),
    ("larder-core", &["larder-base", "larder-meta", "larder-chunk"]),
    ("larder-http", &["larder-base", "larder-core"]),
    ("larder-rest", &["larder-base", "larder-core", "larder-http"]),
    ("larder-s3", &["larder-base", "larder-core", "larder-http"]),
    ("larder", ANY),
    ("larder-e2e", ANY),
    ("xtask", &[]),
];

/// Crates that only the binary may use.
const DOORS: &[&str] = &["larder-rest", "larder-s3"];

/// Allows every crate of ours that stands earlier in [`EDGES`].
const ANY: &[&str] = &["*"];

/// Third-party crates that have a home, and which crates are it.
const WALLS: &[(&str, &[&str])] = &[
    ("anyhow", &["larder", "larder-e2e", "xtask"]),
    ("argon2", &["larder-core"]),
    ("chacha20poly1305", &["larder-core"]),
    ("clap", &["larder"]),
    ("http", &["larder-http", "larder-rest", "larder-s3", "larder", "larder-e2e"]),
    ("http-body-util", &["larder-http", "larder-rest", "larder", "larder-e2e"]),
    ("httparse", &["larder-http", "larder", "larder-e2e"]),
    ("hyper", &["larder-http", "larder-rest", "larder-s3", "larder", "larder-e2e"]),
    ("hyper-util", &["larder-http", "larder-rest", "larder", "larder-e2e"]),
    ("indicatif", &["larder"]),
    ("libc", &["larder", "larder-e2e"]),
    ("lsm-tree", &["larder-meta"]),
    ("multer", &["larder-rest", "larder-s3"]),
    ("rustix", &["larder-disk", "larder-chunk", "larder-http", "larder", "larder-e2e"]),
    ("s3s", &["larder-s3"]),
    ("serde_json", &["larder-http", "larder-rest", "larder-s3", "larder", "larder-e2e", "xtask"]),
    ("socket2", &["larder-http", "larder", "larder-e2e"]),
    ("toml", &["larder"]),
    ("tracing-subscriber", &["larder", "larder-e2e"]),
];

/// Third-party crates for tests: elsewhere than in [`FOR_TESTS_ALWAYS`] a dev-dependency, or an
/// optional one (feature `testing`).
const FOR_TESTS: &[&str] = &["proptest", "tempfile"];
const FOR_TESTS_ALWAYS: &[&str] = &["larder-e2e"];

/// What `cargo metadata` says of the workspace and all it needs on this platform.
pub(crate) fn metadata(root: &Path) -> Result<Value> {
    let version = output(std::process::Command::new("rustc").arg("-vV"))?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc -vV names no host")?;
    // For this platform only: the crates of the others would have to be fetched to be read.
    let args = ["metadata", "--format-version", "1", "--locked", "--filter-platform", host];
    let json = output(cargo(root).args(args))?;
    serde_json::from_str(&json).context("read cargo metadata")
}

/// Every dependency of ours that no table allows.
pub(crate) fn check(metadata: &Value) -> Vec<Finding> {
    let mut found = Vec::new();
    for package in members(metadata) {
        let name = text(package, "name");
        let file = format!("Cargo.toml of {name}");
        let Some(rank) = EDGES.iter().position(|(ours, _)| *ours == name) else {
            found.push(Finding::new(&file, 0, format!("crate {name} is not in edges.rs")));
            continue;
        };
        for dependency in list(package, "dependencies") {
            if let Some(what) = refused(rank, dependency) {
                found.push(Finding::new(&file, 0, what));
            }
        }
    }
    found
}

/// Why the crate at `rank` may not have `dependency`, if so.
fn refused(rank: usize, dependency: &Value) -> Option<String> {
    let (name, allowed) = EDGES[rank];
    let to = text(dependency, "name");
    let dev = text(dependency, "kind") == "dev";
    let optional = dependency.get("optional").and_then(Value::as_bool) == Some(true);
    if let Some(target) = EDGES.iter().position(|(ours, _)| *ours == to) {
        let lower = target < rank;
        let by_table = allowed.contains(&to) || (allowed == ANY && lower);
        let by_test = dev && (lower && !DOORS.contains(&to) || target == rank);
        return (!by_table && !by_test).then(|| format!("{name} may not use {to} (edges.rs)"));
    }
    if let Some((_, homes)) = WALLS.iter().find(|(walled, _)| *walled == to)
        && !homes.contains(&name)
    {
        return Some(format!("{to} is for {} only, not {name} (edges.rs)", homes.join(", ")));
    }
    let always = FOR_TESTS_ALWAYS.contains(&name);
    (FOR_TESTS.contains(&to) && !dev && !optional && !always)
        .then(|| format!("{to} is for tests: make it a dev-dependency of {name}"))
}

/// The crates of this workspace.
fn members(metadata: &Value) -> impl Iterator<Item = &Value> {
    let ids: Vec<&str> =
        list(metadata, "workspace_members").iter().filter_map(Value::as_str).collect();
    list(metadata, "packages").iter().filter(move |package| ids.contains(&text(package, "id")))
}

/// The text at `key`, empty if there is none.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The list at `key`, empty if there is none.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// How many features and how many places that ask for one the workspace may have: mazes begin
/// small.
const FEATURES_MAX: usize = 6;

/// Too many features in all.
pub(crate) fn check_features(metadata: &Value) -> Vec<Finding> {
    let names: std::collections::BTreeSet<&str> = members(metadata)
        .filter_map(|package| package.get("features")?.as_object())
        .flat_map(|features| features.keys().map(String::as_str))
        .filter(|name| *name != "default")
        .collect();
    let what = || format!("{} features, at most {FEATURES_MAX}: {names:?}", names.len());
    (names.len() > FEATURES_MAX)
        .then(|| Finding::new("Cargo.toml", 0, what()))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusals(name: &str, dependency: Value) -> Vec<String> {
        let package = json!({"id": "it", "name": name, "dependencies": [dependency]});
        let metadata = json!({"workspace_members": ["it"], "packages": [package]});
        check(&metadata).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn an_upward_or_sideways_edge_is_refused() {
        for (from, to) in [
            ("larder-base", "larder-disk"),
            ("larder-meta", "larder-chunk"),
            ("larder-chunk", "larder-meta"),
            ("larder-rest", "larder-meta"),
            ("larder-http", "larder-rest"),
            ("larder-core", "larder-http"),
            ("larder-core", "larder"),
            ("larder", "larder-e2e"),
        ] {
            let normal = refusals(from, json!({"name": to, "kind": null}));
            assert_eq!(normal, [format!("{from} may not use {to} (edges.rs)")]);
        }
        let up = refusals("larder-meta", json!({"name": "larder-core", "kind": "dev"}));
        assert_eq!(up.len(), 1, "a test may not reach up");
    }

    #[test]
    fn the_planned_edges_are_allowed() {
        for (from, to) in [
            ("larder-disk", "larder-base"),
            ("larder-core", "larder-meta"),
            ("larder-rest", "larder-http"),
            ("larder", "larder-rest"),
            ("larder-e2e", "larder"),
        ] {
            assert!(refusals(from, json!({"name": to, "kind": null})).is_empty(), "{from} {to}");
        }
        let down = json!({"name": "larder-meta", "kind": "dev"});
        assert!(refusals("larder-rest", down).is_empty(), "a door's tests may open engines");
    }

    #[test]
    fn a_crate_without_a_line_in_the_table_is_refused() {
        let found = refusals("larder-common", json!({"name": "bytes", "kind": null}));
        assert_eq!(found, ["crate larder-common is not in edges.rs"]);
    }

    #[test]
    fn a_walled_library_stays_at_home() {
        assert_eq!(refusals("larder-core", json!({"name": "hyper", "kind": null})).len(), 1);
        assert_eq!(refusals("larder-core", json!({"name": "lsm-tree", "kind": "dev"})).len(), 1);
        assert!(refusals("larder-http", json!({"name": "hyper", "kind": null})).is_empty());
        assert_eq!(refusals("larder-core", json!({"name": "proptest", "kind": null})).len(), 1);
        assert!(refusals("larder-core", json!({"name": "proptest", "kind": "dev"})).is_empty());
    }

    #[test]
    fn a_feature_maze_is_refused() {
        let package = |count: usize| {
            let features: serde_json::Map<_, _> =
                (0..count).map(|at| (format!("f{at}"), json!([]))).collect();
            json!({"workspace_members": ["it"], "packages": [{"id": "it", "features": features}]})
        };
        assert!(check_features(&package(FEATURES_MAX)).is_empty());
        assert_eq!(check_features(&package(FEATURES_MAX + 1)).len(), 1);
    }
}
