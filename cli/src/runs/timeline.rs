//! A run, drawn.

use std::fmt::Write as _;

use trellis_saga_api::runs::{Call, Run};

/// What is shown of a step that has not begun.
const NOT_BEGUN: &str = "-";

/// A run with a line for each element of each step: what its action came to, and what took it back.
pub fn draw(run: &Run) -> String {
    let mut text = format!(
        "{} {}  rev {}  {}  started {}\n",
        run.saga,
        run.id,
        run.revision,
        run.status.to_lowercase(),
        run.started_at
    );
    let compensated = |call: &&Call| {
        let is_of = |other: &Call| {
            other.op == "compensation" && (&other.step, other.index) == (&call.step, call.index)
        };
        call.op == "action" && run.calls.iter().any(is_of)
    };
    let wide = run
        .calls
        .iter()
        .filter(compensated)
        .map(|call| action(call).len())
        .max()
        .unwrap_or_default();
    let width = run.steps.iter().map(String::len).max().unwrap_or_default() + 4;
    for step in &run.steps {
        let of = |op: &str, index: u32| {
            run.calls
                .iter()
                .find(|call| call.step == *step && call.op == op && call.index == index)
        };
        let mut indices: Vec<u32> = run
            .calls
            .iter()
            .filter(|call| call.step == *step)
            .map(|call| call.index)
            .collect();
        indices.sort_unstable();
        indices.dedup();
        let is_one = indices.len() < 2;
        if indices.is_empty() {
            // Writing into a text does not fail.
            let _ = writeln!(text, "  {step:<width$}{NOT_BEGUN}");
        }
        for index in indices {
            let name = if is_one {
                step.clone()
            } else {
                format!("{step}[{index}]")
            };
            let action = of("action", index).map_or_else(|| NOT_BEGUN.to_owned(), action);
            let line = match of("compensation", index) {
                Some(call) => format!("  {name:<width$}{action:<wide$}  -> {}", compensation(call)),
                None => format!("  {name:<width$}{action}"),
            };
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    for cause in &run.causes {
        let place = match (&cause.step, &cause.op) {
            (Some(step), Some(op)) if op == "compensation" => format!("{step}, compensation: "),
            (Some(step), _) => format!("{step}: "),
            _ => String::new(),
        };
        let detail = if cause.detail.is_empty() {
            String::new()
        } else {
            format!(", {}", cause.detail)
        };
        let _ = writeln!(text, "cause: {place}{}{detail}", cause.what);
    }
    for done in &run.interventions {
        let step = done
            .step
            .as_ref()
            .map(|step| format!(" {step}"))
            .unwrap_or_default();
        let reason = if done.reason.is_empty() {
            String::new()
        } else {
            format!(": {}", done.reason)
        };
        let _ = writeln!(text, "{}{step} by {}{reason}", done.verb, done.by);
    }
    text
}

fn action(call: &Call) -> String {
    match call.state.as_str() {
        "Done" => format!("ok      {} ms{}", call.took_ms, tries(call)),
        "Skipped" => "skipped".to_owned(),
        "Failed" => format!(
            "failed  {}{}",
            call.detail.as_deref().unwrap_or_default(),
            tries(call)
        ),
        _ => format!(
            "trying  {}{}",
            call.detail.as_deref().unwrap_or_default(),
            tries(call)
        ),
    }
}

fn compensation(call: &Call) -> String {
    match call.state.as_str() {
        "Done" => format!("compensated  {} ms{}", call.took_ms, tries(call)),
        "Skipped" => "compensation skipped".to_owned(),
        "Failed" => format!(
            "refused  {}{}",
            call.detail.as_deref().unwrap_or_default(),
            tries(call)
        ),
        _ => format!(
            "compensating  {}{}",
            call.detail.as_deref().unwrap_or_default(),
            tries(call)
        ),
    }
}

fn tries(call: &Call) -> String {
    if call.attempts > 1 {
        format!(" ({} tries)", call.attempts)
    } else {
        String::new()
    }
}

/// Runs, a line each.
pub fn table(runs: &[Run]) -> String {
    let rows = runs.iter().map(|run| {
        [
            run.id.clone(),
            run.saga.clone(),
            run.status.clone(),
            run.revision.clone(),
            run.started_at.clone(),
            run.ended_at.clone().unwrap_or_default(),
            run.key.clone().unwrap_or_default(),
        ]
    });
    let head = ["RUN", "SAGA", "STATUS", "REVISION", "STARTED", "ENDED", "KEY"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        let _ = writeln!(text, "{}", cells.join("   ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_run_is_drawn_step_by_step_with_what_took_it_back() {
        let call = |step: &str, op: &str, state: &str, took: u64, detail: Option<&str>| json!({"step": step, "index": 0, "op": op, "attempts": 1, "state": state, "beganAt": "", "tookMs": took, "detail": detail});
        let run: Run = serde_json::from_value(json!({
            "id": "01JD2X", "namespace": "shop", "saga": "place-order", "revision": "7c1e", "status": "Compensating", "records": 5,
            "startedAt": "2026-01-01T00:00:00Z", "steps": ["reserve", "authorise", "confirm"],
            "calls": [
                call("reserve", "action", "Done", 41, None),
                call("authorise", "action", "Failed", 12, Some("409 Conflict: insufficient funds")),
                call("authorise", "compensation", "Done", 3, None),
                call("reserve", "compensation", "Trying", 0, Some("503")),
            ],
            "causes": [{"at": "", "what": "ActionFailed", "step": "authorise", "op": "action", "attempts": 1, "detail": "409 Conflict: insufficient funds"}],
        }))
        .unwrap();
        let expected = "\
place-order 01JD2X  rev 7c1e  compensating  started 2026-01-01T00:00:00Z
  reserve      ok      41 ms                             -> compensating  503
  authorise    failed  409 Conflict: insufficient funds  -> compensated  3 ms
  confirm      -
cause: authorise: ActionFailed, 409 Conflict: insufficient funds
";
        assert_eq!(draw(&run), expected);
    }
}
