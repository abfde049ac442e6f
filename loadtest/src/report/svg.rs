//! Line plots as inline SVG. Colours are classes of the page's style, so that they follow its
//! light or dark scheme. Pure.

use std::fmt::Write;

/// One line of a plot.
pub struct Line<'a> {
    pub name: &'a str,
    pub points: Vec<(f64, f64)>,
}

/// How values lie on an axis.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    Linear,
    Log,
    /// Percentiles: ever nearer to 100.
    Nines,
}

pub struct Plot<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
    pub x_scale: Scale,
    pub y_scale: Scale,
    pub lines: Vec<Line<'a>>,
    /// Positions with a word, such as where phases begin.
    pub marks: Vec<(f64, &'a str)>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 46.0;
/// Below this a logarithm says nothing here: a microsecond, in milliseconds.
const LOG_LEAST: f64 = 0.001;
/// Classes of colour in the page's style.
pub const COLOURS: usize = 4;

struct Axis {
    scale: Scale,
    least: f64,
    most: f64,
}

impl Axis {
    fn of(scale: Scale, values: impl Iterator<Item = f64> + Clone) -> Self {
        let values = values.filter(|value| value.is_finite()).map(|value| place(scale, value));
        let most = values.clone().fold(f64::NEG_INFINITY, f64::max);
        let least = values.fold(f64::INFINITY, f64::min);
        let (least, most) = if least.is_finite() { (least, most) } else { (0.0, 1.0) };
        match scale {
            Scale::Linear => {
                let most = if most > 0.0 { nice(most) } else { 1.0 };
                Self { scale, least: 0.0, most }
            }
            Scale::Log => Self { scale, least: least.floor(), most: most.ceil().max(least + 1.0) },
            Scale::Nines => Self { scale, least: 0.0, most: most.max(1.0) },
        }
    }

    /// 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let share = (place(self.scale, value) - self.least) / (self.most - self.least);
        share.clamp(0.0, 1.0)
    }

    /// Values with their words.
    fn ticks(&self) -> Vec<(f64, String)> {
        const STEPS: u32 = 5;
        match self.scale {
            Scale::Linear => (0..=STEPS)
                .map(|step| self.most * f64::from(step) / f64::from(STEPS))
                .map(|value| (value, short(value)))
                .collect(),
            Scale::Log => (self.least as i32..=self.most as i32)
                .map(|power| 10f64.powi(power))
                .map(|value| (value, short(value)))
                .collect(),
            Scale::Nines => (0..=self.most as i32)
                .map(|nines| 100.0 * (1.0 - 10f64.powi(-nines)))
                .map(|value| (value, format!("{value}")))
                .collect(),
        }
    }
}

fn place(scale: Scale, value: f64) -> f64 {
    match scale {
        Scale::Linear => value,
        Scale::Log => value.max(LOG_LEAST).log10(),
        Scale::Nines => -(1.0 - (value / 100.0).min(0.999_999_999)).log10(),
    }
}

/// The next number whose fifth parts are easy to read.
fn nice(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    let fits = steps.iter().map(|step| step * power).find(|step| *step >= value * 0.999_999);
    fits.unwrap_or(10.0 * power)
}

