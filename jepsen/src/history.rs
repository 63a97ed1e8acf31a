//! Everything that happened, one JSON object a line, in the order in which it was noted.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing::warn;

use crate::moment::Moment;

/// Cheap to clone.
#[derive(Clone)]
pub struct History(Arc<Mutex<BufWriter<File>>>);

impl History {
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(Arc::new(Mutex::new(BufWriter::new(file)))))
    }

    /// Something that has just happened. It is in the file at once: the suite may be killed.
    pub fn note(&self, what: &str, more: &Value) {
        self.note_at(Moment::now(), what, more);
        if let Err(error) = self.flush() {
            warn!(%error, "the history cannot be written");
        }
    }

    pub fn note_at(&self, at: Moment, what: &str, more: &Value) {
        let mut line = json!({ "at": at, "what": what });
        if let (Value::Object(line), Value::Object(more)) = (&mut line, more) {
            line.extend(more.clone());
        }
        let mut file = self.0.lock();
        if let Err(error) = writeln!(file, "{line}") {
            warn!(%error, "the history cannot be written");
        }
    }

    pub fn flush(&self) -> anyhow::Result<()> {
        self.0.lock().flush().context("the history cannot be written")
    }
}
