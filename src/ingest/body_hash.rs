//! What a body says, as a hash: an `Idempotency-Key` is used again for the same batch, or for another one.
//!
//! Only what an event is made of counts, in the order of the events. When a batch was sent (`sent_at`), white space,
//! the order of members, the format and other members do not: a client that writes its batch anew has written the same.

use sha2::{Digest, Sha256};

use super::wire_event::{Field, WireEvent};

/// A hash.
pub type BodyHash = [u8; 32];

/// As deep as a payload may be. What is deeper is refused as an event, and counts as it is written.
const MAX_DEPTH: u32 = 64;

/// SHA-256 of what the events of a body say. Receipts keep it for a day: a change of this rule, or of what a
/// [`WireEvent`] tells apart, needs another version of the receipt.
pub fn hash_events(events: &[WireEvent<'_>]) -> BodyHash {
    let (mut hash, mut said) = (Sha256::new(), Vec::new());
    for event in events {
        said.clear();
        say_event(event, &mut said);
        hash.update((said.len() as u64).to_le_bytes());
        hash.update(&said);
    }
    hash.finalize().into()
}

/// SHA-256 of an unpacked body as it is written: the rule of receipts of version 1.
pub fn hash_bytes(body: &[u8]) -> BodyHash {
    Sha256::digest(body).into()
}

fn say_event(event: &WireEvent<'_>, out: &mut Vec<u8>) {
    let fields = [
        &event.event_id,
        &event.event_type,
        &event.player_id,
        &event.session_id,
        &event.schema_version,
        &event.occurred_at,
    ];
    for field in fields {
        match field {
            Field::Absent => out.push(0),
            Field::Text(text) => say_bytes(1, text.as_bytes(), out),
            Field::Integer(number) => {
                out.push(2);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Field::Other => out.push(3),
        }
    }
    out.push(u8::from(event.defect.is_some()));
    if let Some(payload) = event.payload {
        say_json(payload.as_bytes(), out);
    }
}

/// A kind, a length and bytes, so that no two texts run into one another.
fn say_bytes(kind: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Says a JSON text that the parser has read, without white space and with members in order of their names.
fn say_json(json: &[u8], out: &mut Vec<u8>) {
    let mut reader = Reader { json, at: 0 };
    let begin = out.len();
    if reader.value(0, out).is_none() {
        out.truncate(begin);
        say_bytes(b'?', json, out);
    }
}

/// Walks over JSON. `None`: this is no JSON after all, or too deep.
struct Reader<'a> {
    json: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn next_token(&mut self) -> Option<u8> {
        while self.json.get(self.at)?.is_ascii_whitespace() {
            self.at += 1;
        }
        self.json.get(self.at).copied()
    }

    fn value(&mut self, depth: u32, out: &mut Vec<u8>) -> Option<()> {
        match self.next_token()? {
            b'{' if depth < MAX_DEPTH => self.object(depth, out),
            b'[' if depth < MAX_DEPTH => self.array(depth, out),
            b'{' | b'[' => None,
            b'"' => {
                say_text(self.text()?, out);
                Some(())
            }
            _ => {
                let ends = |byte: &u8| matches!(byte, b',' | b']' | b'}') || byte.is_ascii_whitespace();
                let rest = &self.json[self.at..];
                let length = rest.iter().position(ends).unwrap_or(rest.len());
                self.at += length;
                say_bytes(b'v', &rest[..length], out);
                (length > 0).then_some(())
            }
        }
    }

    /// A text with its quotes.
    fn text(&mut self) -> Option<&'a [u8]> {
        let begin = self.at;
        self.at += 1;
        loop {
            match self.json.get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        self.json.get(begin..self.at)
    }

    fn array(&mut self, depth: u32, out: &mut Vec<u8>) -> Option<()> {
        out.push(b'[');
        self.at += 1;
        while self.next_token()? != b']' {
            self.value(depth + 1, out)?;
            if self.next_token()? == b',' {
                self.at += 1;
            }
        }
        self.at += 1;
        out.push(b']');
        Some(())
    }

    fn object(&mut self, depth: u32, out: &mut Vec<u8>) -> Option<()> {
        self.at += 1;
        let mut members: Vec<Vec<u8>> = Vec::new();
        while self.next_token()? != b'}' {
            let mut member = Vec::new();
            if self.json[self.at] != b'"' {
                return None;
            }
            say_text(self.text()?, &mut member);
            if self.next_token()? != b':' {
                return None;
            }
            self.at += 1;
            self.value(depth + 1, &mut member)?;
            members.push(member);
            if self.next_token()? == b',' {
                self.at += 1;
            }
        }
        self.at += 1;
        // A name that stands twice is refused as an event, so only that it is said matters, not how.
        members.sort_unstable();
        out.push(b'{');
        members.iter().for_each(|member| out.extend_from_slice(member));
        out.push(b'}');
        Some(())
    }
}

/// A text is what it reads as, however it is escaped; one that cannot be read is what is written.
fn say_text(quoted: &[u8], out: &mut Vec<u8>) {
    let inner = &quoted[1..quoted.len() - 1];
    if !inner.contains(&b'\\') {
        return say_bytes(b's', inner, out);
    }
    match serde_json::from_slice::<String>(quoted) {
        Ok(text) => say_bytes(b's', text.as_bytes(), out),
        Err(_) => say_bytes(b'r', inner, out),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(payload: &str) -> Vec<u8> {
        let mut out = Vec::new();
        say_json(payload.as_bytes(), &mut out);
        out
    }

    #[test]
    fn order_of_members_white_space_and_escapes_say_nothing() {
        for same in [
            r#"{"b":{"y":[1,2],"x":null},"a":"é/"}"#,
            "{ \"a\" : \"\\u00e9\\/\" ,\n\t\"b\":{\"x\":null,\"y\":[ 1 , 2 ]} }",
        ] {
            assert_eq!(said(same), said(r#"{"a":"é/","b":{"x":null,"y":[1,2]}}"#), "{same}");
        }
        assert_eq!(said("{}"), said(" { } "));
        let different = [
            "{}",
            "[]",
            r#"{"a":1}"#,
            r#"{"a":"1"}"#,
            r#"{"a":12}"#,
            r#"{"a":[1,2]}"#,
            r#"{"a":[2,1]}"#,
            r#"{"a":[[1],2]}"#,
            r#"{"a":{"b":1},"c":2}"#,
            r#"{"a":{"b":1,"c":2}}"#,
            r#"{"a":"\\u00e9"}"#,
        ];
        let distinct: std::collections::BTreeSet<Vec<u8>> = different.iter().map(|json| said(json)).collect();
        assert_eq!(distinct.len(), different.len());
    }

    #[test]
    fn what_is_too_deep_or_no_json_counts_as_it_is_written() {
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        for text in [deep.as_str(), "{", "{\"a\"", "[1", "\"\\", "{1:2}", ""] {
            assert_eq!(said(text)[0], b'?', "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            say_json(&bytes, &mut Vec::new());
        }

        #[test]
        fn json_that_is_written_anew_says_the_same(text in "[ -~]{0,40}", number in any::<i64>()) {
            let value = serde_json::json!({"b": [text.clone(), {"z": number, "a": null}], "a": text});
            prop_assert_eq!(said(&value.to_string()), said(&serde_json::to_string_pretty(&value).unwrap()));
        }
    }
}
