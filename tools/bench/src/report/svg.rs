//! Plots: the part of SVG that they need.

use std::fmt::Write;

use crate::line::short;

/// A bar, with the spread of its rounds.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

const WIDTH: f64 = 720.0;
const LABELS: f64 = 170.0;
const VALUES: f64 = 90.0;
const TOP: f64 = 44.0;
const ROW: f64 = 26.0;
const BAR: f64 = 16.0;
/// Readable on white and on black.
const COLOURS: [&str; 4] = ["#2f7ed8", "#7f8c8d", "#e08e0b", "#8e5bb5"];

/// Horizontal bars, one below the other. The text before the first comma of a label selects the colour, in
/// order of appearance.
pub(super) fn bars(title: &str, unit: &str, bars: &[Bar]) -> String {
    let height = TOP + ROW * bars.len() as f64 + 12.0;
    let most = bars.iter().map(|bar| bar.max).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LABELS - VALUES) / most;
    let mut kinds: Vec<&str> = Vec::new();
    let mut svg = String::new();
    let _ = write!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>
<text x="10" y="18" font-size="14" fill="#222222">{}</text>
<text x="10" y="34" fill="#666666">{}; the line is the spread of the rounds</text>
"##,
        escape(title),
        escape(unit)
    );
    for (place, bar) in bars.iter().enumerate() {
        let kind = bar.label.split(',').next().unwrap_or_default();
        let number = kinds.iter().position(|known| *known == kind).unwrap_or_else(|| {
            kinds.push(kind);
            kinds.len() - 1
        });
        let y = TOP + ROW * place as f64;
        let middle = y + BAR / 2.0;
        let (from, to) = (LABELS + bar.min * scale, LABELS + bar.max * scale);
        let _ = write!(
            svg,
            r##"<text x="{:.1}" y="{:.1}" text-anchor="end" fill="#222222">{}</text>
<rect x="{LABELS}" y="{y:.1}" width="{:.1}" height="{BAR}" fill="{}"/>
<line x1="{from:.1}" x2="{to:.1}" y1="{middle:.1}" y2="{middle:.1}" stroke="#222222" stroke-width="1.5"/>
<text x="{:.1}" y="{:.1}" fill="#222222">{}</text>
"##,
            LABELS - 8.0,
            middle + 4.0,
            escape(&bar.label),
            (bar.median * scale).max(1.0),
            COLOURS[number % COLOURS.len()],
            to + 8.0,
            middle + 4.0,
            short(bar.median)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stay_within_the_picture() {
        let bar =
            |median: f64| Bar { label: "a < b".to_owned(), median, min: median / 2.0, max: median * 2.0 };
        let svg = bars("rates & more", "messages/s", &[bar(1.0), bar(250_000.0)]);
        assert!(svg.contains("a &lt; b") && svg.contains("rates &amp; more"));
        let ends: Vec<f64> =
            svg.split("x2=\"").skip(1).filter_map(|rest| rest.split('"').next()?.parse().ok()).collect();
        assert_eq!(ends.len(), 2);
        assert!(ends.iter().all(|end| (LABELS..=WIDTH - VALUES + 0.1).contains(end)), "{ends:?}");
    }
}
