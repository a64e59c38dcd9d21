//! Names for people, checked once at the edge: only parsed values go inward (ARCHITECTURE.md#invariants).

/// The longest name, in characters.
pub const MAX_NAME: usize = 200;

/// Why a text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to {MAX_NAME} characters, none of them a control character")]
pub struct NameProblem;

/// Checks a name: something to read, of at most [`MAX_NAME`] characters. Control characters are refused because names
/// are shown in logs and terminals, where they would forge lines and move the cursor; Postgres holds no U+0000.
///
/// # Errors
/// [`NameProblem`].
pub fn check_name(text: &str) -> Result<(), NameProblem> {
    let fits = !text.trim().is_empty() && text.chars().count() <= MAX_NAME && !text.chars().any(char::is_control);
    if fits { Ok(()) } else { Err(NameProblem) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_something_to_read() {
        for name in ["Global", "Rennen der Löwen", "週間", "<b>", &"é".repeat(200)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "  ", "a\nb", "a\0b", "\u{1b}[2J", "a\u{9b}b", &"x".repeat(201)] {
            assert_eq!(check_name(name), Err(NameProblem), "{name:?}");
        }
    }
}
