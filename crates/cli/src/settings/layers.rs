//! Where settings come from: the file, the environment, the command line. Each value keeps its origin, for errors and
//! for whoever asks why a node does what it does.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::keys::{self, KEYS, PREFIX, SEPARATOR};
use super::problem::Problem;
use super::value::Raw;

/// Nobody writes as much; what is larger was named by mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Default,
    File { path: String, line: usize },
    Variable(String),
    Option(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Variable(name) | Self::Option(name) => f.write_str(name),
        }
    }
}

/// A value as it was written, and where.
#[derive(Clone, Debug)]
pub struct Given {
    pub raw: Raw,
    pub origin: Origin,
    /// Where relative paths count from.
    pub base: PathBuf,
}

/// What was said of each key; of several, what was said last.
#[derive(Default)]
pub struct Layers {
    given: BTreeMap<&'static str, Given>,
    /// The file's folder; empty, which is the current one, without a file.
    pub base: PathBuf,
    pub problems: Vec<Problem>,
}

impl Layers {
    pub fn get(&self, name: &str) -> Option<&Given> {
        self.given.get(name)
    }

    /// Adds a TOML file.
    pub fn file(&mut self, path: &Path) {
        let name = path.display().to_string();
        let at = |line| Origin::File { path: name.clone(), line };
        let text = match read(path) {
            Ok(text) => text,
            Err(why) => return self.problems.push(Problem::unreadable(&name, &why)),
        };
        let line_of = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
        let table = match DeTable::parse(&text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let line = line_of(error.span().map_or(0, |span| span.start));
                return self.problems.push(Problem::not_toml(at(line), error.message()));
            }
        };
        let base =
            std::path::absolute(path).ok().and_then(|path| path.parent().map(Path::to_owned)).unwrap_or_default();
        self.base.clone_from(&base);
        for (section, value) in &table {
            let DeValue::Table(keys) = value.get_ref() else {
                self.lay(section.get_ref(), raw(value.get_ref()), at(line_of(section.span().start)), &base);
                continue;
            };
            let section_name = section.get_ref();
            if keys.is_empty() && !KEYS.iter().any(|key| key.name.split('.').next() == Some(section_name)) {
                self.unknown(section_name, at(line_of(section.span().start)));
            }
            for (key, value) in keys {
                let name = format!("{section_name}.{}", key.get_ref());
                self.lay(&name, raw(value.get_ref()), at(line_of(key.span().start)), &base);
            }
        }
    }

    /// Adds what the environment holds. Empty variables are as good as none.
    pub fn variables(&mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) {
        for (variable, value) in variables {
            let Some(variable) = variable.to_str() else { continue };
            let Some((section, key)) = variable.strip_prefix(PREFIX).and_then(|rest| rest.split_once(SEPARATOR)) else {
                continue;
            };
            let origin = Origin::Variable(variable.to_owned());
            let name = format!("{section}.{key}").to_lowercase();
            match value.to_str() {
                Some("") => {}
                Some(value) => self.lay(&name, Raw::Words(value.to_owned()), origin, Path::new("")),
                None => self.lay(&name, Raw::Other("not UTF-8"), origin, Path::new("")),
            }
        }
    }

    /// Adds what an option of the command line says.
    pub fn option(&mut self, option: &str, name: &str, value: &str) {
        self.lay(name, Raw::Words(value.to_owned()), Origin::Option(option.to_owned()), Path::new(""));
    }

    fn lay(&mut self, name: &str, raw: Raw, origin: Origin, base: &Path) {
        match keys::find(name) {
            Some(key) => drop(self.given.insert(key.name, Given { raw, origin, base: base.to_owned() })),
            None => self.unknown(name, origin),
        }
    }

    fn unknown(&mut self, name: &str, origin: Origin) {
        self.problems.push(Problem::unknown(origin, name, keys::nearest(name)));
    }
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    read.map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it is larger than {FILE_BYTES_MAX} bytes"));
    }
    Ok(text)
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Boolean(flag) => Raw::Flag(*flag),
        DeValue::Integer(number) => match u64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Raw::Number(number),
            Err(_) => Raw::Other("a number that is not whole, not positive, or too large"),
        },
        DeValue::Array(values) => {
            let texts = values.iter().map(|value| value.get_ref().as_str().map(str::to_owned));
            texts.collect::<Option<Vec<_>>>().map_or(Raw::Other("array"), Raw::Texts)
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => Raw::Other(value.type_str()),
    }
}
