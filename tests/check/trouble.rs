//! Texts that are no manifests: an answer, in time, and never a panic.

use std::sync::LazyLock;

use prestop::check::{CheckError, check, check_all};
use proptest::prelude::*;

fn error(text: &str) -> CheckError {
    match check(text) {
        Err(error) => error,
        Ok(found) => panic!("{text:?} was read, {found:?}"),
    }
}

fn place(text: &str) -> (usize, usize) {
    let place = error(text).place;
    (place.line, place.column)
}

#[test]
fn what_is_no_yaml_is_said_with_line_and_column() {
    assert_eq!(place("a: [1, 2\nb: 3\n").0, 2);
    assert_eq!(place("a: b\n c: d\n").0, 2);
    assert_eq!(place("a:\n\t- b\n").0, 2);
    assert_eq!(place("a: 'b\n").0, 1);
    assert_eq!(place("a: *nobody\n"), (1, 4));
    assert_eq!(place("a: &a [*a]\n"), (1, 8));
    assert_eq!(place("a: 1\n---\nb: }\n").0, 3);
    let text = error("kind: Pod\nspec: [\n").to_string();
    assert!(text.contains("it is not YAML"), "{text}");
    assert!(!text.contains("template"), "{text}");
}

/// Messages that tools have wrapped, which `kubectl` takes and YAML 1.2 does not.
#[test]
fn a_wrapped_text_may_stand_as_far_left_as_its_key() {
    let text = "kind: Pod\nmetadata:\n  name: a\n  annotations:\n    a: 'one\n    two''s\n\nthree'\n    b: \"four\\\"\n  five\\\n    six\"\n\
                spec: # line 13\n  terminationGracePeriodSeconds: 0\n";
    let found = check(text).expect("Kubernetes takes it");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (
            found[0].rule.id(),
            found[0].place.line,
            found[0].place.column
        ),
        ("PS103", 13, 3)
    );
    // Thousands of them are mended, or refused in time.
    let many = "- 'a\nb'\n".repeat(1_000);
    let _ = check(&format!("x:\n{many}"));
    assert_eq!(place("a:\n  b: 'c\n  d\n"), (2, 6), "it does not end");
}

#[test]
fn a_template_is_to_be_rendered_first() {
    for template in [
        "{{- if .Values.enabled }}\nkind: Pod\n{{- end }}\n",
        "kind: Pod\nmetadata:\n  name: {{ .Release.Name }}\n",
        "kind: Pod\nmetadata:\n  name: {{ .Release.Name }}-app\n",
        "kind: Pod\nmetadata:\n  name: \"{{ .Release.Name }}\"\nspec: { containers: [] }\n",
        "kind: Pod\nspec:\n  containers:\n    - image: '{{ .Values.image }}'\n",
        "kind: Pod\nmetadata:\n  labels:\n    {{- include \"labels\" . | nindent 4 }}\n",
    ] {
        let text = error(template).to_string();
        assert!(
            text.contains("helm template RELEASE CHART | prestop check -"),
            "{text}"
        );
        assert!(text.contains("kubectl kustomize"), "{text}");
    }
    // In a comment, or in what a rendered object may say, it is none.
    assert_eq!(check("# {{ .Values }}\nkind: Pod\n"), Ok(vec![]));
    assert_eq!(
        check("kind: Pod\nmetadata: { annotations: { a: '{{ b }}' } }\n"),
        Ok(vec![])
    );
}

#[test]
fn nothing_is_found_in_nothing() {
    for text in [
        "",
        "\n",
        "# a comment\n",
        "---\n---\n",
        "\u{feff}",
        "just a word",
        "- a\n- b\n",
        "42",
        "kind: [Pod]",
    ] {
        assert_eq!(check(text), Ok(vec![]), "{text:?}");
        let checked = check_all([text]).pop().expect("one").expect("it is YAML");
        assert_eq!((checked.objects, checked.workloads), (0, 0), "{text:?}");
    }
    assert_eq!(check_all([]).len(), 0);
}

/// Fields of every wrong type, in places where rules look.
#[test]
fn wrong_types_do_no_harm() {
    let fields = [
        "metadata",
        "spec",
        "template",
        "containers",
        "initContainers",
        "env",
        "command",
        "args",
        "lifecycle",
        "preStop",
        "exec",
        "sleep",
        "httpGet",
        "port",
        "ports",
        "readinessProbe",
        "livenessProbe",
        "volumes",
        "volumeMounts",
        "securityContext",
        "strategy",
        "replicas",
        "terminationGracePeriodSeconds",
        "annotations",
    ];
    let good = std::fs::read_to_string("tests/check/good/every-hook-style.yaml").expect("a file");
    for field in fields {
        for wrong in [
            "[]",
            "{}",
            "null",
            "''",
            "-1",
            "99999999999999999999",
            "[[[]]]",
            "{ a: { b: [c] } }",
            "1e400",
            ".nan",
        ] {
            let text: String = good
                .lines()
                .map(|line| match line.split_once(&format!("{field}:")) {
                    Some((before, _)) if !before.contains(['{', '#', '[']) => {
                        format!("{before}{field}: {wrong}\n")
                    }
                    _ => format!("{line}\n"),
                })
                .collect();
            // It may be no YAML any more, where lines below belonged to the field.
            let _ = check(&text);
        }
    }
}

