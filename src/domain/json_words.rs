//! What is wrong with JSON that somebody sent, in words that do not come from this program's sources.

/// What `serde_json` says, and how we say it.
const WORDS: [(&str, &str); 13] = [
    ("did not match any variant of untagged enum", "is not what it may be:"),
    ("EOF while parsing a value", "the text ends where a value was expected"),
    ("EOF while parsing an object", "the text ends within an object"),
    ("EOF while parsing a list", "the text ends within a list"),
    ("EOF while parsing a string", "the text ends within a string"),
    ("expected ident", "expected true, false or null"),
    ("trailing characters", "something follows the value"),
    ("recursion limit exceeded", "it is nested too deeply"),
    ("lone leading surrogate in hex escape", "half of a surrogate pair"),
    ("unknown variant", "unknown value"),
    ("invalid type: map", "invalid type: object"),
    ("invalid type: sequence", "invalid type: list"),
    ("a sequence", "a list"),
];

/// An error of the parser: what is wrong, and where in the text that was sent.
pub fn in_words(error: &serde_json::Error) -> String {
    let (message, line, column) = (error.to_string(), error.line(), error.column());
    let (message, place) = match message.strip_suffix(&format!(" at line {line} column {column}")) {
        Some(message) => (message, format!(" (line {line}, column {column})")),
        None => (message.as_str(), String::new()),
    };
    let plain = WORDS.iter().fold(without_types(message), |text, (theirs, ours)| text.replace(theirs, ours));
    plain + &place
}

/// A message without the names of this program's types.
fn without_types(message: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in message.split(' ') {
        match (words.last().copied(), word.trim_end_matches(',')) {
            (_, "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" | "usize") => {
                words.extend(["a", "whole", "number"])
            }
            // `struct Name`: the name says nothing to a client.
            (Some("struct"), _) => {
                words.pop();
                words.extend(["an", "object"]);
            }
            _ => words.push(word),
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Edit {
        limit: u32,
    }

    #[test]
    fn messages_do_not_name_types_of_this_program() {
        for (json, said) in [
            (r#"{"limit":"x"}"#, "invalid type: string \"x\", expected a whole number (line 1, column 12)"),
            ("7", "invalid type: integer `7`, expected an object (line 1, column 1)"),
            (r#"{"limit":[]}"#, "invalid type: list, expected a whole number (line 1, column 9)"),
            ("{", "the text ends within an object (line 1, column 1)"),
            ("", "the text ends where a value was expected (line 1, column 0)"),
            ("{}\n7", "missing field `limit` (line 1, column 2)"),
            (r#"{"limit":1} 7"#, "something follows the value (line 1, column 13)"),
        ] {
            assert_eq!(in_words(&serde_json::from_str::<Edit>(json).unwrap_err()), said, "{json}");
        }
    }
}
