//! Secrets do not reach a log line: what looks like one is replaced before the line is written.
//!
//! Code does not log secrets in the first place (they are `SecretString`); this is the net below it, for error texts
//! of dependencies that quote a URL or a header.

use std::borrow::Cow;

/// What stands where a secret stood.
const MASK: &str = "***";

/// Beginnings after which everything up to a delimiter is secret. Our keys begin with `sl_`.
const BEFORE_SECRETS: [&str; 12] = [
    "Bearer ",
    "bearer ",
    "Basic ",
    "basic ",
    "password=",
    "PASSWORD=",
    "PGPASSWORD=",
    "token=",
    "TOKEN=",
    "secret=",
    "sl_client_",
    "sl_server_",
];

/// Masks passwords in URLs, and what follows the words that announce a secret. Leaves out what only misleads, too: the
/// line of Postgres's own source that sqlx tells with every error.
pub fn redact(text: &str) -> Cow<'_, str> {
    let plain = without_source_lines(text);
    if !may_hold_secret(&plain) {
        return plain;
    }
    let text = plain.as_ref();
    let masked = mask_urls(text);
    let masked = BEFORE_SECRETS.iter().fold(masked, |text, before| mask_after(text, before));
    Cow::Owned(masked)
}

/// Removes ` at line 414`, and keeps ` at line 1 column 5`, which is the place in a text that somebody sent.
fn without_source_lines(text: &str) -> Cow<'_, str> {
    const AT_LINE: &str = " at line ";
    if !text.contains(AT_LINE) {
        return Cow::Borrowed(text);
    }
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once(AT_LINE) {
        out.push_str(before);
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
        if rest.starts_with(" column") || rest.len() == after.len() {
            out.push_str(AT_LINE);
            rest = after;
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn may_hold_secret(text: &str) -> bool {
    text.contains("://") || BEFORE_SECRETS.iter().any(|before| text.contains(before))
}

/// `scheme://user:password@host` keeps the scheme, the user and the host.
fn mask_urls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\\' | '?')).unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((credentials, host)) => {
                let user = credentials.split_once(':').map_or(credentials, |(user, _)| user);
                out.push_str(user);
                if credentials.contains(':') {
                    out.push(':');
                    out.push_str(MASK);
                }
                out.push('@');
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

fn mask_after(text: String, before: &str) -> String {
    if !text.contains(before) {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find(before) {
        let (kept, after) = rest.split_at(at + before.len());
        out.push_str(kept);
        let end = after
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '/' | '=' | '~' | '%')))
            .unwrap_or(after.len());
        if end > 0 {
            out.push_str(MASK);
        }
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_postgres_own_source_is_left_out() {
        let text = r#"{"error":"error returned from database: relation \"x\" does not exist at line 414","n":1}"#;
        assert_eq!(redact(text), r#"{"error":"error returned from database: relation \"x\" does not exist","n":1}"#);
        for kept in ["expected value at line 1 column 5", "stands at line x", "no line"] {
            assert_eq!(redact(kept), kept);
        }
    }

    #[test]
    fn passwords_keys_and_tokens_are_masked() {
        for (text, masked) in [
            ("postgres://scoreline:hunter2@db:5432/x", "postgres://scoreline:***@db:5432/x"),
            ("at redis://:hunter2@cache:6379 now", "at redis://:***@cache:6379 now"),
            ("postgres://u:p@ss@db/x", "postgres://u:***@db/x"),
            ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080/v1"),
            ("Authorization: Bearer abc.def-1", "Authorization: Bearer ***"),
            ("key sl_server_0123abc failed", "key sl_server_*** failed"),
            ("?token=abc&x=1", "?token=***&x=1"),
            ("two Bearer a Bearer b", "two Bearer *** Bearer ***"),
            ("nothing here", "nothing here"),
        ] {
            assert_eq!(redact(text), masked);
        }
    }
}
