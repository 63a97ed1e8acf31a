//! A node's configuration: what holds and why, and all that can be set.

use comfy_table::Cell;
use serde_json::{Value as Json, json};

use crate::args::Format;
use crate::output::{Grid, Screen, document};
use crate::settings::keys::{KEYS, Key, Without};
use crate::settings::{Effective, Origin, Value};

pub fn effective(settings: &[Effective], screen: &Screen) -> String {
    if screen.format == Format::Json {
        return document(&json!({ "settings": settings.iter().map(effective_json).collect::<Vec<_>>() }));
    }
    let mut grid = Grid::new(screen, ["KEY", "VALUE", "FROM"]);
    for setting in settings {
        let value = match &setting.value {
            Some(_) if setting.key.is_secret => "(secret)".to_owned(),
            Some(value) => value.to_string(),
            None => "-".to_owned(),
        };
        grid.row([Cell::new(setting.key.name), Cell::new(value), Cell::new(&setting.origin)]);
    }
    grid.render()
}

fn effective_json(setting: &Effective) -> Json {
    let value = match &setting.value {
        Some(_) if setting.key.is_secret => json!("(secret)"),
        Some(value) => value_json(value),
        None => Json::Null,
    };
    let from = match &setting.origin {
        Origin::Default => json!({ "layer": "default" }),
        Origin::File { path, line } => json!({ "layer": "file", "path": path, "line": line }),
        Origin::Variable(name) => json!({ "layer": "environment", "variable": name }),
        Origin::Option(name) => json!({ "layer": "command_line", "option": name }),
    };
    json!({ "key": setting.key.name, "value": value, "from": from })
}

fn value_json(value: &Value) -> Json {
    match value {
        Value::Number(number) => json!(number),
        Value::Flag(flag) => json!(flag),
        Value::Texts(texts) => json!(texts),
        Value::Text(_) | Value::Path(_) | Value::Address(_) | Value::Duration(_) | Value::Bytes(_) => {
            json!(value.to_string())
        }
    }
}

pub fn keys(screen: &Screen) -> String {
    if screen.format == Format::Json {
        return document(&json!({ "keys": KEYS.iter().map(key_json).collect::<Vec<_>>() }));
    }
    let mut grid = Grid::new(screen, ["KEY", "DEFAULT", "MAY BE", "MEANING"]);
    for key in KEYS {
        let default = match key.without {
            Without::Missing => "(required)",
            Without::Nothing => "-",
            Without::Default(default) => default,
        };
        let about = key.about.to_owned();
        grid.row([Cell::new(key.name), Cell::new(default), Cell::new(key.kind), Cell::new(about)]);
    }
    grid.render()
}

fn key_json(key: &Key) -> Json {
    json!({
        "key": key.name,
        "variable": key.variable(),
        "default": match key.without {
            Without::Default(default) => Some(default),
            Without::Missing | Without::Nothing => None,
        },
        "required": key.without == Without::Missing,
        "may_be": key.kind.to_string(),
        "meaning": key.about,
    })
}
