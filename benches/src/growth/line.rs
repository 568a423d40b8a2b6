//! Straight lines through figures.

/// The line of least squares.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    /// y at x = 0.
    pub(super) start: f64,
    pub(super) slope: f64,
    /// The part of the squared distances from the mean that the line explains, 0 to 1; says little of a line that is level.
    pub(super) r_squared: f64,
    /// How far the farthest point is above or below it.
    pub(super) farthest: f64,
}

impl Line {
    /// `None` for less than two different x.
    pub(super) fn through(points: &[(f64, f64)]) -> Option<Line> {
        let count = points.len() as f64;
        let (x_mean, y_mean) =
            points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
        let sum = |of: &dyn Fn(f64, f64) -> f64| points.iter().map(|(x, y)| of(x - x_mean, y - y_mean)).sum::<f64>();
        let (xx, xy, yy) = (sum(&|x, _| x * x), sum(&|x, y| x * y), sum(&|_, y| y * y));
        if xx == 0.0 {
            return None;
        }
        let slope = xy / xx;
        let start = y_mean - slope * x_mean;
        let farthest = points.iter().map(|(x, y)| (y - start - slope * x).abs()).fold(0.0, f64::max);
        let r_squared = if yy == 0.0 { 1.0 } else { xy * xy / (xx * yy) };
        Some(Line { start, slope, r_squared, farthest })
    }

    /// y at `x`.
    pub(super) fn at(&self, x: f64) -> f64 {
        self.start + self.slope * x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_straight_line_is_found_as_it_is() {
        let line = Line::through(&[(1.0, 5.0), (2.0, 7.0), (10.0, 23.0)]).expect("there is one");
        assert!((line.start - 3.0).abs() < 1e-9 && (line.slope - 2.0).abs() < 1e-9, "{line:?}");
        assert!((line.r_squared - 1.0).abs() < 1e-9 && line.farthest < 1e-9, "{line:?}");
    }

    #[test]
    fn what_is_not_straight_is_told_by_the_distance() {
        // By hand: means 1 and 1, xx = 2, xy = 0, yy = 6.
        let line = Line::through(&[(0.0, 0.0), (1.0, 3.0), (2.0, 0.0)]).expect("there is one");
        assert!((line.at(1.0) - 1.0).abs() < 1e-9 && line.slope.abs() < 1e-9, "{line:?}");
        assert!(line.r_squared.abs() < 1e-9 && (line.farthest - 2.0).abs() < 1e-9, "{line:?}");
    }

    #[test]
    fn one_point_has_no_line() {
        assert!(Line::through(&[]).is_none() && Line::through(&[(1.0, 1.0), (1.0, 2.0)]).is_none());
    }
}
