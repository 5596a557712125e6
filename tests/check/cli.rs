//! The real binary: files, directories, standard input; formats and exit codes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

const BAD: &str = "tests/check/bad/ps101-env-differs.yaml";
const GOOD: &str = "tests/check/good/every-hook-style.yaml";

/// A directory of its own, gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("check-{}-{number}", std::process::id()));
        std::fs::create_dir(&dir).expect("the temporary directory is writable");
        Self(dir)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        let parent = path.parent().expect("in the directory");
        std::fs::create_dir_all(parent).expect("the directory is ours");
        std::fs::write(&path, text).expect("the directory is ours");
        path.display().to_string()
    }

    fn dir(&self) -> &str {
        self.0.to_str().expect("ASCII")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn check(args: &[&str]) -> Ended {
    with_stdin(args, b"")
}

fn with_stdin(args: &[&str], stdin: &[u8]) -> Ended {
    run_in(Path::new("."), args, stdin)
}

fn run_in(dir: &Path, args: &[&str], stdin: &[u8]) -> Ended {
    let mut child = Command::new(env!("CARGO_BIN_EXE_prestop"))
        .current_dir(dir)
        .arg("check")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary is built with the tests");
    let mut pipe = child.stdin.take().expect("piped");
    let stdin = stdin.to_vec();
    // Beside it: what it prints must be read meanwhile. It may not read all, or any, of what it is given.
    let writer = std::thread::spawn(move || drop(pipe.write_all(&stdin)));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("the writer does not panic");
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

fn json(args: &[&str]) -> (Option<i32>, Value) {
    let ended = check(&[&["--format", "json"], args].concat());
    let value = serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {ended:?}"));
    (ended.code, value)
}

#[test]
fn the_exit_code_says_what_was_found() {
    let good = check(&[GOOD]);
    assert_eq!((good.code, good.stderr.as_str()), (Some(0), ""), "{good:?}");
    assert_eq!(good.stdout, "nothing found: 4 workloads in 1 file\n");

    let bad = check(&[BAD]);
    assert_eq!((bad.code, bad.stderr.as_str()), (Some(1), ""), "{bad:?}");
    assert!(bad.stdout.starts_with(&format!(
        "{BAD}:19:15: error[PS101] Deployment/orders, container orders: "
    )));
    assert!(
        bad.stdout
            .contains("\n1 finding (1 error, 0 warnings): 1 workload in 1 file\n"),
        "{bad:?}"
    );

    // What cannot be read weighs more than what was found.
    let both = check(&[BAD, "no-such-file.yaml"]);
    assert_eq!(both.code, Some(2), "{both:?}");
    assert!(both.stdout.contains("PS101"), "{both:?}");
    assert!(
        both.stderr
            .starts_with("prestop: no-such-file.yaml: it cannot be opened: "),
        "{both:?}"
    );
}

#[test]
fn wrong_arguments_are_2() {
    for args in [
        &[][..],
        &["--format", "xml", GOOD],
        &["--allow", "PS999", GOOD],
        &["--deny", "warning", GOOD],
        &["--no-such", GOOD],
    ] {
        let ended = check(args);
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
        assert!(!ended.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn the_standard_input_is_a_file_too() {
    let text = std::fs::read(BAD).expect("a file");
    let ended = with_stdin(&["-"], &text);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stdout.starts_with("<stdin>:19:15: error[PS101]"),
        "{ended:?}"
    );

    let github = with_stdin(&["--format=github", "-"], &text);
    assert!(
        github.stdout.starts_with("::error title=PS101 "),
        "{github:?}"
    );
    assert!(
        github.stdout.contains("::<stdin>:19:15: Deployment/orders"),
        "{github:?}"
    );
}

/// `helm template .. | prestop check -` is not green because helm has failed.
#[test]
fn nothing_at_all_is_no_success() {
    for stdin in [
        &b""[..],
        b"\n# only a comment\n---\n",
        b"Error: chart not found\n",
    ] {
        let ended = with_stdin(&["-"], stdin);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(
            ended.stderr.contains("there is no Kubernetes object in it"),
            "{ended:?}"
        );
    }
    // One empty file beside others is none of anybody's business.
    let scratch = Scratch::new();
    let empty = scratch.write("empty.yaml", "");
    assert_eq!(check(&[&empty]).code, Some(2));
    assert_eq!(check(&[&empty, GOOD]).code, Some(0));
    let no_workload = scratch.write("config.yaml", "kind: ConfigMap\n");
    assert_eq!(check(&[&no_workload]).code, Some(0));
}

#[test]
fn a_directory_is_all_the_yaml_below_it() {
    let scratch = Scratch::new();
    let bad = std::fs::read(BAD).expect("a file");
    let good = std::fs::read(GOOD).expect("a file");
    scratch.write("b/two.yml", &bad);
    scratch.write("a/one.yaml", &bad);
    scratch.write("c.yaml", &good);
    scratch.write(".hidden/three.yaml", &bad);
    scratch.write("notes.txt", "a: [");
    let (code, found) = json(&[scratch.dir()]);
    assert_eq!(code, Some(1));
    let files: Vec<String> = found["findings"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|finding| {
            finding["file"]
                .as_str()
                .expect("a name")
                .replace(scratch.dir(), "")
        })
        .collect();
    assert_eq!(files, ["/a/one.yaml", "/b/two.yml"]);

    let empty = Scratch::new();
    let ended = check(&[empty.dir()]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("there is no .yaml or .yml file in this directory"),
        "{ended:?}"
    );
}

#[test]
fn files_are_taken_together() {
    let scratch = Scratch::new();
    let one = scratch.write(
        "one.yaml",
        "kind: Deployment\nmetadata: { name: a }\nspec:\n  replicas: 1\n  template: { metadata: { labels: { a: b } }, spec: {} }\n",
    );
    let two = scratch.write(
        "two.yaml",
        "kind: PodDisruptionBudget\nspec:\n  minAvailable: 1\n  selector: { matchLabels: { a: b } }\n",
    );
    assert_eq!(check(&[&two]).code, Some(0));
    let ended = check(&[&one, &two]);
    assert!(
        ended.stdout.starts_with(&format!(
            "{two}:3:3: warning[PS503] PodDisruptionBudget/?: "
        )),
        "{ended:?}"
    );
}

#[test]
fn json_is_one_object_with_findings_and_errors() {
    let scratch = Scratch::new();
    let broken = scratch.write("broken.yaml", "kind: Pod\nspec: [\n");
    let (code, value) = json(&[BAD, &broken, "no-such-file.yaml"]);
    assert_eq!(code, Some(2));
    let finding = &value["findings"][0];
    for (key, is) in [
        ("file", BAD.into()),
        ("line", 19.into()),
        ("column", 15.into()),
        ("rule", "PS101".into()),
        ("severity", "error".into()),
        (
            "title",
            "grace period in the environment differs from the spec".into(),
        ),
        ("object", "Deployment/orders".into()),
        ("container", "orders".into()),
        ("counts", Value::Bool(true)),
    ] {
        assert_eq!(finding[key], is, "{key}");
    }
    assert!(finding["message"].is_string() && finding["advice"].is_string());
    assert_eq!(value["findings"].as_array().map(Vec::len), Some(1));
    let errors = value["errors"].as_array().expect("a list");
    assert_eq!(errors.len(), 2);
    assert_eq!(errors[0]["file"], broken.as_str());
    assert!(errors[0]["line"].is_u64() && errors[0]["column"].is_u64());
    assert_eq!(errors[1]["line"], Value::Null);

    let (code, value) = json(&[GOOD]);
    assert_eq!(
        (code, value),
        (Some(0), serde_json::json!({ "findings": [], "errors": [] }))
    );
}

#[test]
fn github_gets_annotations_that_nothing_in_a_manifest_can_break() {
    let ended = check(&["--format", "github", BAD]);
    assert_eq!(ended.code, Some(1));
    let title = "PS101 grace period in the environment differs from the spec";
    assert!(
        ended.stdout.starts_with(&format!(
            "::error file={BAD},line=19,col=15,title={title}::Deployment/orders, container orders: "
        )),
        "{ended:?}"
    );
    assert_eq!(ended.stdout.lines().count(), 1, "{ended:?}");
    assert!(ended.stdout.contains("%0Asay the same number"), "{ended:?}");

    let scratch = Scratch::new();
    let odd = scratch.write(
        "100%, a:b.yaml",
        "kind: Pod\nmetadata: { name: \"a\\n::error::b\\r\" }\nspec: { terminationGracePeriodSeconds: 0 }\n",
    );
    let ended = check(&["--format", "github", &odd]);
    assert_eq!(ended.stdout.lines().count(), 1, "{ended:?}");
    assert!(
        ended.stdout.contains("100%25%2C a%3Ab.yaml,line=3"),
        "{ended:?}"
    );
    assert!(ended.stdout.contains("Pod/a%0A::error::b%0D"), "{ended:?}");

    let broken = scratch.write("broken.yaml", "kind: Pod\nspec: [\n");
    let ended = check(&["--format", "github", &broken]);
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.stdout.starts_with("::error file=")
            && ended.stdout.contains(",title=not checked::it is not YAML"),
        "{ended:?}"
    );
}

#[test]
fn rules_are_allowed_warned_of_and_denied() {
    // A warning (PS401) and an error (PS201).
    let scratch = Scratch::new();
    let file = scratch.write(
        "a.yaml",
        "kind: Pod\nmetadata: { name: a }\nspec:\n  containers:\n    - name: a\n      image: a\n      ports: [{ containerPort: 1 }]\n      \
         lifecycle: { preStop: { sleep: { seconds: 30 } } }\n",
    );
    let found = |args: &[&str]| -> (Option<i32>, String) {
        let (code, value) = json(&[args, &[&file]].concat());
        let rules = value["findings"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|f| f["rule"].as_str().expect("an id"));
        (code, rules.collect::<Vec<_>>().join(" "))
    };
    let is = |code, rules: &str| (Some(code), rules.to_owned());
    assert_eq!(found(&[]), is(1, "PS401 PS201"));
    assert_eq!(found(&["--allow", "PS401"]), is(1, "PS201"));
    assert_eq!(found(&["--allow", "PS401,PS201"]), is(0, ""));
    assert_eq!(found(&["--allow", "PS401", "--allow", "PS201"]), is(0, ""));
    assert_eq!(found(&["--allow", "all"]), is(0, ""));
    assert_eq!(found(&["--warn", "all"]), is(0, "PS401 PS201"));
    assert_eq!(found(&["--warn", "warnings"]), is(1, "PS401 PS201"));
    assert_eq!(
        found(&["--warn", "warnings", "--allow", "errors"]),
        is(0, "PS401")
    );
    assert_eq!(
        found(&["--allow", "warnings", "--deny", "PS401", "--warn", "errors"]),
        is(1, "PS401 PS201")
    );
    assert_eq!(
        found(&["--deny", "all", "--allow", "PS401"]),
        is(1, "PS201"),
        "an id outweighs a group"
    );
    assert_eq!(
        found(&["--deny", "PS401", "--allow", "PS401", "--allow", "errors"]),
        is(1, "PS401"),
        "deny outweighs allow"
    );

    let ended = check(&["--warn", "all", &file]);
    assert!(
        ended.stdout.contains("warning[PS201]") && !ended.stdout.contains("error["),
        "{ended:?}"
    );
    assert!(
        ended.stdout.contains("2 findings (0 errors, 2 warnings)"),
        "{ended:?}"
    );
}

#[test]
fn what_is_no_text_is_said() {
    let scratch = Scratch::new();
    let garbage: Vec<u8> = (0..100_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let binary = scratch.write("binary.yaml", &garbage);
    let ended = check(&[&binary]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("it is not UTF-8 text: the first wrong byte is number "),
        "{ended:?}"
    );

    let utf_16: Vec<u8> = "kind: Pod\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let utf_16 = scratch.write("utf-16.yaml", [&[0xff, 0xfe][..], &utf_16].concat());
    assert_eq!(check(&[&utf_16]).code, Some(2));

    let zeros = scratch.write("zeros.yaml", vec![0; 10_000]);
    assert_eq!(check(&[&zeros]).code, Some(2));

    // The directory itself in the place of a file that can be opened.
    #[cfg(unix)]
    assert_eq!(check(&["/dev/null"]).code, Some(2));
}

/// A file without an end is not read to its end.
#[cfg(unix)]
#[test]
fn what_is_too_large_is_said() {
    let ended = check(&["/dev/zero"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("larger than 64 MiB"), "{ended:?}");
}

#[test]
fn a_large_file_and_deep_ones_are_answered() {
    let scratch = Scratch::new();
    let one = std::fs::read_to_string(BAD).expect("a file");
    let large = scratch.write("large.yaml", vec![one.as_str(); 2_000].join("---\n"));
    let (code, value) = json(&[&large]);
    assert_eq!(
        (code, value["findings"].as_array().map(Vec::len)),
        (Some(1), Some(2_000))
    );

    let deep = scratch.write("deep.yaml", "[".repeat(1_000_000));
    assert_eq!(check(&[&deep]).code, Some(2));
    let bomb = scratch.write(
        "bomb.yaml",
        (1..30).fold("a0: &a0 [x, x]\n".to_owned(), |text, n| {
            let all = vec![format!("*a{}", n - 1); 9].join(", ");
            format!("{text}a{n}: &a{n} [{all}]\n")
        }),
    );
    let ended = check(&[&bomb]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended.stderr.contains("aliases stand for more than"),
        "{ended:?}"
    );
}

#[test]
fn the_rules_can_be_listed() {
    let ended = check(&["--rules"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for rule in prestop::check::Rule::ALL {
        let line = format!(
            "{rule} {:<7} {}\n",
            rule.severity().to_string(),
            rule.title()
        );
        assert!(ended.stdout.contains(&line), "{line}");
    }
    let help = check(&["--help"]);
    assert!(
        help.stdout
            .contains("Exit code: 0 nothing was found, 1 findings, 2"),
        "{help:?}"
    );
}

/// The step of a workflow as the README has it, where a workflow runs it.
#[test]
fn the_step_of_the_readme_names_files_as_the_repository_does() {
    let scratch = Scratch::new();
    scratch.write("deploy/orders.yaml", std::fs::read(BAD).expect("a file"));
    let ended = run_in(&scratch.0, &["--format", "github", "deploy/"], b"");
    assert!(
        ended
            .stdout
            .starts_with("::error file=deploy/orders.yaml,line=19,"),
        "{ended:?}"
    );
}

/// The manifests of the example are in a directory with other files.
#[test]
fn our_example_passes() {
    let ended = check(&["examples/kind", "--format=github"]);
    assert_eq!(
        (ended.code, ended.stdout.as_str(), ended.stderr.as_str()),
        (Some(0), "", "")
    );
    assert!(Path::new("examples/kind/deployment.yaml").exists());
}
