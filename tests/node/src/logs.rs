//! What the node has logged, per peer: all tests of a process share one log.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Instant;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

static LINES: OnceLock<Mutex<Vec<String>>> = OnceLock::new();

/// Starts collecting; does nothing if that was done already.
pub fn collect() {
    LINES.get_or_init(|| {
        let subscriber = tracing_subscriber::registry().with(Collector);
        drop(tracing::subscriber::set_global_default(subscriber));
        Mutex::default()
    });
}

/// Warnings and errors about connections from this address.
#[must_use]
pub fn warnings_about(peer: SocketAddr) -> Vec<String> {
    let wanted = format!("peer={peer} ");
    matching(&wanted)
}

/// Forgets what was logged about an address: the machine gives the port of a connection that has ended to another.
pub fn forget(peer: SocketAddr) {
    collect();
    let wanted = format!("peer={peer} ");
    LINES.get().expect("collecting").lock().retain(|line| !line.contains(&wanted));
}

/// Warnings and errors that hold this text.
#[must_use]
pub fn matching(text: &str) -> Vec<String> {
    let lines = LINES.get().expect("collecting").lock();
    lines.iter().filter(|line| line.contains(text)).cloned().collect()
}

/// Whether to print what nodes log, for whoever looks into a test: with `CODA_TEST_LOG` set.
fn prints() -> bool {
    static PRINTS: OnceLock<bool> = OnceLock::new();
    *PRINTS.get_or_init(|| std::env::var_os("CODA_TEST_LOG").is_some())
}

fn began() -> Instant {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    *BEGAN.get_or_init(Instant::now)
}

struct Collector;

impl<S: Subscriber> Layer<S> for Collector {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let ours = event.metadata().target().starts_with("coda_");
        if ours && *event.metadata().level() <= Level::INFO && prints() {
            let mut line = Line(String::new());
            event.record(&mut line);
            eprintln!(
                "{:8.3} {:?} {} {}",
                began().elapsed().as_secs_f64(),
                std::thread::current().id(),
                event.metadata().target(),
                line.0
            );
        }
        if !event.metadata().target().starts_with("coda_broker") || *event.metadata().level() > Level::WARN {
            return;
        }
        let mut line = Line(format!("{} ", event.metadata().level()));
        event.record(&mut line);
        if let Some(lines) = LINES.get() {
            lines.lock().push(line.0);
        }
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}