#[test]
fn deep_nesting_is_refused() {
    for (open, close) in [("[", "]"), ("{a: ", "}"), ("- ", ""), ("? ", "")] {
        let text = format!("{}x{}", open.repeat(100_000), close.repeat(100_000));
        let error = error(&text);
        assert_eq!(error.place.line, 1, "{error}");
    }
    let lines: String = (0..5_000)
        .map(|n| format!("{}a:\n", " ".repeat(n)))
        .collect();
    let error = error(&lines);
    assert!(error.to_string().contains("levels deep"), "{error}");
}

#[test]
fn aliases_that_stand_for_billions_are_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let all = vec![format!("*a{}", n - 1); 10].join(", ");
        bomb += &format!("a{n}: &a{n} [{all}]\n");
    }
    let text = error(&bomb).to_string();
    assert!(text.contains("aliases stand for more than"), "{text}");

    let mut merges = "m0: &m0 { k: v }\n".to_owned();
    for n in 1..40 {
        merges += &format!("m{n}: &m{n} {{ <<: [*m{0}, *m{0}], k{n}: v }}\n", n - 1);
    }
    // Keys are taken once, so this stays small or is refused: both are an answer.
    let _ = check(&merges);
}

/// Ten thousand objects, some megabytes.
#[test]
fn a_huge_text_is_read() {
    let one = std::fs::read_to_string("tests/check/bad/ps101-env-differs.yaml").expect("a file");
    let text = vec![one.as_str(); 3_000].join("---\n");
    let checked = check_all([text.as_str()])
        .pop()
        .expect("one")
        .expect("it is YAML");
    assert_eq!((checked.workloads, checked.findings.len()), (3_000, 3_000));
}

/// Pieces of manifests, in any order and at any indentation.
fn line() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "kind: Deployment",
        "kind: Pod",
        "kind: List",
        "kind: PodDisruptionBudget",
        "kind: CronJob",
        "items:",
        "---",
        "metadata:",
        "name: a",
        "spec:",
        "template:",
        "containers:",
        "- name: a",
        "image: a",
        "env:",
        "command:",
        "- sh",
        "- -c",
        "- |",
        "a | b; exec c & $(",
        "'",
        "\"",
        "`",
        "lifecycle:",
        "preStop:",
        "exec:",
        "sleep:",
        "seconds: 5",
        "httpGet:",
        "port: http",
        "path: /prestop",
        "readinessProbe:",
        "livenessProbe:",
        "periodSeconds: 9223372036854775807",
        "failureThreshold: 9223372036854775807",
        "replicas: 9223372036854775807",
        "maxUnavailable: 9223372036854775807%",
        "maxUnavailable: -5%",
        "strategy:",
        "rollingUpdate:",
        "minAvailable: 100%",
        "terminationGracePeriodSeconds: -9223372036854775808",
        "terminationGracePeriodSeconds: 9223372036854775807",
        "value: \"30\"",
        "name: TERMINATION_GRACE_PERIOD_SECONDS",
        "name: PRE_STOP_SLEEP_SECONDS",
        "# prestop: allow PS301",
        "# prestop: allow PS301 because",
        "# prestop: allow",
        "annotations:",
        "prestop.rs/allow: \"PS301 x;;PS;\"",
        "prestop.rs/registry-visibility-seconds: \"1e300\"",
        "<<: *a",
        "- &a",
        "- *a",
        "a: &a",
        "? a",
        "{{ .Values.a }}",
        "[",
        "]",
        "{",
        "}",
        "!!str",
        "- [a, b",
        "hostNetwork: true",
        "command: [sh, -c, 'sleep 1e300; kill 1']",
        "command: [prestop, run, --lame-duck]",
        "args: [--visibility=nan]",
        "seconds: .inf",
        "\t",
    ]);
    (0_usize..14, words).prop_map(|(indent, words)| format!("{}{words}", " ".repeat(indent)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_lines_of_a_manifest_panic(lines in prop::collection::vec(line(), 0..40), ending in prop::sample::select(vec!["\n", "\r\n", "\r"])) {
        let _ = check(&lines.join(ending));
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = check(&text);
    }

    /// A good manifest with something cut out of it, or put into it.
    #[test]
    fn no_damage_panics(at in 0.0_f64..1.0, cut in 0_usize..60, put in ".{0,4}", file in 0_usize..1_000) {
        static FILES: LazyLock<Vec<(String, String)>> =
            LazyLock::new(|| [crate::manifests("good"), crate::manifests("bad")].concat());
        let (_, text) = &FILES[file % FILES.len()];
        let chars: Vec<char> = text.chars().take(6_000).collect();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let at = (at * chars.len() as f64) as usize;
        let end = (at + cut).min(chars.len());
        let damaged: String = chars[..at].iter().copied().chain(put.chars()).chain(chars[end..].iter().copied()).collect();
        let _ = check(&damaged);
    }
}
