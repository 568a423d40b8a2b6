//! The figures of an axis as a picture.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::line::Line;
use super::{Axis, Point, QUANTITIES, Quantity, sides, stages, values};
use crate::measure::Result;

const WIDTH: u32 = 1000;
/// Title and legend.
const HEAD: u32 = 76;
const PANEL: u32 = 250;
const COLUMNS: usize = 2;
const LEFT: i32 = 24;
/// About how wide a letter of the legend is.
const LETTER: i32 = 7;
const FONT: &str = "sans-serif";

/// Told apart by those who see no colours as well as by the others (Okabe and Ito's), and by light or dark in print.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws a panel for each stage and quantity, under what the colours mean.
pub(super) fn draw(file: &Path, axis: Axis, points: &[Point]) -> Result<()> {
    let stages = stages(points);
    let panels: Vec<_> =
        QUANTITIES.iter().flat_map(|quantity| stages.iter().map(move |stage| (*stage, quantity))).collect();
    let rows = panels.len().div_ceil(COLUMNS);
    let whole = SVGBackend::new(file, (WIDTH, HEAD + rows as u32 * PANEL)).into_drawing_area();
    // White also where the page around it is dark.
    whole.fill(&WHITE)?;
    let (head, below) = whole.split_vertically(HEAD);
    head.draw(&Text::new(axis.title(), (LEFT, 24), beside(18)))?;
    legend(&head, &sides(points))?;
    for (area, (stage, quantity)) in below.split_evenly((rows, COLUMNS)).iter().zip(panels) {
        panel(area, axis, stage, quantity, points)?;
    }
    whole.present()?;
    Ok(())
}

fn panel(area: &Area<'_>, axis: Axis, stage: &str, quantity: &Quantity, points: &[Point]) -> Result<()> {
    let lines: Vec<_> = sides(points).into_iter().map(|who| values(points, stage, who, quantity)).collect();
    let all = || lines.iter().flatten();
    let most = all().map(|(_, y)| *y).fold(0.0, f64::max);
    let right = all().map(|(x, _)| *x).fold(1.0, f64::max) * 1.03;
    let (unit, many) = quantity.unit.for_size(most);
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .caption(format!("{stage}: {}", quantity.name), (FONT, 16))
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..right, 0.0..(most * many * 1.08).max(f64::MIN_POSITIVE))?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(222, 222, 222))
        .x_labels(8)
        .y_labels(6)
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| short(*y))
        .x_desc(axis.of())
        .y_desc(unit)
        .label_style((FONT, 13))
        .axis_desc_style((FONT, 14))
        .draw()?;
    for (line, colour) in lines.into_iter().zip(COLOURS.iter().cycle()) {
        if let Some(straight) = Line::through(&line) {
            // No farther than its own points: what lies outside the panel is drawn at its edge.
            let last = line.iter().map(|(x, _)| *x).fold(0.0, f64::max);
            let ends = positive(&straight, last).map(|x| (x, straight.at(x) * many));
            chart.draw_series(DashedLineSeries::new(ends, 4, 5, colour.mix(0.6).stroke_width(1)))?;
        }
        let line: Vec<_> = line.into_iter().map(|(x, y)| (x, y * many)).collect();
        chart.draw_series(LineSeries::new(line.iter().copied(), colour.stroke_width(2)))?;
        chart.draw_series(line.into_iter().map(|point| Circle::new(point, 3, colour.filled())))?;
    }
    Ok(())
}

/// From where to where, between 0 and `right`, a line is not below 0.
fn positive(line: &Line, right: f64) -> [f64; 2] {
    let crossing = (-line.start / line.slope).clamp(0.0, right);
    match (line.at(0.0) < 0.0, line.at(right) < 0.0) {
        (true, false) => [crossing, right],
        (false, true) => [0.0, crossing],
        _ => [0.0, right],
    }
}

fn legend(head: &Area<'_>, sides: &[&str]) -> Result<()> {
    let (y, mark) = (54, 34);
    let mut x = LEFT;
    for (who, colour) in sides.iter().zip(COLOURS.iter().cycle()) {
        head.draw(&PathElement::new([(x, y), (x + mark, y)], colour.stroke_width(2)))?;
        head.draw(&Circle::new((x + mark / 2, y), 3, colour.filled()))?;
        head.draw(&Text::new(*who, (x + mark + 8, y), beside(15)))?;
        x += mark + 8 + who.len() as i32 * LETTER + 28;
    }
    let grey = RGBColor(90, 90, 90);
    for dash in [0, 13, 26] {
        head.draw(&PathElement::new([(x + dash, y), (x + dash + 8, y)], grey.stroke_width(1)))?;
    }
    head.draw(&Text::new("line of least squares", (x + mark + 8, y), beside(15)))?;
    Ok(())
}

/// Text that begins at a place.
fn beside(size: i32) -> TextStyle<'static> {
    TextStyle::from((FONT, size)).pos(Pos::new(HPos::Left, VPos::Center))
}

/// A label of an axis.
fn short(value: f64) -> String {
    let (value, suffix) = match value.abs() {
        1e6.. => (value / 1e6, "M"),
        1e4.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{value:.2}");
    format!("{}{suffix}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_where_it_goes_below_zero() {
        let lines = [[-1.0, 2.0], [1.0, -1.0], [1.0, 2.0]].map(|y| Line::through(&[(0.0, y[0]), (3.0, y[1])]));
        let parts = lines.map(|line| positive(&line.expect("there is one"), 3.0));
        assert_eq!(parts.map(|part| part.map(|x| (x * 1e6).round() / 1e6)), [[1.0, 3.0], [0.0, 1.5], [0.0, 3.0]]);
    }

    #[test]
    fn labels_are_short() {
        for (value, text) in [(0.0, "0"), (0.25, "0.25"), (8.0, "8"), (400_000.0, "400k"), (1_600_000.0, "1.6M")] {
            assert_eq!(short(value), text);
        }
    }
}