fn short(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        value if value >= 1e6 => format!("{}M", trimmed(value / 1e6)),
        value if value >= 1e4 => format!("{}k", trimmed(value / 1e3)),
        value => trimmed(value),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Plot<'_> {
    pub fn draw(&self) -> String {
        let all = || self.lines.iter().flat_map(|line| line.points.iter().copied());
        let x = Axis::of(self.x_scale, all().map(|(x, _)| x));
        let y = Axis::of(self.y_scale, all().map(|(_, y)| y));
        let at_x = |value: f64| LEFT + x.share(value) * (WIDTH - LEFT - RIGHT);
        let at_y = |value: f64| HEIGHT - BOTTOM - y.share(value) * (HEIGHT - TOP - BOTTOM);
        let mut out = String::new();
        let title = escape(self.title);
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\
             <text class=\"title\" x=\"{LEFT}\" y=\"16\">{title}</text>"
        );
        for (value, word) in y.ticks() {
            let (at, right, text) = (at_y(value), WIDTH - RIGHT, at_y(value) + 4.0);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text class=\"tick\" text-anchor=\"end\" x=\"{}\" y=\"{text:.1}\">{word}</text>",
                LEFT - 6.0
            );
        }
        for (value, word) in x.ticks() {
            let (at, bottom) = (at_x(value), HEIGHT - BOTTOM);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
                 <text class=\"tick\" text-anchor=\"middle\" x=\"{at:.1}\" y=\"{}\">{word}</text>",
                bottom + 15.0
            );
        }
        for (value, word) in &self.marks {
            let (at, bottom, word) = (at_x(*value), HEIGHT - BOTTOM, escape(word));
            let _ = write!(
                out,
                "<line class=\"mark\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{}\">{word}</text>",
                at + 4.0,
                TOP + 10.0
            );
        }
        self.draw_lines(&mut out, at_x, at_y);
        self.draw_words(&mut out);
        out.push_str("</svg>");
        out
    }

    fn draw_lines(&self, out: &mut String, at_x: impl Fn(f64) -> f64, at_y: impl Fn(f64) -> f64) {
        for (number, line) in self.lines.iter().enumerate() {
            let points: Vec<_> = line
                .points
                .iter()
                .map(|(x, y)| format!("{:.1},{:.1}", at_x(*x), at_y(*y)))
                .collect();
            let _ = write!(
                out,
                "<polyline class=\"line c{}\" points=\"{}\"/>",
                number % COLOURS,
                points.join(" ")
            );
        }
    }

    /// Names of the axes and of the lines.
    fn draw_words(&self, out: &mut String) {
        let (x, y) = (escape(self.x), escape(self.y));
        let _ = write!(
            out,
            "<text class=\"tick\" text-anchor=\"middle\" x=\"{}\" y=\"{}\">{x}</text>\
             <text class=\"tick\" text-anchor=\"middle\" \
             transform=\"translate(14 {}) rotate(-90)\">{y}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 8.0,
            (TOP + HEIGHT - BOTTOM) / 2.0
        );
        let mut at = WIDTH - RIGHT;
        for (number, line) in self.lines.iter().enumerate().rev() {
            let colour = number % COLOURS;
            let name = escape(line.name);
            let _ = write!(
                out,
                "<text class=\"name c{colour}\" text-anchor=\"end\" x=\"{at:.0}\" y=\"16\">{name}</text>"
            );
            // About the width of the letters, and a gap.
            at -= line.name.chars().count() as f64 * 7.0 + 14.0;
        }
    }
}

pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML has no place for them, escaped or not.
            c if c.is_control() && c != '\n' && c != '\t' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_their_values() {
        let linear = Axis::of(Scale::Linear, [3.0, 480.0].into_iter());
        assert_eq!((linear.share(0.0), linear.share(500.0)), (0.0, 1.0));
        let log = Axis::of(Scale::Log, [0.3, 42.0].into_iter());
        assert_eq!((log.least, log.most), (-1.0, 2.0));
        assert_eq!(log.ticks().len(), 4);
        let nines = Axis::of(Scale::Nines, [0.0, 99.9].into_iter());
        assert!((nines.share(90.0) - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!(nines.ticks()[2].1, "99");
        let empty = Axis::of(Scale::Log, [].into_iter());
        assert!(empty.share(1.0).is_finite());
    }

    #[test]
    fn a_plot_is_well_formed_whatever_it_is_told() {
        let line = |name, points| Line { name, points };
        let plot = Plot {
            title: "a < b & \"c\"",
            x: "s",
            y: "ms",
            x_scale: Scale::Linear,
            y_scale: Scale::Log,
            lines: vec![line("p50", vec![(0.0, 1.0), (1.0, 0.0)]), line("none", vec![])],
            marks: vec![(0.5, "x")],
        };
        let svg = plot.draw();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"));
        assert!(svg.contains("a &lt; b &amp; &quot;c&quot;"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }
}
