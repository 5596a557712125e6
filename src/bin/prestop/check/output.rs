//! How findings are printed. Whether anybody reads them does not matter: the exit code says it, too.

use std::io::{self, BufWriter, Write};

use prestop::check::{Finding, Rule, Severity};
use serde_json::json;

use super::{Format, Looked, Printed, Trouble};

const PAGE: &str = "https://docs.rs/prestop/latest/prestop/_docs/check/index.html";

pub(super) fn rules() {
    let mut out = BufWriter::new(io::stdout().lock());
    for rule in Rule::ALL {
        let _ = writeln!(
            out,
            "{rule} {:<7} {}",
            rule.severity().to_string(),
            rule.title()
        );
    }
    let _ = writeln!(out, "\nWhy, and what to write instead: {PAGE}");
}

pub(super) fn print(format: Format, looked: &[Looked], printed: &[Printed<'_>]) {
    let mut out = BufWriter::new(io::stdout().lock());
    let _ = match format {
        Format::Text => text(&mut out, looked, printed),
        Format::Json => json(&mut out, looked, printed),
        Format::Github => github(&mut out, looked, printed),
    };
    let _ = out.flush();
    // A machine that reads the output sees them there; people see them here.
    for (name, trouble) in troubles(looked) {
        let _ = writeln!(
            io::stderr(),
            "prestop: {}: {}",
            at(name, trouble.place),
            trouble.message
        );
    }
}

fn troubles(looked: &[Looked]) -> impl Iterator<Item = (&str, &Trouble)> {
    looked
        .iter()
        .filter_map(|file| Some((file.name.as_str(), file.result.as_ref().err()?)))
}

fn at(name: &str, place: Option<(usize, usize)>) -> String {
    match place {
        Some((line, column)) => format!("{name}:{line}:{column}"),
        None => name.to_owned(),
    }
}

/// `Deployment/orders, container app: what is wrong`.
fn what(finding: &Finding) -> String {
    let container = finding.container.as_ref();
    let container = container.map_or_else(String::new, |name| format!(", container {name}"));
    format!("{}{container}: {}", finding.object, finding.message)
}

fn text(out: &mut impl Write, looked: &[Looked], printed: &[Printed<'_>]) -> io::Result<()> {
    for Printed {
        file,
        finding,
        counts,
    } in printed
    {
        let place = Some((finding.place.line, finding.place.column));
        let said = severity(finding, *counts);
        writeln!(
            out,
            "{}: {said}[{}] {}",
            at(file, place),
            finding.rule,
            what(finding)
        )?;
        writeln!(out, "    {}", finding.advice)?;
    }
    let read = looked.iter().filter(|file| file.result.is_ok()).count();
    let workloads: usize = looked
        .iter()
        .filter_map(|file| file.result.as_ref().ok())
        .map(|checked| checked.workloads)
        .sum();
    let of = format!(
        "{} in {}",
        count(workloads, "workload"),
        count(read, "file")
    );
    if printed.is_empty() {
        return writeln!(out, "nothing found: {of}");
    }
    let is_error = |p: &&Printed<'_>| severity(p.finding, p.counts) == Severity::Error;
    let errors = printed.iter().filter(is_error).count();
    let all = count(printed.len(), "finding");
    let warnings = count(printed.len() - errors, "warning");
    writeln!(out, "{all} ({}, {warnings}): {of}", count(errors, "error"))?;
    writeln!(out, "why, and what to write instead: {PAGE}")
}

/// What does not count is not called an error.
const fn severity(finding: &Finding, counts: bool) -> Severity {
    if counts {
        finding.severity
    } else {
        Severity::Warning
    }
}

fn count(number: usize, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}

fn json(out: &mut impl Write, looked: &[Looked], printed: &[Printed<'_>]) -> io::Result<()> {
    let findings: Vec<_> = printed
        .iter()
        .map(
            |Printed {
                 file,
                 finding,
                 counts,
             }| {
                // Its fields are strings and numbers, which serde_json always takes.
                let mut value = serde_json::to_value(finding).unwrap_or_default();
                value["file"] = json!(file);
                value["title"] = json!(finding.rule.title());
                value["counts"] = json!(counts);
                value
            },
        )
        .collect();
    let errors: Vec<_> = troubles(looked)
        .map(|(name, trouble)| {
            let (line, column) = trouble.place.unzip();
            json!({ "file": name, "line": line, "column": column, "message": trouble.message })
        })
        .collect();
    let all = json!({ "findings": findings, "errors": errors });
    serde_json::to_writer_pretty(&mut *out, &all)?;
    writeln!(out)
}

/// Workflow commands: GitHub shows them at their lines in the changed files, ten of a kind for each step, and all in the log.
fn github(out: &mut impl Write, looked: &[Looked], printed: &[Printed<'_>]) -> io::Result<()> {
    for Printed {
        file,
        finding,
        counts,
    } in printed
    {
        let said = severity(finding, *counts);
        let title = format!("{} {}", finding.rule, finding.rule.title());
        let message = format!("{}\n{}", what(finding), finding.advice);
        let place = Some((finding.place.line, finding.place.column));
        command(out, &said.to_string(), file, place, &title, &message)?;
    }
    for (name, trouble) in troubles(looked) {
        command(
            out,
            "error",
            name,
            trouble.place,
            "not checked",
            &trouble.message,
        )?;
    }
    Ok(())
}

fn command(
    out: &mut impl Write,
    kind: &str,
    file: &str,
    place: Option<(usize, usize)>,
    title: &str,
    message: &str,
) -> io::Result<()> {
    write!(out, "::{kind} ")?;
    // The standard input is no file that could be annotated.
    let message = if file == "<stdin>" {
        format!("{}: {message}", at(file, place))
    } else {
        write!(out, "file={},", property(file))?;
        if let Some((line, column)) = place {
            write!(out, "line={line},col={column},")?;
        }
        message.to_owned()
    };
    writeln!(out, "title={}::{}", property(title), data(&message))
}

fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
