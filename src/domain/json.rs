//! Looking into JSON text without building a tree.
//!
//! The text has been parsed once already, so these functions rely on its being valid; on damaged text they answer
//! `None` rather than panic.

/// A parsed JSON pointer (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    steps: Vec<String>,
}

/// Not a JSON pointer: it must be empty or begin with `/`, and `~` may stand only in `~0` and `~1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a JSON pointer is empty or begins with '/', and has '~' only in '~0' and '~1'")]
pub struct BadPointer;

impl Pointer {
    /// Parses a pointer.
    ///
    /// # Errors
    /// [`BadPointer`].
    pub fn parse(text: &str) -> Result<Self, BadPointer> {
        if text.is_empty() {
            return Ok(Self { steps: Vec::new() });
        }
        let Some(rest) = text.strip_prefix('/') else { return Err(BadPointer) };
        let steps = rest.split('/').map(unescape_step).collect::<Result<_, _>>()?;
        Ok(Self { steps })
    }

    /// The raw text of the value it points to in `json`, or `None` when nothing stands there.
    pub fn find<'a>(&self, json: &'a str) -> Option<&'a str> {
        let bytes = json.as_bytes();
        let mut at = skip_space(bytes, 0);
        for step in &self.steps {
            at = match bytes.get(at)? {
                b'{' => find_member(json, at, step)?,
                b'[' => find_element(bytes, at, step)?,
                _ => return None,
            };
        }
        let end = skip_value(bytes, at)?;
        json.get(at..end)
    }
}

fn unescape_step(step: &str) -> Result<String, BadPointer> {
    if !step.contains('~') {
        return Ok(step.to_owned());
    }
    let valid = step.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
    if valid { Ok(step.replace("~1", "/").replace("~0", "~")) } else { Err(BadPointer) }
}

fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The index after the string whose opening quote is at `at`.
fn skip_string(bytes: &[u8], at: usize) -> Option<usize> {
    let mut i = at + 1;
    loop {
        match bytes.get(i)? {
            b'"' => return Some(i + 1),
            b'\\' => i += 2,
            _ => i += 1,
        }
    }
}

/// The index after the value that begins at `at`.
fn skip_value(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' => skip_string(bytes, at),
        b'{' | b'[' => {
            let mut depth = 0usize;
            let mut i = at;
            loop {
                match bytes.get(i)? {
                    b'"' => {
                        i = skip_string(bytes, i)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth -= 1;
                        if depth == 0 {
                            return Some(i + 1);
                        }
                    }
                    _ => {}
                }
                i += 1;
            }
        }
        _ => {
            let mut i = at;
            while bytes.get(i).is_some_and(|b| !matches!(b, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r')) {
                i += 1;
            }
            Some(i)
        }
    }
}

fn find_member(json: &str, open: usize, name: &str) -> Option<usize> {
    let bytes = json.as_bytes();
    let mut at = skip_space(bytes, open + 1);
    while *bytes.get(at)? == b'"' {
        let key_end = skip_string(bytes, at)?;
        let raw = json.get(at..key_end)?;
        let colon = skip_space(bytes, key_end);
        let value = skip_space(bytes, colon + 1);
        let inner = &raw[1..raw.len() - 1];
        let same = if inner.contains('\\') {
            serde_json::from_str::<String>(raw).is_ok_and(|key| key == name)
        } else {
            inner == name
        };
        if same {
            return Some(value);
        }
        at = skip_space(bytes, skip_value(bytes, value)?);
        if *bytes.get(at)? == b',' {
            at = skip_space(bytes, at + 1);
        }
    }
    None
}

fn find_element(bytes: &[u8], open: usize, step: &str) -> Option<usize> {
    if step.len() > 1 && step.starts_with('0') {
        return None;
    }
    let index: usize = step.parse().ok()?;
    let mut at = skip_space(bytes, open + 1);
    for _ in 0..index {
        if *bytes.get(at)? == b']' {
            return None;
        }
        at = skip_space(bytes, skip_value(bytes, at)?);
        if *bytes.get(at)? != b',' {
            return None;
        }
        at = skip_space(bytes, at + 1);
    }
    (*bytes.get(at)? != b']').then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(pointer: &str, json: &'a str) -> Option<&'a str> {
        Pointer::parse(pointer).unwrap().find(json)
    }

    #[test]
    fn a_pointer_finds_what_the_tree_would() {
        let json = r#" {"a": {"b/c": [10, {"x~y": "z\"]}"}, []], "é": null}, "score" :4200.0, "\u0061b": true}"#;
        let tree: serde_json::Value = serde_json::from_str(json).unwrap();
        for pointer in ["", "/a", "/a/b~1c", "/a/b~1c/0", "/a/b~1c/1/x~0y", "/a/b~1c/2", "/a/é", "/score", "/ab"] {
            let found = find(pointer, json).unwrap();
            let value: serde_json::Value = serde_json::from_str(found).unwrap();
            assert_eq!(Some(&value), tree.pointer(pointer), "{pointer}");
        }
        for pointer in ["/b", "/a/b~1c/3", "/a/b~1c/01", "/a/b~1c/-", "/score/x", "/a/b~1c/2/0"] {
            assert_eq!(find(pointer, json), None, "{pointer}");
        }
    }

    #[test]
    fn damaged_text_is_none() {
        for json in ["", "{", "{\"a\"", "{\"a\":", "[1", "\"x"] {
            assert_eq!(find("/a/0", json), None, "{json}");
        }
    }

    #[test]
    fn bad_pointers_are_refused() {
        for text in ["a", "/~", "/~2", "/a~"] {
            assert_eq!(Pointer::parse(text), Err(BadPointer), "{text}");
        }
    }
}
