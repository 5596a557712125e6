//! The result: a table for people, and the sentence to remember.

use std::fmt::Write;

use crate::cli::Strategy;
use crate::fleet::Stop;
use crate::tally::Row;
use crate::update::Outcome;

/// Everything that is printed after the last run.
pub fn summary(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    requests(&mut text, outcomes);
    stops(&mut text, outcomes);
    unseen(&mut text, outcomes);
    text.push('\n');
    text.push_str(&conclusion(outcomes));
    text.push('\n');
    text
}

fn requests(text: &mut String, outcomes: &[Outcome]) {
    line(
        text,
        format_args!(
            "\n{:<19} {:<13} {:>8} {:>7} {:>8} {:>6} {:>5} {:>5} {:>10} {:>8}",
            "strategy",
            "client",
            "sent",
            "failed",
            "refused",
            "reset",
            "cut",
            "5xx",
            "timed out",
            "p99 ms"
        ),
    );
    for outcome in outcomes {
        for row in &outcome.rows {
            request(text, row);
        }
        request(text, &total(outcome));
    }
    text.push_str(
        "\nrefused: nobody listens there (any more)   reset: closed before there was an answer\n\
         cut: the answer stops in the middle        p99: of requests sent between first and last stop\n",
    );
}

fn request(text: &mut String, row: &Row) {
    let p99 = row
        .p99_ms
        .map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
    line(
        text,
        format_args!(
            "{:<19} {:<13} {:>8} {:>7} {:>8} {:>6} {:>5} {:>5} {:>10} {:>8}",
            row.strategy,
            row.client,
            row.sent,
            row.failed,
            row.refused,
            row.reset,
            row.cut,
            row.http_5xx,
            row.timed_out,
            p99
        ),
    );
}

fn total(outcome: &Outcome) -> Row {
    let sum = |field: fn(&Row) -> u64| outcome.rows.iter().map(field).sum();
    Row {
        strategy: outcome.strategy.name(),
        client: "all",
        sent: sum(|row| row.sent),
        failed: sum(|row| row.failed),
        refused: sum(|row| row.refused),
        reset: sum(|row| row.reset),
        cut: sum(|row| row.cut),
        http_5xx: sum(|row| row.http_5xx),
        timed_out: sum(|row| row.timed_out),
        p99_ms: None,
    }
}

/// The time to visibility, beside the expiry that it replaced.
fn unseen(text: &mut String, outcomes: &[Outcome]) {
    if outcomes.iter().all(|outcome| outcome.unseen.is_empty()) {
        return;
    }
    line(
        text,
        format_args!(
            "\n{:<12} {:>5}   seconds from the signal until the registry's clients see the instance gone: min median max",
            "strategy", "gone"
        ),
    );
    for outcome in outcomes {
        let mut seconds: Vec<f64> = outcome.unseen.iter().map(|d| d.as_secs_f64()).collect();
        seconds.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (seconds.first(), seconds.last()) else {
            continue;
        };
        let how = if outcome.strategy.leaves_registry() {
            format!(
                "left, in place of an expiry of {} s",
                outcome.expiry.as_secs()
            )
        } else {
            "expired".to_owned()
        };
        line(
            text,
            format_args!(
                "{:<12} {:>5}   {:>16.3} {:>6.3} {:>6.3} {how}",
                outcome.strategy.name(),
                seconds.len(),
                min,
                seconds[seconds.len() / 2],
                max,
            ),
        );
    }
}

fn stops(text: &mut String, outcomes: &[Outcome]) {
    if outcomes.iter().all(|outcome| outcome.stops.is_empty()) {
        return;
    }
    line(
        text,
        format_args!(
            "\n{:<19} {:>5}   {:<29} {:<15} {}",
            "strategy", "stops", "seconds each: min median max", "SIGKILL needed", "ended with"
        ),
    );
    for outcome in outcomes {
        let Some(seconds) = Seconds::of(&outcome.stops) else {
            continue;
        };
        let forced = match (outcome.strategy, forced(&outcome.stops)) {
            (Strategy::Kill, _) => "on purpose".to_owned(),
            (_, 0) => "no".to_owned(),
            (_, some) => format!("{some} times"),
        };
        let mut endings: Vec<String> = outcome.stops.iter().map(Stop::ending).collect();
        endings.dedup();
        let hooks_failed = outcome
            .stops
            .iter()
            .filter(|stop| stop.hook_failed())
            .count();
        if hooks_failed > 0 {
            endings.push(format!("{hooks_failed} HOOKS FAILED"));
        }
        line(
            text,
            format_args!(
                "{:<19} {:>5}   {:>16.2} {:>6.2} {:>5.2} {:<15} {}",
                outcome.strategy.name(),
                outcome.stops.len(),
                seconds.min,
                seconds.median,
                seconds.max,
                forced,
                endings.join(", ")
            ),
        );
    }
}

struct Seconds {
    min: f64,
    median: f64,
    max: f64,
}

impl Seconds {
    fn of(stops: &[Stop]) -> Option<Self> {
        let mut took: Vec<f64> = stops.iter().map(|stop| stop.took().as_secs_f64()).collect();
        took.sort_unstable_by(f64::total_cmp);
        let middle = took.len() / 2;
        let median = if took.len().is_multiple_of(2) {
            took.get(middle.checked_sub(1)?)?
                .midpoint(*took.get(middle)?)
        } else {
            *took.get(middle)?
        };
        Some(Self {
            min: *took.first()?,
            median,
            max: *took.last()?,
        })
    }
}

fn forced(stops: &[Stop]) -> usize {
    stops.iter().filter(|stop| stop.forced()).count()
}

/// One sentence with the figures that matter.
fn conclusion(outcomes: &[Outcome]) -> String {
    let lost = |outcome: &Outcome| {
        let row = total(outcome);
        format!("{} of {}", grouped(row.failed), grouped(row.sent))
    };
    let mut clauses = Vec::new();
    let is_prestop =
        |outcome: &&Outcome| matches!(outcome.strategy, Strategy::Prestop | Strategy::Hooked(_));
    for prestop in outcomes.iter().filter(is_prestop) {
        let mut clause = format!("{} lost {} requests", prestop.strategy, lost(prestop));
        if let Some(seconds) = Seconds::of(&prestop.stops) {
            let killed = match forced(&prestop.stops) {
                0 => "none needed SIGKILL".to_owned(),
                some => format!("{some} needed SIGKILL"),
            };
            // Writing to a String does not fail.
            let _ = write!(
                clause,
                " over {} {} (the slowest took {:.1} s, {killed})",
                prestop.stops.len(),
                if prestop.stops.len() == 1 {
                    "stop"
                } else {
                    "stops"
                },
                seconds.max
            );
        }
        clauses.push(clause);
    }
    for outcome in outcomes.iter().filter(|outcome| !is_prestop(outcome)) {
        clauses.push(format!("{} lost {}", outcome.strategy, lost(outcome)));
    }
    format!("{}.", clauses.join("; "))
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{arguments}");
}
