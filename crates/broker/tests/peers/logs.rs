//! What was logged about peers: all tests of the process share one log, and tell themselves apart by their node ids.

use std::fmt::Write;
use std::sync::{Mutex, OnceLock};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

static LINES: OnceLock<Mutex<Vec<String>>> = OnceLock::new();

/// Starts collecting; does nothing if that was done already.
pub fn collect() {
    LINES.get_or_init(|| {
        drop(tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Collector)));
        Mutex::default()
    });
}

/// Warnings and errors that hold this text.
pub fn matching(text: &str) -> Vec<String> {
    let lines = LINES.get().expect("collecting").lock().unwrap();
    lines.iter().filter(|line| line.contains(text)).cloned().collect()
}

struct Collector;

impl<S: Subscriber> Layer<S> for Collector {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if !metadata.target().starts_with("coda_broker") || *metadata.level() > Level::WARN {
            return;
        }
        let mut line = Line(String::new());
        event.record(&mut line);
        if let Some(lines) = LINES.get() {
            lines.lock().unwrap().push(line.0);
        }
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}
