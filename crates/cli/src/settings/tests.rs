//! Configurations, right and wrong, as people write them.

use std::fs;

use super::*;

/// A folder with a `node.toml`, and nothing in the environment.
struct Case {
    folder: tempfile::TempDir,
    sources: Sources,
}

impl Case {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        fs::write(&path, text).unwrap();
        Self { folder, sources: Sources { file: Some(path), ..Sources::default() } }
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.sources.variables.push((name.into(), value.into()));
        self
    }

    fn set(mut self, key: &str, value: &str) -> Self {
        self.sources.set(&[(key.into(), value.into())]);
        self
    }

    fn settings(&self) -> Settings {
        Settings::of(&self.sources.load().unwrap_or_else(|error| panic!("{error}")))
    }

    fn origin(&self, name: &str) -> String {
        let effective = self.sources.load().unwrap();
        let origin = &effective.iter().find(|effective| effective.key.name == name).unwrap().origin;
        origin.to_string().replace(&self.folder.path().display().to_string(), "")
    }

    /// Code, message and the other mistakes.
    fn refusal(&self) -> (&'static str, String) {
        let error = self.sources.load().unwrap_err();
        assert_eq!(error.exit, crate::errors::Exit::Usage);
        let text = [Some(error.message), error.detail].into_iter().flatten().collect::<Vec<_>>().join("\n");
        (error.code, text.replace(&self.folder.path().display().to_string(), ""))
    }
}

const MINIMAL: &str = "[node]\nid = 3\n";

#[test]
fn a_node_needs_its_id_and_nothing_else() {
    let case = Case::new(MINIMAL);
    let settings = case.settings();
    assert_eq!((settings.node, settings.listen.port()), (NodeId(3), 4747));
    // Defaults lie where the file lies.
    assert_eq!(settings.certificates.ca, case.folder.path().join("certs/ca.pem"));
    assert_eq!(
        (settings.require_certificate, settings.log_level.as_str(), settings.log_is_json),
        (false, "info,openraft=warn", false)
    );
    assert_eq!(case.origin("node.id"), "/node.toml:2");
    assert_eq!(case.origin("log.level"), "default");
    let (code, text) = Case::new("").refusal();
    assert_eq!(code, "CODA4222");
    assert!(text.contains("`node.id` is not set") && text.contains("CODA_NODE__ID"), "{text}");
}

#[test]
fn the_later_layer_wins() {
    let file = "[node]\nid = 3\n\n[log]\nlevel = \"warn\"\nformat = \"json\"\n";
    let case = Case::new(file);
    assert_eq!((case.settings().log_level.as_str(), case.origin("log.level")), ("warn", "/node.toml:5".to_owned()));
    let case = Case::new(file).variable("CODA_LOG__LEVEL", "debug").variable("CODA_LOG__FORMAT", "");
    assert_eq!((case.settings().log_level.as_str(), case.origin("log.level")), ("debug", "CODA_LOG__LEVEL".to_owned()));
    assert!(case.settings().log_is_json, "an empty variable says nothing");
    let case = Case::new(file).variable("CODA_LOG__LEVEL", "debug").set("log.level", "error");
    assert_eq!((case.settings().log_level.as_str(), case.origin("log.level")), ("error", "--set".to_owned()));
}

#[test]
fn without_a_file_the_environment_is_enough() {
    let sources = Sources { variables: vec![("CODA_NODE__ID".into(), "7".into())], ..Sources::default() };
    let settings = Settings::of(&sources.load().unwrap());
    assert_eq!(settings.node, NodeId(7));
    assert_eq!(settings.certificates.key, Path::new("certs/node.key"));
}

