//! Figures with their limits and targets, as a table for people and as JSON for machines.

use std::fmt::Write;

use serde::Serialize;

use super::cpu::ByProcess;

/// One measured figure over several rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// The stage it belongs to.
    pub stage: String,
    /// What was measured.
    pub name: String,
    /// Its unit.
    pub unit: &'static str,
    /// Each round's value.
    pub rounds: Vec<f64>,
    /// The limit's value in the same rounds, where there is one.
    pub limit: Vec<f64>,
    /// What the target says, for people.
    pub target: Option<String>,
}

impl Figure {
    /// A figure without a limit.
    pub fn new(stage: &str, name: &str, unit: &'static str, rounds: Vec<f64>) -> Self {
        Self { stage: stage.to_owned(), name: name.to_owned(), unit, rounds, limit: Vec::new(), target: None }
    }

    /// The same with a limit measured in the same rounds.
    pub fn with_limit(mut self, limit: Vec<f64>) -> Self {
        self.limit = limit;
        self
    }

    /// The same with a target.
    pub fn with_target(mut self, target: &str) -> Self {
        self.target = Some(target.to_owned());
        self
    }

    /// Median of the rounds' ratios to their limits.
    pub fn ratio(&self) -> Option<f64> {
        let ratios: Vec<f64> = self.rounds.iter().zip(&self.limit).map(|(r, l)| r / l).collect();
        (!ratios.is_empty()).then(|| median(&ratios))
    }
}

/// CPU seconds for a million of what each round did (how many is beside what it used): all of it, and by process.
pub fn cpu_per_million(
    stage: &str,
    unit: &'static str,
    rounds: &[(ByProcess, f64)],
    target: Option<&str>,
) -> Vec<Figure> {
    let each = |seconds: &dyn Fn(&ByProcess) -> f64| {
        rounds.iter().map(|(used, count)| seconds(used) * 1e6 / count).collect::<Vec<_>>()
    };
    let mut all = Figure::new(stage, "CPU, all processes", unit, each(&|u| u.values().map(|u| u.cpu_seconds).sum()));
    all.target = target.map(ToOwned::to_owned);
    let mut figures = vec![all];
    for process in rounds.first().map(|(used, _)| used.keys().copied().collect::<Vec<_>>()).unwrap_or_default() {
        let of_one = each(&|u| u.get(process).map_or(0.0, |u| u.cpu_seconds));
        figures.push(Figure::new(stage, &format!("CPU, {process}"), unit, of_one));
    }
    figures
}

/// The median (0 of nothing).
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// A run's figures and what they were measured on.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Machine, versions, durability, batch and row size.
    pub conditions: Vec<(String, String)>,
    /// The figures, in the order of an event's path.
    pub figures: Vec<Figure>,
}

impl Report {
    /// The table for people.
    pub fn table(&self) -> String {
        let mut out = String::new();
        for (name, value) in &self.conditions {
            let _ = writeln!(out, "{name:<12} {value}");
        }
        let _ = writeln!(
            out,
            "\n{:<10} {:<34} {:>12} {:>23} {:>12} {:>7}  target",
            "stage", "figure", "median", "range", "limit", "ratio"
        );
        for figure in &self.figures {
            let low = figure.rounds.iter().copied().fold(f64::INFINITY, f64::min);
            let high = figure.rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let limit = if figure.limit.is_empty() { String::new() } else { number(median(&figure.limit)) };
            let ratio = figure.ratio().map(|r| format!("{:.0} %", r * 100.0)).unwrap_or_default();
            let _ = writeln!(
                out,
                "{:<10} {:<34} {:>12} {:>23} {:>12} {:>7}  {}",
                figure.stage,
                format!("{} [{}]", figure.name, figure.unit),
                number(median(&figure.rounds)),
                format!("{} – {}", number(low), number(high)),
                limit,
                ratio,
                figure.target.as_deref().unwrap_or_default()
            );
        }
        out
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1_000.0 => {
            let digits = format!("{value:.0}");
            let grouped: Vec<&str> =
                digits.as_bytes().rchunks(3).rev().filter_map(|c| std::str::from_utf8(c).ok()).collect();
            grouped.join(",")
        }
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
