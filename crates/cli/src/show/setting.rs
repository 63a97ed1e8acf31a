//! The cluster's settings: what holds, what would without anybody's saying, and what they may be.

use coda_protocol::cluster::{SettingDescription, SettingValue};
use comfy_table::Cell;
use serde_json::{Value, json};

use crate::args::Format;
use crate::output::{Grid, Screen, document, warned};

/// Just the value, for scripts; everything as JSON.
pub fn one(setting: &SettingDescription, screen: &Screen) -> String {
    match screen.format {
        Format::Json => document(&setting_json(setting)),
        Format::Table => format!("{}\n", setting.value),
    }
}

pub fn all(settings: &[SettingDescription], screen: &Screen) -> String {
    if screen.format == Format::Json {
        return document(&json!({ "settings": settings.iter().map(setting_json).collect::<Vec<_>>() }));
    }
    let mut grid = Grid::new(screen, ["KEY", "VALUE", "DEFAULT", "MAY BE", "MEANING"]);
    for setting in settings {
        grid.row([
            Cell::new(&setting.key),
            if setting.is_changed() { warned(setting.value) } else { Cell::new(setting.value) },
            Cell::new(setting.default),
            Cell::new(&setting.allowed),
            Cell::new(&setting.about),
        ]);
    }
    grid.render()
}

fn setting_json(setting: &SettingDescription) -> Value {
    let value = |value: SettingValue| match value {
        SettingValue::Switch(switch) => json!(switch),
        SettingValue::Number(number) => json!(number),
    };
    json!({
        "key": setting.key,
        "value": value(setting.value),
        "default": value(setting.default),
        "is_changed": setting.is_changed(),
        "may_be": setting.allowed,
        "meaning": setting.about,
    })
}
