//! The table of `src/docs/connections.md`, which says what is tested here and nothing else.

use std::fmt::Write as _;

use prestop::WorkKind;

use crate::case::{Case, Ends, Promise};

const PAGE: &str = "src/docs/connections.md";
const BEGIN: &str = "<!-- by tests/cases, PRESTOP_BLESS=1 -->\n";
const END: &str = "<!-- end -->\n";

/// The page has the row of every case; told to, it gets them.
pub fn check(cases: &[Case]) {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the table's beginning");
    let (found, after) = rest.split_once(END).expect("the table's end");
    let table = table(cases);
    if std::env::var_os("PRESTOP_BLESS").is_some() {
        std::fs::write(PAGE, [before, BEGIN, &table, END, after].concat()).unwrap();
    } else {
        assert_eq!(found, table, "{PAGE} is old: run with PRESTOP_BLESS=1");
    }
}

fn table(cases: &[Case]) -> String {
    let mut table = String::from(
        "| client | before the drain's end | at the deadline | in the report | `serve` | `listener`, `incoming` | `axum::serve` alone |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for case in cases {
        let (own, stock) = (&case.own, &case.stock);
        if case.tls {
            let (cut, named) = (at_the_deadline(own, own), in_the_report(own));
            writeln!(
                table,
                "| {} | {} | {cut} | {named} | {own} | no TLS | no TLS |",
                case.name, case.before
            )
            .unwrap();
            continue;
        }
        writeln!(
            table,
            "| {} | {} | {} | {} | {own} | {stock} | {} |",
            case.name,
            case.before,
            at_the_deadline(own, stock),
            both(&in_the_report(own), &in_the_report(stock)),
            case.alone
        )
        .unwrap();
    }
    table
}

fn at_the_deadline(own: &Promise, stock: &Promise) -> &'static str {
    let is_cut = |promise: &Promise| promise.ends == Ends::Deadline;
    match (is_cut(own), is_cut(stock)) {
        (true, _) => "cut",
        (false, true) => "stock: cut",
        (false, false) => "-",
    }
}

fn both(own: &str, stock: &str) -> String {
    match (own == stock, own) {
        (true, _) => own.to_owned(),
        (false, "-") => format!("stock: {stock}"),
        (false, _) => format!("{own}; stock: {stock}"),
    }
}

/// Each stands there with its age; all but the requests of a layer with their peer and bytes.
fn in_the_report(promise: &Promise) -> String {
    let name = |(kind, what): &(WorkKind, &str)| match what.is_empty() {
        true => kind.to_string(),
        false => format!("{kind} `{what}`"),
    };
    match &promise.report[..] {
        [] => "-".to_owned(),
        stragglers => stragglers
            .iter()
            .map(name)
            .collect::<Vec<_>>()
            .join(" and "),
    }
}
