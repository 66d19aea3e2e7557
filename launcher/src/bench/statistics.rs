//! Medians with their spread. A quantile is a value that was measured (the
//! nearest rank), never one between two.

use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// How many values it is of; with few, p95 and p99 are the largest.
    pub count: usize,
    pub min: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

impl Spread {
    /// None of nothing.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            count: sorted.len(),
            min: rounded(*sorted.first()?),
            p50: at(&sorted, 50),
            p95: at(&sorted, 95),
            p99: at(&sorted, 99),
            max: rounded(*sorted.last()?),
        })
    }
}

/// The nearest rank: the smallest value that so many percent do not exceed.
fn at(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    rounded(sorted[rank - 1])
}

/// Four digits that count: more would claim what was not measured.
pub fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    #[allow(clippy::cast_possible_truncation)] // the logarithm of a float is below 309
    let digits = 3 - value.abs().log10().floor() as i32;
    let shift = 10_f64.powi(digits.abs());
    if digits < 0 { (value / shift).round() * shift } else { (value * shift).round() / shift }
}

/// The slope of the line through some points that has the least squares; of one point, through zero.
pub fn slope(points: &[(f64, f64)]) -> Option<f64> {
    #[allow(clippy::cast_precision_loss)] // a handful of points
    let count = points.len() as f64;
    if let [(x, y)] = points {
        return Some(y / x).filter(|slope| slope.is_finite());
    }
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let above: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let below: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    Some(above / below).filter(|slope| slope.is_finite())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp, clippy::cast_precision_loss)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let spread = Spread::of(&hundred).unwrap();
        assert_eq!((spread.count, spread.min, spread.max), (100, 1.0, 100.0));
        assert_eq!((spread.p50, spread.p95, spread.p99), (50.0, 95.0, 99.0));
        let three = Spread::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((three.p50, three.p95, three.p99), (2.0, 3.0, 3.0));
        assert_eq!(Spread::of(&[7.0]).unwrap().p99, 7.0);
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn four_digits_are_kept() {
        for (value, expected) in
            [(123_456.7, 123_500.0), (1234.56, 1235.0), (1.234_56, 1.235), (0.012_345_6, 0.01235)]
        {
            assert_eq!(rounded(value), expected);
        }
        assert_eq!(rounded(0.0), 0.0);
    }

    #[test]
    fn a_slope_is_the_cost_of_one_more() {
        assert_eq!(slope(&[(1.0, 110.0), (5.0, 150.0), (20.0, 300.0)]), Some(10.0));
        assert_eq!(slope(&[(5.0, 100.0)]), Some(20.0));
        assert_eq!(slope(&[]), None);
        assert_eq!(slope(&[(2.0, 1.0), (2.0, 3.0)]), None);
    }
}
