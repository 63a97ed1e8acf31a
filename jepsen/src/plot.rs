//! Plots as SVG, written by hand: lines or rows over time, with what was done to the cluster behind them.

use std::fmt::Write;

use crate::html::escaped;

const WIDTH: f64 = 1_000.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 22.0;
const ROW: f64 = 16.0;
const TICKS_X: u32 = 10;
const TICKS_Y: u32 = 4;
/// The least that a logarithmic axis shows.
const LEAST: f64 = 0.1;
const BAND: &str = "#c9584c";
const GOOD: &str = "#8fc7a3";
const BAD: &str = "#b3261e";
/// A letter is about so wide.
const LETTER: f64 = 5.6;

/// What was done, from when to when, in seconds.
#[derive(Clone, Debug)]
pub struct Band {
    pub from: f64,
    pub to: f64,
    /// When the cluster was well again.
    pub until_well: f64,
    pub name: String,
    pub about: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    Linear,
    Logarithmic,
    /// No axis: rows that are good but for some times.
    Rows,
}

struct Line {
    name: String,
    colour: &'static str,
    points: Vec<(f64, f64)>,
}

pub struct Panel<'a> {
    title: &'static str,
    until: f64,
    axis: Axis,
    bands: &'a [Band],
    lines: Vec<Line>,
    rows: Vec<(String, Vec<(f64, f64)>)>,
}

impl<'a> Panel<'a> {
    pub fn new(title: &'static str, until: f64, axis: Axis, bands: &'a [Band]) -> Self {
        Self { title, until: until.max(1.0), axis, bands, lines: Vec::new(), rows: Vec::new() }
    }

    /// Points are in order of time.
    pub fn line(&mut self, name: &str, colour: &'static str, points: Vec<(f64, f64)>) {
        self.lines.push(Line { name: name.to_owned(), colour, points });
    }

    /// A row that was bad at these times.
    pub fn row(&mut self, name: &str, bad: Vec<(f64, f64)>) {
        self.rows.push((name.to_owned(), bad));
    }