#[test]
fn paths_count_from_where_they_are_written() {
    let case =
        Case::new("[node]\nid = 3\ndata_dir = \"data\"\n[tls]\nca = \"/trust.pem\"\n").set("tls.key", "here.key");
    let settings = case.settings();
    assert_eq!(settings.data_dir, case.folder.path().join("data"));
    assert_eq!(settings.certificates.ca, Path::new("/trust.pem"));
    assert_eq!(settings.certificates.key, Path::new("here.key"));
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_its_neighbour() {
    for (text, expected) in [
        (
            "[listen]\nclinet = \"0.0.0.0:1\"\n",
            "/node.toml:2: there is no key `listen.clinet`; the nearest is `listen.client`",
        ),
        ("\n[lisen]\nclient = 1\n", "/node.toml:3: there is no key `lisen.client`; the nearest is `listen.client`"),
        ("id = 3\n", "/node.toml:1: there is no key `id`; the nearest is `node.id`"),
        ("\n\n[nodes]\n", "/node.toml:3: there is no key `nodes`; the nearest is `node.id`"),
        ("node.idd = 3\n", "/node.toml:1: there is no key `node.idd`; the nearest is `node.id`"),
    ] {
        let (code, told) = Case::new(text).refusal();
        assert_eq!((code, told.lines().next()), ("CODA4220", Some(expected)), "{text}");
    }
    let (code, told) = Case::new(MINIMAL).variable("CODA_LISTEN__CLIENTS", "x").refusal();
    assert_eq!(code, "CODA4220");
    assert!(told.contains("CODA_LISTEN__CLIENTS: there is no key `listen.clients`"), "{told}");
    let (code, told) = Case::new(MINIMAL).set("log.lvl", "x").refusal();
    assert_eq!((code, told.as_str()), ("CODA4220", "--set: there is no key `log.lvl`; the nearest is `log.level`"));
    // Other variables of ours are none of its business.
    Case::new(MINIMAL).variable("CODA_ADDRESS", "x").variable("CODA_", "x").variable("PATH", "x").settings();
}

#[test]
fn a_value_out_of_bounds_is_named_with_what_it_may_be() {
    for (text, expected) in [
        ("[node]\nid = 0\n", "/node.toml:2: `node.id` cannot be `0`: write a whole number from 1 to 65535"),
        ("[node]\nid = \"3\"\n", "/node.toml:2: `node.id` cannot be `3`: write a whole number from 1 to 65535"),
        (
            "[node]\nid = -3\n",
            "/node.toml:2: `node.id` cannot be `<a number that is not whole, not positive, or too large>`: \
             write a whole number from 1 to 65535",
        ),
        ("[node]\nid = 3\n[log]\nformat = \"xml\"\n", "/node.toml:4: `log.format` cannot be `xml`: write text or json"),
        (
            "[node]\nid = 3\n[log.level]\n",
            "/node.toml:3: `log.level` cannot be `<table>`: write a level such as info, \
             or a filter such as coda_broker=debug",
        ),
    ] {
        assert_eq!(Case::new(text).refusal(), ("CODA4221", expected.to_owned()), "{text}");
    }
    assert_eq!(Case::new(MINIMAL).variable("CODA_STORAGE__SYNC_DELAY", "2s").refusal().0, "CODA4221");
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let (code, told) = Case::new("[log]\nlevl = \"info\"\n[node]\nid = 0\n[tls]\nca = 5\n").refusal();
    assert_eq!(code, "CODA4220");
    let starts = ["/node.toml:2: there is no key", "also [CODA4221]: /node.toml:4:", "also [CODA4221]: /node.toml:6:"];
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), starts.len(), "{told}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{told}");
    }
}

#[test]
fn a_file_that_is_none_is_refused() {
    for text in ["[node\nid = 3\n", "[node]\nid = 3\nid = 4\n", "hello"] {
        let (code, told) = Case::new(text).refusal();
        assert_eq!(code, "CODA4219", "{told}");
        assert!(
            told.contains("/node.toml:") && told.contains("this is not TOML") && told.lines().count() == 1,
            "{told}"
        );
    }
    let mut case = Case::new("");
    case.sources.file = Some(case.folder.path().join("other.toml"));
    let (code, told) = case.refusal();
    assert_eq!(code, "CODA4219");
    assert!(told.starts_with("cannot read /other.toml: ") && told.lines().count() == 1, "{told}");
}

#[test]
fn what_is_said_about_other_nodes_needs_a_way_to_meet_them() {
    for text in [
        "[listen]\nadvertise_peer = \"a:4748\"\n",
        "[cluster]\nseeds = [\"a:4748\"]\n",
        "[cluster]\njoin_token = \"secret\"\n",
    ] {
        let (code, told) = Case::new(&format!("{MINIMAL}{text}")).refusal();
        assert_eq!(code, "CODA4224", "{told}");
        assert!(told.starts_with("/node.toml:4: ") && !told.contains("secret"), "{told}");
    }
}

#[test]
fn the_sample_loads_and_shows_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/node.toml");
    let text = fs::read_to_string(&path).unwrap();
    let sources = Sources { file: Some(path), ..Sources::default() };
    let effective = sources.load().unwrap_or_else(|error| panic!("{error}"));
    Settings::of(&effective);
    // Commented out or not, each stands under its section, a default with its value.
    let mut section = "";
    let mut shown = Vec::new();
    for line in text.lines() {
        let line = line.trim_start_matches('#').trim();
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        } else if let Some((key, value)) = line.split_once(" = ").filter(|(key, _)| !key.contains(' ')) {
            shown.push((format!("{section}.{key}"), value.trim_matches('"').to_owned()));
        }
    }
    for (name, value) in &shown {
        let key = keys::find(name).unwrap_or_else(|| panic!("the sample shows {name}, which is no key"));
        let text = value.trim_matches(['[', ']']).replace('"', "");
        assert!(key.kind.read(&Raw::Words(text), Path::new("")).is_ok(), "{name} = {value}");
    }
    for key in KEYS {
        let found = shown.iter().find(|(name, _)| name == key.name);
        let (_, value) = found.unwrap_or_else(|| panic!("the sample does not show {}", key.name));
        // What the sample chooses for its reader, and says why.
        if let Without::Default(default) = key.without
            && key.name != "client.require_certificate"
        {
            assert_eq!(value, default, "{}", key.name);
        }
    }
}
