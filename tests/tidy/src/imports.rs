//! Who may import whom: the picture in ARCHITECTURE.md, as a table.
//!
//! Only what a crate ships with counts. `[dev-dependencies]` may name anything: tests may know everything.

use toml::{Table, Value};

use crate::Problem;

/// What one crate may and may not depend on.
struct Rule {
    /// Folder of the crate, from the root of the checkout.
    folder: &'static str,
    /// Our own crates that it may depend on; all others are refused.
    ours: &'static [&'static str],
    /// Our own crates that only its optional feature `testing` may bring in.
    testing: &'static [&'static str],
    /// Crates of others that would break what this one promises.
    never: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        folder: "crates/protocol",
        ours: &[],
        testing: &[],
        never: &["tokio", "futures", "openraft", "rocksdb", "ractor", "quinn", "rustls", "socket2", "rand", "tracing"],
        why: "protocol is what may be said, and knows no I/O; every other crate pays for what it imports",
    },
    Rule {
        folder: "crates/engine",
        ours: &["coda-protocol"],
        testing: &[],
        never: &["tokio", "futures", "openraft", "rocksdb", "ractor", "quinn", "rustls", "socket2", "rand", "chrono"],
        why: "the engine is pure: no clock, no randomness, no async, no I/O; what it needs arrives in the log entry",
    },
    Rule {
        folder: "crates/raft-store",
        ours: &["coda-protocol", "coda-engine"],
        testing: &[],
        never: &["quinn", "ractor", "rustls", "socket2"],
        why: "raft-store is how the log and the state are kept; who is connected is the broker's business",
    },
    Rule {
        folder: "crates/broker",
        ours: &["coda-protocol", "coda-engine", "coda-raft-store"],
        testing: &[],
        never: &["rocksdb", "librocksdb-sys"],
        why: "RocksDB is known to raft-store alone; ask for a verb there",
    },
    Rule {
        folder: "crates/client",
        ours: &["coda-protocol"],
        testing: &["coda-engine"],
        never: &["openraft", "rocksdb", "ractor"],
        why: "the client is linked into other people's programs; the engine comes only with feature `testing`",
    },
    Rule {
        folder: "crates/cli",
        ours: &["coda-protocol", "coda-broker", "coda-client"],
        testing: &[],
        never: &["openraft", "rocksdb", "ractor"],
        why: "the binaries present; but to start a node they know nothing behind the wire",
    },
    Rule {
        folder: "sdk/python",
        ours: &["coda-protocol", "coda-client"],
        testing: &[],
        never: &["openraft", "rocksdb", "ractor", "quinn"],
        why: "the native module moves bytes between Python and the client, and nothing else",
    },
];

/// Checks one manifest. `path` is relative to the checkout; `root` is the manifest of the workspace.
pub fn check(path: &str, manifest: &Table, root: &Table) -> Vec<Problem> {
    let Some(rule) = RULES.iter().find(|rule| path.starts_with(&format!("{}/", rule.folder))) else {
        return vec![Problem::new(
            path,
            "this crate has no rule",
            "add it to `RULES` in tests/tidy/src/imports.rs and to the picture in ARCHITECTURE.md",
        )];
    };
    let mut problems: Vec<Problem> =
        shipped(manifest, root).into_iter().filter_map(|dependency| refusal(rule, path, &dependency)).collect();
    for ours in rule.testing {
        problems.extend(features_that_leak(manifest, ours).into_iter().map(|feature| {
            Problem::new(
                path,
                format!("feature `{feature}` brings in {ours}"),
                format!("only `testing` may, and `default` may not contain `testing`: {}", rule.why),
            )
        }));
    }
    problems
}

struct Dependency {
    package: String,
    optional: bool,
}

fn refusal(rule: &Rule, path: &str, dependency: &Dependency) -> Option<Problem> {
    let name = dependency.package.as_str();
    let allowed = rule.ours.contains(&name) || (rule.testing.contains(&name) && dependency.optional);
    if !(name.starts_with("coda-") && !allowed || rule.never.contains(&name)) {
        return None;
    }
    let to_do = if rule.testing.contains(&name) {
        format!("make it `optional = true` and let feature `testing` alone enable it: {}", rule.why)
    } else {
        format!("remove it (tests may have it under [dev-dependencies]): {}", rule.why)
    };
    Some(Problem::new(path, format!("{} must not depend on {name}", rule.folder), to_do))
}

/// What a user of the crate gets: normal and build dependencies, of every platform, under their real names.
fn shipped(manifest: &Table, root: &Table) -> Vec<Dependency> {
    let mut tables: Vec<&Table> = vec![manifest];
    if let Some(targets) = manifest.get("target").and_then(Value::as_table) {
        tables.extend(targets.values().filter_map(Value::as_table));
    }
    let sections = tables.iter().flat_map(|table| ["dependencies", "build-dependencies"].map(|name| table.get(name)));
    let entries = sections.flatten().filter_map(Value::as_table).flatten();
    entries
        .map(|(key, value)| Dependency { package: real_name(key, value, root), optional: flag(value, "optional") })
        .collect()
}

