//! `prestop check`: finds in manifests what would lose requests, in CI.

mod input;
mod output;

use std::process::ExitCode;

use prestop::check::{Checked, Finding, Rule, Severity, check_all};

use input::Input;

/// Finds in manifests what would lose requests in a rollout
///
/// A FILE is a file of one or more YAML documents, a directory (every .yaml and .yml below it) or `-`, the standard input:
/// helm template RELEASE CHART | prestop check -
///
/// A finding is silenced in the manifest, with a reason: a comment `# prestop: allow PS301 nobody sends it requests` in its
/// line or above it, or the annotation `prestop.rs/allow: "PS301 nobody sends it requests"` of the object.
///
/// RULE is an id (PS301), `warnings`, `errors` or `all`, several separated by commas; an id outweighs a group, then --deny
/// outweighs --warn, and --warn outweighs --allow.
///
/// Exit code: 0 nothing was found, 1 findings, 2 wrong arguments, or a file that cannot be read or is not YAML.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// What to check
    #[arg(value_name = "FILE", required_unless_present = "rules")]
    files: Vec<std::path::PathBuf>,

    /// How findings are printed: for people, as one JSON object, or as annotations of a GitHub workflow
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,

    /// Rules whose findings are not printed
    #[arg(long, value_name = "RULE", value_delimiter = ',', value_parser = rules)]
    allow: Vec<Rules>,

    /// Rules whose findings are printed and do not count for the exit code
    #[arg(long, value_name = "RULE", value_delimiter = ',', value_parser = rules)]
    warn: Vec<Rules>,

    /// Rules whose findings count: what --allow or --warn took out [default: all]
    #[arg(long, value_name = "RULE", value_delimiter = ',', value_parser = rules)]
    deny: Vec<Rules>,

    /// Prints every rule with its severity, and checks nothing
    #[arg(long)]
    rules: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
    Github,
}

/// Which rules an option is about.
#[derive(Clone, Copy, Debug)]
enum Rules {
    All,
    Of(Severity),
    One(Rule),
}

fn rules(text: &str) -> Result<Rules, String> {
    match text {
        "all" => Ok(Rules::All),
        "warnings" => Ok(Rules::Of(Severity::Warning)),
        "errors" => Ok(Rules::Of(Severity::Error)),
        id => Rule::by_id(id).map(Rules::One).ok_or_else(|| {
            "it must be the id of a rule (see --rules), warnings, errors or all".into()
        }),
    }
}

/// What becomes of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Allow,
    Warn,
    Deny,
}

impl Args {
    fn level(&self, rule: Rule) -> Level {
        let said = [
            (Level::Deny, &self.deny),
            (Level::Warn, &self.warn),
            (Level::Allow, &self.allow),
        ];
        // How closely an option names the rule, if it does.
        let closeness = |rules: &Rules| match rules {
            Rules::All => Some(0),
            Rules::Of(severity) => (*severity == rule.severity()).then_some(1),
            Rules::One(one) => (*one == rule).then_some(2),
        };
        said.iter()
            .flat_map(|(level, all)| {
                all.iter()
                    .filter_map(move |r| Some((closeness(r)?, *level)))
            })
            .max()
            .map_or(Level::Deny, |(_, level)| level)
    }
}

/// A text, and what became of it.
struct Looked {
    name: String,
    result: Result<Checked, Trouble>,
}

/// Why a text was not checked, and the place in it, where there is one.
struct Trouble {
    message: String,
    place: Option<(usize, usize)>,
}

/// A finding that is printed.
struct Printed<'f> {
    file: &'f str,
    finding: &'f Finding,
    counts: bool,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    if args.rules {
        output::rules();
        return ExitCode::SUCCESS;
    }
    let looked = look(&input::all(&args.files));
    let mut printed = Vec::new();
    for file in &looked {
        for finding in file.result.iter().flat_map(|checked| &checked.findings) {
            let level = args.level(finding.rule);
            if level > Level::Allow {
                printed.push(Printed {
                    file: &file.name,
                    finding,
                    counts: level == Level::Deny,
                });
            }
        }
    }
    output::print(args.format, &looked, &printed);
    if looked.iter().any(|file| file.result.is_err()) {
        ExitCode::from(2)
    } else {
        ExitCode::from(u8::from(printed.iter().any(|printed| printed.counts)))
    }
}

/// All texts together, so that a budget in one is held against a Deployment in another.
fn look(inputs: &[Input]) -> Vec<Looked> {
    let texts = inputs.iter().filter_map(|input| input.text.as_deref().ok());
    let mut checked = check_all(texts).into_iter();
    let mut looked: Vec<Looked> = inputs
        .iter()
        .map(|input| Looked {
            name: input.name.clone(),
            result: match &input.text {
                Err(message) => Err(Trouble {
                    message: message.clone(),
                    place: None,
                }),
                Ok(_) => match checked.next() {
                    Some(Ok(checked)) => Ok(checked),
                    Some(Err(error)) => Err(Trouble {
                        message: error.message,
                        place: Some((error.place.line, error.place.column)),
                    }),
                    None => Err(Trouble {
                        message: "it was not checked".to_owned(),
                        place: None,
                    }),
                },
            },
        })
        .collect();
    // Green, because what renders the manifests has failed: that must not be.
    let nothing = |file: &Looked| {
        file.result
            .as_ref()
            .is_ok_and(|checked| checked.objects == 0)
    };
    if looked.iter().all(nothing) {
        for file in &mut looked {
            file.result = Err(Trouble {
                message: "there is no Kubernetes object in it, so nothing was checked; has what writes it failed?"
                    .to_owned(),
                place: None,
            });
        }
    }
    looked
}
