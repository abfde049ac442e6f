//! What was measured, as a table or as JSON.

use std::time::Duration;

use comfy_table::{Table, presets};
use hdrhistogram::Histogram;
use serde::Serialize;

/// One run.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Row {
    pub name: String,
    pub records_per_second: f64,
    pub mb_per_second: f64,
    /// Of the broker's process.
    pub cpu_seconds_per_gb: f64,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub p999_ms: Option<f64>,
}

impl Row {
    pub fn produced(
        records: u64,
        bytes: u64,
        took: Duration,
        cpu: f64,
        latency: &Histogram<u64>,
    ) -> Self {
        let at = |quantile| Some(latency.value_at_quantile(quantile) as f64 / 1000.0);
        Self {
            records_per_second: records as f64 / took.as_secs_f64(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            ..Self::read(bytes, took, cpu)
        }
    }

    pub fn read(bytes: u64, took: Duration, cpu: f64) -> Self {
        let mb = bytes as f64 / 1e6;
        Self {
            mb_per_second: mb / took.as_secs_f64(),
            cpu_seconds_per_gb: cpu / (mb / 1000.0).max(1e-9),
            ..Self::default()
        }
    }
}

#[derive(Debug, Default, Serialize)]
pub struct Report {
    rows: Vec<Row>,
    notes: Vec<(String, String)>,
}

impl Report {
    pub fn row(&mut self, row: Row) {
        eprintln!(
            "{}: {:.0} MB/s, {:.2} CPU s/GB",
            row.name, row.mb_per_second, row.cpu_seconds_per_gb
        );
        self.rows.push(row);
    }

    pub fn note(&mut self, name: String, value: String) {
        eprintln!("{name}: {value}");
        self.notes.push((name, value));
    }

    pub fn print(&self, json: bool) {
        if json {
            println!("{}", serde_json::to_string_pretty(self).unwrap_or_default());
            return;
        }
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header([
            "",
            "records/s",
            "MB/s",
            "broker CPU s/GB",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
        ]);
        for row in &self.rows {
            let ms = |value: Option<f64>| value.map_or(String::new(), |ms| format!("{ms:.1}"));
            let rate = match row.records_per_second {
                0.0 => String::new(),
                rate => format!("{rate:.0}"),
            };
            table.add_row([
                row.name.clone(),
                rate,
                format!("{:.0}", row.mb_per_second),
                format!("{:.2}", row.cpu_seconds_per_gb),
                ms(row.p50_ms),
                ms(row.p99_ms),
                ms(row.p999_ms),
            ]);
        }
        println!("{table}");
        for (name, value) in &self.notes {
            println!("{name}: {value}");
        }
    }
}
