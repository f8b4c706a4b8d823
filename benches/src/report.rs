//! Results: a table for people, JSON for programs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::machine::Machine;

/// A table with the first column to the left and the others to the right.
#[derive(Debug)]
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// A table with its head.
    pub fn new<const N: usize>(head: [&str; N]) -> Self {
        Self(vec![head.map(str::to_owned).into()])
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.push(cells.into());
    }

    /// Every column as wide as its widest cell, two blanks between columns.
    pub fn text(&self) -> String {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                self.0
                    .iter()
                    .filter_map(|row| row.get(column))
                    .map(|cell| cell.chars().count())
                    .max()
            })
            .map(Option::unwrap_or_default)
            .collect();
        let line = |row: &Vec<String>| {
            let cells = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, width))| {
                    if column == 0 {
                        format!("{cell:<width$}")
                    } else {
                        format!("{cell:>width$}")
                    }
                });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.0.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

#[derive(Serialize)]
struct Results<'a, T> {
    bench: &'a str,
    machine: &'a Machine,
    #[serde(flatten)]
    figures: &'a T,
}

/// Writes the results of a bench.
pub fn write<T: Serialize>(path: &Path, bench: &str, machine: &Machine, figures: &T) -> Result<()> {
    let results = Results {
        bench,
        machine,
        figures,
    };
    let text = serde_json::to_string_pretty(&results).context("failed to write the results as JSON")?;
    fs::write(path, text + "\n").with_context(|| format!("failed to write {}", path.display()))?;
    println!("\nresults: {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["proxy", "us"]);
        table.row(["a".to_owned(), "1000".to_owned()]);
        table.row(["longer".to_owned(), "1".to_owned()]);
        assert_eq!(table.text(), "proxy     us\na       1000\nlonger     1");
    }
}
