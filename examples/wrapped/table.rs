//! The result: what was lost by which client, and how long the stops took.

use std::os::unix::process::ExitStatusExt;

use crate::harness::{Outcome, Stop};

/// How the process ended, in words.
pub fn ending(stop: &Stop) -> String {
    match (stop.status.code(), stop.status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(number)) => format!("signal {number}"),
        (None, None) => stop.status.to_string(),
    }
}

/// All of it.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "\n{:<18} {:<13} {:>6} {:>6} {:>8} {:>6} {:>5} {:>5} {:>10}\n",
        "recipe", "client", "sent", "failed", "refused", "reset", "cut", "5xx", "timed out"
    );
    for outcome in outcomes {
        let mut all = [0; 7];
        for row in &outcome.rows {
            let numbers = [
                row.sent,
                row.failed,
                row.refused,
                row.reset,
                row.cut,
                row.http_5xx,
                row.timed_out,
            ];
            all.iter_mut()
                .zip(numbers)
                .for_each(|(sum, number)| *sum += number);
            text.push_str(&line(outcome.recipe.name(), row.client, numbers));
        }
        text.push_str(&line(outcome.recipe.name(), "all", all));
    }
    text.push_str(&format!(
        "\n{:<18} {:>5}   {:<28} {:>7}   {}\n",
        "recipe", "stops", "seconds each: min median max", "SIGKILL", "ended with"
    ));
    for outcome in outcomes {
        let mut took: Vec<f64> = outcome
            .stops
            .iter()
            .map(|stop| stop.took.as_secs_f64())
            .collect();
        took.sort_unstable_by(f64::total_cmp);
        let (Some(min), Some(max)) = (took.first(), took.last()) else {
            continue;
        };
        let mut endings: Vec<String> = outcome.stops.iter().map(ending).collect();
        endings.sort_unstable();
        endings.dedup();
        let killed = outcome.stops.iter().filter(|stop| stop.killed).count();
        text.push_str(&format!(
            "{:<18} {:>5}   {:>15.2} {:>6.2} {:>5.2} {:>7}   {}\n",
            outcome.recipe.name(),
            outcome.stops.len(),
            min,
            took[took.len() / 2],
            max,
            killed,
            endings.join(", ")
        ));
    }
    text
}

fn line(recipe: &str, client: &str, numbers: [u64; 7]) -> String {
    let [sent, failed, refused, reset, cut, http_5xx, timed_out] = numbers;
    format!(
        "{recipe:<18} {client:<13} {sent:>6} {failed:>6} {refused:>8} {reset:>6} {cut:>5} {http_5xx:>5} {timed_out:>10}\n"
    )
}
