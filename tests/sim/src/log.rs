//! What the programs log, with the virtual time and the host: for who looks into a run. And every panic, which is a finding.

use std::fmt::Write;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::shims;

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Prints what is logged up to this level, from now on.
pub fn print(level: Level) {
    let subscriber = tracing_subscriber::registry().with(Printer(level));
    drop(tracing::subscriber::set_global_default(subscriber));
}

/// Remembers panics from now on.
pub fn collect_panics(print: bool) {
    std::panic::set_hook(Box::new(move |info| {
        let text = format!("{}: {info}", shims::host_name());
        if print {
            println!("{text}");
        }
        PANICS.lock().push(text);
    }));
}

/// Since the last time.
#[must_use]
pub fn take_panics() -> Vec<String> {
    std::mem::take(&mut PANICS.lock())
}

struct Printer(Level);

impl<S: Subscriber> Layer<S> for Printer {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= self.0
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        let metadata = event.metadata();
        let (now, host) = (shims::now().as_secs_f64(), shims::host_name());
        println!("{now:>10.3} {host} {} {} {}", metadata.level(), metadata.target(), line.0);
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?} "),
            name => write!(self.0, "{name}={value:?} "),
        };
    }
}