/// A dependency may be renamed, here or in the workspace; the rule is about the package.
fn real_name(key: &str, value: &Value, root: &Table) -> String {
    let inherited =
        root.get("workspace").and_then(|workspace| workspace.get("dependencies")).and_then(|all| all.get(key));
    let source = if flag(value, "workspace") { inherited } else { Some(value) };
    source.and_then(|source| source.get("package")).and_then(Value::as_str).unwrap_or(key).to_owned()
}

fn flag(value: &Value, name: &str) -> bool {
    value.get(name).and_then(Value::as_bool).unwrap_or(false)
}

/// Features other than `testing` that enable `package`, and `default` if it contains `testing`.
fn features_that_leak(manifest: &Table, package: &str) -> Vec<String> {
    let Some(features) = manifest.get("features").and_then(Value::as_table) else { return Vec::new() };
    let enables = |feature: &str, item: &str| {
        let of_package = item.trim_start_matches("dep:").split('/').next().unwrap_or_default() == package;
        // `package?/feature` enables nothing by itself.
        (of_package && feature != "testing") || (item == "testing" && feature == "default")
    };
    let leaks = |feature: &str, items: &Value| {
        items.as_array().is_some_and(|items| items.iter().filter_map(Value::as_str).any(|item| enables(feature, item)))
    };
    features.iter().filter(|(feature, items)| leaks(feature, items)).map(|(feature, _)| feature.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(path: &str, manifest: &str) -> Vec<String> {
        let root = "[workspace.dependencies]\nstore = { version = \"1\", package = \"rocksdb\" }\ntokio = \"1\"";
        let parse = |text: &str| text.parse::<Table>().expect("the test writes valid TOML");
        check(path, &parse(manifest), &parse(root)).into_iter().map(|problem| problem.wrong).collect()
    }

    #[test]
    fn the_engine_may_have_tokio_in_its_tests_only() {
        let manifest = "[dependencies]\ncoda-protocol.workspace = true\n[dev-dependencies]\ntokio.workspace = true";
        assert!(wrong("crates/engine/Cargo.toml", manifest).is_empty());
        let manifest = "[dependencies]\ntokio = { workspace = true, optional = true }";
        assert_eq!(wrong("crates/engine/Cargo.toml", manifest), ["crates/engine must not depend on tokio"]);
        let manifest = "[target.'cfg(unix)'.build-dependencies]\nrand = \"0.9\"";
        assert_eq!(wrong("crates/engine/Cargo.toml", manifest), ["crates/engine must not depend on rand"]);
    }

    #[test]
    fn a_renamed_dependency_is_known_by_its_real_name() {
        let manifest = "[dependencies]\nstore.workspace = true";
        assert_eq!(wrong("crates/broker/Cargo.toml", manifest), ["crates/broker must not depend on rocksdb"]);
        let manifest = "[dependencies]\nkv = { package = \"rocksdb\", version = \"1\" }";
        assert_eq!(wrong("crates/broker/Cargo.toml", manifest), ["crates/broker must not depend on rocksdb"]);
    }

    #[test]
    fn arrows_point_one_way() {
        let manifest = "[dependencies]\ncoda-broker.workspace = true";
        assert_eq!(wrong("crates/engine/Cargo.toml", manifest), ["crates/engine must not depend on coda-broker"]);
        assert!(wrong("crates/cli/Cargo.toml", manifest).is_empty());
        assert_eq!(wrong("sdk/python/native/Cargo.toml", manifest), ["sdk/python must not depend on coda-broker"]);
    }

    #[test]
    fn the_client_may_have_the_engine_through_its_feature_testing_only() {
        let dependency = "[dependencies]\ncoda-engine = { workspace = true, optional = true }\n[features]\n";
        let with = |features: &str| wrong("crates/client/Cargo.toml", &format!("{dependency}{features}"));
        assert!(with("testing = [\"dep:coda-engine\"]").is_empty());
        assert_eq!(with("fast = [\"coda-engine/simd\"]"), ["feature `fast` brings in coda-engine"]);
        assert_eq!(with("default = [\"testing\"]\ntesting = []"), ["feature `default` brings in coda-engine"]);
        let always = "[dependencies]\ncoda-engine.workspace = true";
        assert_eq!(wrong("crates/client/Cargo.toml", always), ["crates/client must not depend on coda-engine"]);
    }

    #[test]
    fn a_new_crate_needs_a_rule() {
        assert_eq!(wrong("crates/utils/Cargo.toml", "[dependencies]"), ["this crate has no rule"]);
    }
}
