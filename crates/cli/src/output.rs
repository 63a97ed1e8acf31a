//! What goes to standard output: tables for people, one JSON document for programs.
//!
//! Deliberately absent: any decision about what to show. Rendering is a pure function of a description and a
//! [`Screen`], so that tests compare text.

use std::io::{IsTerminal, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use coda_protocol::ids::Timestamp;
use coda_protocol::payload::Payload;
use comfy_table::{Cell, CellAlignment, Color, Table, presets};
use owo_colors::Stream;
use serde_json::{Value, json};

use crate::args::{Format, Global};
use crate::errors::CliError;

/// How and when something is rendered.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    pub format: Format,
    pub colours: bool,
    pub now: Timestamp,
}

impl Screen {
    pub fn new(global: &Global) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // owo-colors knows NO_COLOR, FORCE_COLOR, TERM=dumb and pipes.
        let colours = owo_colors::OwoColorize::if_supports_color(&"", Stream::Stdout, |_| "yes").to_string() == "yes";
        Self { format: global.output, colours, now: Timestamp(now.as_millis() as u64) }
    }

    /// How long ago something was.
    pub fn age(&self, at: Timestamp) -> String {
        span(self.now.0.saturating_sub(at.0))
    }
}

/// Writes data. A reader that has gone away (`| head`) is no error.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::local_io(format!("cannot write to standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Says something to a person, who is at the terminal; scripts are not told.
pub fn tip(text: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("{text}");
    }
}

/// A JSON document and the end of its line.
pub fn document(value: &Value) -> String {
    format!("{value:#}\n")
}

/// A span of time as its two largest units.
pub fn span(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0 => format!("{ms}ms"),
        1..60 => format!("{s}s"),
        60..3_600 => two(s / 60, "m", s % 60, "s"),
        3_600..86_400 => two(s / 3_600, "h", s % 3_600 / 60, "m"),
        _ => two(s / 86_400, "d", s % 86_400 / 3_600, "h"),
    }
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 { format!("{large}{large_unit}") } else { format!("{large}{large_unit} {small}{small_unit}") }
}

/// A number of bytes in the largest unit that leaves at least one.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && count >> (10 * (unit + 1)) > 0 {
        unit += 1;
    }
    if unit == 0 {
        return format!("{count} B");
    }
    // Cut, not rounded: 1023.99 KiB are no MiB, and what is free is never more than it says.
    let tenths = (u128::from(count) * 10) >> (10 * unit);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A short time, in microseconds.
pub fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us}us"),
        1_000..100_000 => format!("{}.{}ms", us / 1_000, us % 1_000 / 100),
        _ => span(us / 1_000),
    }
}

/// A line in colour, where there are colours.
pub fn painted(screen: &Screen, colour: owo_colors::AnsiColors, text: &str) -> String {
    use owo_colors::OwoColorize;
    if screen.colours { text.color(colour).to_string() } else { text.to_owned() }
}

/// A table with column names in capitals and no borders: easy on the eye and on `awk`.
pub struct Grid(Table);

impl Grid {
    pub fn new<const N: usize>(screen: &Screen, header: [&str; N]) -> Self {
        let mut table = plain(screen);
        table.set_header(header.map(Cell::new));
        Self(table)
    }

    /// Which columns hold numbers. To be called after the last row.
    pub fn numbers<const N: usize>(mut self, columns: [usize; N]) -> Self {
        for column in columns {
            if let Some(column) = self.0.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self
    }

    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.0.add_row(cells);
    }

    pub fn render(mut self) -> String {
        lines(&mut self.0)
    }
}

/// `NAME  value` lines.
pub struct Fields(Table);

impl Fields {
    pub fn new(screen: &Screen) -> Self {
        Self(plain(screen))
    }

    pub fn with(mut self, name: &str, value: impl Into<Cell>) -> Self {
        self.0.add_row([Cell::new(name), value.into()]);
        self
    }

    pub fn render(mut self) -> String {
        lines(&mut self.0)
    }
}

/// A cell that means trouble, rest, or good news.
pub fn warned(text: impl ToString) -> Cell {
    Cell::new(text.to_string()).fg(Color::Yellow)
}

pub fn bad(text: impl ToString) -> Cell {
    Cell::new(text.to_string()).fg(Color::Red)
}

pub fn good(text: impl ToString) -> Cell {
    Cell::new(text.to_string()).fg(Color::Green)
}

fn plain(screen: &Screen) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    // comfy-table would look at the terminal by itself.
    if screen.colours {
        table.enforce_styling()
    } else {
        table.force_no_tty()
    };
    table
}

fn lines(table: &mut Table) -> String {
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 3));
    });
    let mut out = String::new();
    for line in table.lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// What a function took or returned. Bytes of a codec other than JSON are not shown.
pub fn payload_json(payload: &Payload) -> Value {
    let opaque = || json!({ "codec": payload.codec.as_str(), "bytes": payload.data.len() });
    if payload.codec != "json" {
        return opaque();
    }
    serde_json::from_slice(&payload.data).unwrap_or_else(|_| opaque())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_shows_its_two_largest_units() {
        let spans = [0, 999, 1_000, 59_999, 60_000, 125_000, 3_600_000, 5_400_000, 86_400_000, 183_600_000];
        let expected = ["0ms", "999ms", "1s", "59s", "1m", "2m 5s", "1h", "1h 30m", "1d", "2d 3h"];
        assert_eq!(spans.map(span), expected);
    }

    #[test]
    fn bytes_and_short_times_read_at_a_glance() {
        let counts = [0, 1_023, 1_024, 1_536, (1 << 20) - 1, 1 << 20, 5 << 30, u64::MAX];
        let expected = ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1023.9 KiB", "1.0 MiB", "5.0 GiB", "16777215.9 TiB"];
        assert_eq!(counts.map(bytes), expected);
        assert_eq!(
            [0, 999, 1_850, 99_999, 400_000, 2_500_000].map(micros),
            ["0us", "999us", "1.8ms", "99.9ms", "400ms", "2s"]
        );
    }

    #[test]
    fn only_json_is_shown() {
        assert_eq!(payload_json(&Payload::json("[1]")), json!([1]));
        let other = Payload { codec: "msgpack".into(), data: vec![1, 2, 3].into() };
        assert_eq!(payload_json(&other), json!({ "codec": "msgpack", "bytes": 3 }));
        assert_eq!(payload_json(&Payload::json("{")), json!({ "codec": "json", "bytes": 1 }));
    }
}