    pub fn svg(&self) -> String {
        let height = if self.axis == Axis::Rows { TOP + ROW * self.rows.len() as f64 + BOTTOM } else { HEIGHT };
        let bottom = height - BOTTOM;
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui,sans-serif\" font-size=\"10\" fill=\"#49515e\">\n\
             <text x=\"{LEFT}\" y=\"11\" font-size=\"12\" font-weight=\"600\">{}</text>\n",
            escaped(self.title)
        );
        self.draw_bands(&mut svg, bottom);
        for tick in 0..=TICKS_X {
            let time = self.until * f64::from(tick) / f64::from(TICKS_X);
            let x = self.x(time);
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" y1=\"{bottom}\" x2=\"{x:.1}\" y2=\"{}\" stroke=\"#9aa3ad\"/>\
                 <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{time:.0} s</text>",
                bottom + 3.0,
                bottom + 14.0
            );
        }
        if self.axis == Axis::Rows {
            self.draw_rows(&mut svg);
        } else {
            self.draw_lines(&mut svg, bottom);
        }
        svg + "</svg>\n"
    }

    fn draw_bands(&self, svg: &mut String, bottom: f64) {
        let mut free = 0.0;
        for band in self.bands {
            let (from, to, well) = (self.x(band.from), self.x(band.to), self.x(band.until_well));
            let height = bottom - TOP;
            let about = escaped(&band.about);
            let _ = writeln!(
                svg,
                "<g><title>{about}</title>\
                 <rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{height}\" fill=\"{BAND}\" opacity=\".22\"/>\
                 <rect x=\"{to:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{height}\" fill=\"{BAND}\" opacity=\".08\"/></g>",
                (to - from).max(1.0),
                (well - to).max(0.0)
            );
            // One name must not lie over another.
            if from >= free {
                let name = escaped(&band.name);
                let _ = writeln!(svg, "<text x=\"{from:.1}\" y=\"{}\" fill=\"{BAND}\">{name}</text>", TOP - 5.0);
                free = from + LETTER * band.name.len() as f64 + LETTER;
            }
        }
    }

    fn draw_rows(&self, svg: &mut String) {
        for (number, (name, bad)) in self.rows.iter().enumerate() {
            let y = TOP + ROW * number as f64 + 3.0;
            let (left, right) = (self.x(0.0), self.x(self.until));
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{left:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\" fill=\"{GOOD}\"/>",
                LEFT - 6.0,
                y + 8.0,
                escaped(name),
                right - left,
                ROW - 6.0
            );
            for (from, to) in bad {
                let (from, to) = (self.x(*from), self.x(*to));
                let width = (to - from).max(1.0);
                let height = ROW - 6.0;
                let _ = writeln!(
                    svg,
                    "<rect x=\"{from:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{BAD}\"/>"
                );
            }
        }
    }

    fn draw_lines(&self, svg: &mut String, bottom: f64) {
        let most = self.lines.iter().flat_map(|line| &line.points).map(|(_, value)| *value).fold(1.0, f64::max);
        let scale = |value: f64| {
            let part = match self.axis {
                Axis::Linear | Axis::Rows => value / most,
                Axis::Logarithmic => (value.max(LEAST) / LEAST).ln() / (most / LEAST).ln(),
            };
            bottom - (bottom - TOP) * part
        };
        let ticks: Vec<f64> = match self.axis {
            Axis::Logarithmic => {
                std::iter::successors(Some(LEAST), |tick| Some(tick * 10.0)).take_while(|tick| *tick <= most).collect()
            }
            Axis::Linear | Axis::Rows => {
                (0..=TICKS_Y).map(|tick| most * f64::from(tick) / f64::from(TICKS_Y)).collect()
            }
        };
        for tick in ticks {
            let (y, right) = (scale(tick), WIDTH - RIGHT);
            let text = if tick < 1.0 && tick > 0.0 { format!("{tick:.1}") } else { format!("{tick:.0}") };
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#e3e6ea\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                LEFT - 6.0,
                y + 3.0
            );
        }
        for (number, line) in self.lines.iter().enumerate() {
            let points: Vec<String> =
                line.points.iter().map(|(time, value)| format!("{:.1},{:.1}", self.x(*time), scale(*value))).collect();
            let _ = writeln!(
                svg,
                "<polyline fill=\"none\" stroke=\"{0}\" stroke-width=\"1.3\" points=\"{1}\"/>\
                 <text x=\"{2}\" y=\"11\" fill=\"{0}\">{3}</text>",
                line.colour,
                points.join(" "),
                LEFT + 260.0 + 70.0 * number as f64,
                escaped(&line.name)
            );
        }
    }

    fn x(&self, time: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (time / self.until).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panel_is_well_formed_and_shows_what_it_was_given() {
        let band = |from, name: &str| Band {
            from,
            to: from + 1.0,
            until_well: from + 2.0,
            name: name.into(),
            about: "a < b".into(),
        };
        let bands = [band(1.0, "kill"), band(1.1, "hidden"), band(8.0, "pause")];
        let mut panel = Panel::new("latency", 10.0, Axis::Logarithmic, &bands);
        panel.line("median", "#000", vec![(0.0, 0.0), (5.0, 100.0)]);
        let svg = panel.svg();
        assert!(svg.contains(">kill<") && svg.contains(">pause<") && !svg.contains(">hidden<"), "{svg}");
        assert!(svg.contains("a &lt; b") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        let mut rows = Panel::new("groups", 10.0, Axis::Rows, &[]);
        rows.row("group 1", vec![(2.0, 3.0)]);
        assert_eq!(rows.svg().matches("<rect").count(), 2);
    }

    #[test]
    fn nothing_at_all_is_a_panel_too() {
        for axis in [Axis::Linear, Axis::Logarithmic, Axis::Rows] {
            let svg = Panel::new("empty", 0.0, axis, &[]).svg();
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{svg}");
        }
    }
}
