use proptest::prelude::*;

use super::*;

fn check(json: &str) -> Result<(), PayloadProblem> {
    // The checker relies on valid JSON: so do its tests.
    serde_json::from_str::<&serde_json::value::RawValue>(json).unwrap();
    PayloadChecker::default().check(json)
}

#[test]
fn ordinary_payloads_pass() {
    for json in [
        "{}",
        r#"{"score":4200,"mode":"ranked","nested":{"a":[1,2,{"a":1}],"score":-1.5e3},"s":"\ud83d\ude00 \u00e9 é"}"#,
        r#" { "a" : "}{\"" , "b" : [ ] , "c" : 1e308 , "d" : 1E-308, "e":[true,false,null] } "#,
        r#"{"a":{"a":{"a":1}},"b":{"a":1}}"#,
    ] {
        assert_eq!(check(json), Ok(()), "{json}");
    }
}

#[test]
fn what_postgres_cannot_hold_is_refused() {
    let deep = |levels: usize| format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
    let digits = |count: usize| format!("{{\"a\":{}}}", "1".repeat(count));
    let many: String = (0..20).map(|i| format!("\"k{i}\":1,")).collect();
    for (json, problem) in [
        (r#"{"a":"\u0000"}"#, PayloadProblem::NullCharacter),
        (r#"{"\u0000":1}"#, PayloadProblem::NullCharacter),
        (r#"{"a":"\ud800"}"#, PayloadProblem::LoneSurrogate),
        (r#"{"a":"\udc00\ud800"}"#, PayloadProblem::LoneSurrogate),
        (r#"{"a":"\ud800\ud800"}"#, PayloadProblem::LoneSurrogate),
        (r#"{"a":"\ud83dx"}"#, PayloadProblem::LoneSurrogate),
        (r#"{"\udfff":1}"#, PayloadProblem::LoneSurrogate),
        (r#"{"a":1,"b":2,"a":3}"#, PayloadProblem::DuplicateKey),
        (r#"{"a":1,"\u0061":3}"#, PayloadProblem::DuplicateKey),
        (r#"{"x":[{"a":1,"b":{},"a":{}}]}"#, PayloadProblem::DuplicateKey),
        (&format!("{{{many}\"k7\":2}}"), PayloadProblem::DuplicateKey),
        (&deep(65), PayloadProblem::TooDeep),
        (&format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000)), PayloadProblem::TooDeep),
        (&digits(65), PayloadProblem::NumberOutOfRange),
        (r#"{"a":1e309}"#, PayloadProblem::NumberOutOfRange),
        (r#"{"a":-1.5E-309}"#, PayloadProblem::NumberOutOfRange),
        (r#"{"a":1e99999999999999999999}"#, PayloadProblem::NumberOutOfRange),
        ("[]", PayloadProblem::NotAnObject),
        ("\"x\"", PayloadProblem::NotAnObject),
        ("null", PayloadProblem::NotAnObject),
    ] {
        assert_eq!(check(json), Err(problem), "{json:.80}");
    }
    assert_eq!(check(&deep(64)), Ok(()));
    assert_eq!(check(&digits(64)), Ok(()));
    assert_eq!(check(&format!("{{{many}\"k20\":2}}")), Ok(()));
}

/// A tree that a test can look at, with texts as UTF-16 so that lone surrogates exist.
#[derive(Debug, Clone)]
enum Node {
    Word(&'static str),
    Number(String),
    Text(Vec<u16>),
    Array(Vec<Node>),
    Object(Vec<(Vec<u16>, Node)>),
}

impl Node {
    fn write(&self, out: &mut String, escape_all: bool) {
        match self {
            Self::Word(word) => out.push_str(word),
            Self::Number(number) => out.push_str(number),
            Self::Text(units) => write_text(units, out, escape_all),
            Self::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { " , " });
                    item.write(out, escape_all);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (i, (name, value)) in members.iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { "," });
                    write_text(name, out, escape_all && i % 2 == 0);
                    out.push(':');
                    value.write(out, escape_all);
                }
                out.push('}');
            }
        }
    }

    /// What is wrong with the tree, by looking at it whole.
    fn problems(&self, depth: usize, found: &mut Vec<PayloadProblem>) {
        let text = |units: &[u16], found: &mut Vec<PayloadProblem>| {
            if units.contains(&0) {
                found.push(PayloadProblem::NullCharacter);
            }
            if String::from_utf16(units).is_err() {
                found.push(PayloadProblem::LoneSurrogate);
            }
        };
        if matches!(self, Self::Array(_) | Self::Object(_)) && depth > MAX_DEPTH {
            found.push(PayloadProblem::TooDeep);
        }
        match self {
            Self::Word(_) => {}
            Self::Number(number) => {
                let exponent = number.split(['e', 'E']).nth(1).map_or(0i64, |e| e.parse().unwrap());
                if number.len() > MAX_NUMBER_LEN || exponent.abs() > i64::from(MAX_EXPONENT) {
                    found.push(PayloadProblem::NumberOutOfRange);
                }
            }
            Self::Text(units) => text(units, found),
            Self::Array(items) => items.iter().for_each(|item| item.problems(depth + 1, found)),
            Self::Object(members) => {
                let names: std::collections::HashSet<_> = members.iter().map(|(name, _)| name).collect();
                if names.len() < members.len() {
                    found.push(PayloadProblem::DuplicateKey);
                }
                for (name, value) in members {
                    text(name, found);
                    value.problems(depth + 1, found);
                }
            }
        }
    }
}

fn write_text(units: &[u16], out: &mut String, escape_all: bool) {
    out.push('"');
    for decoded in char::decode_utf16(units.iter().copied()) {
        match decoded {
            Ok(c) if !escape_all && c >= ' ' && c != '"' && c != '\\' => out.push(c),
            Ok(c) => c.encode_utf16(&mut [0; 2]).iter().for_each(|u| out.push_str(&format!("\\u{u:04x}"))),
            Err(lone) => out.push_str(&format!("\\u{:04X}", lone.unpaired_surrogate())),
        }
    }
    out.push('"');
}

fn units() -> impl Strategy<Value = Vec<u16>> {
    let unit = prop_oneof![
        40 => 0x61u16..0x64,
        4 => Just(u16::from(b'"')),
        4 => Just(u16::from(b'\\')),
        4 => Just(0xE9u16),
        1 => Just(0u16),
        1 => Just(0xD83Du16),
        1 => Just(0xDE00u16),
    ];
    proptest::collection::vec(unit, 0..5)
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        prop_oneof![Just("true"), Just("false"), Just("null")].prop_map(Node::Word),
        "-?(0|[1-9][0-9]{0,6})(\\.[0-9]{1,3})?([eE][-+]?[0-9]{1,3})?".prop_map(Node::Number),
        "[1-9][0-9]{60,66}".prop_map(Node::Number),
        units().prop_map(Node::Text),
    ];
    leaf.prop_recursive(6, 40, 12, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Node::Array),
            proptest::collection::vec((units(), inner), 0..12).prop_map(Node::Object),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_checker_agrees_with_a_walk_over_the_tree(
        members in proptest::collection::vec((units(), node()), 0..5), wrap in 0usize..70, escape_all: bool
    ) {
        let mut tree = Node::Object(members);
        for _ in 0..wrap {
            tree = Node::Object(vec![(vec![97], tree)]);
        }
        let mut json = String::new();
        tree.write(&mut json, escape_all);
        let mut expected = Vec::new();
        tree.problems(1, &mut expected);
        match check(&json) {
            Ok(()) => prop_assert!(expected.is_empty(), "{:?} in {}", expected, json),
            Err(problem) => prop_assert!(expected.contains(&problem), "{:?} not in {:?}: {}", problem, expected, json),
        }
    }

    #[test]
    fn the_checker_never_panics(text in "[\\[\\]{}\",:\\\\u0-9a-eE+. é\u{0}-]{0,80}") {
        let _ = PayloadChecker::default().check(&text);
        let _ = PayloadChecker::default().check(&format!("{{{text}"));
    }
}
