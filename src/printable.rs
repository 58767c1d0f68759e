//! Text of others, shown to people: what a terminal would obey, or an eye would misread, is written as its code.
//!
//! Names of nodes may have any character but NUL and newline, and come from whoever may register.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// Whether a terminal obeys this character, or it changes the look of the text around it: control characters
/// (C0, DEL, C1), ends of lines and paragraphs, marks and overrides of the direction of writing (Unicode's
/// `Bidi_Control`), and characters without any width.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// The same text with `\n` or `\u{1b}` in the place of each hidden character, and all others as they are.
#[must_use]
pub fn escaped(text: &str) -> Cow<'_, str> {
    replaced(text, is_hidden, |out, hidden| out.extend(hidden.escape_default()))
}

/// As the value of a `key=value`: in quotes if it could be taken for more than one value.
#[must_use]
pub fn as_value(text: &str) -> Cow<'_, str> {
    if !text.contains(['"', '=']) || is_quoted(text) {
        return escaped(text);
    }
    let is_special = |character| is_hidden(character) || matches!(character, '"' | '\\');
    let inside = replaced(text, is_special, |out, special| out.extend(special.escape_default()));
    Cow::Owned(format!("\"{inside}\""))
}

/// Whether it is quoted already, as `Debug` quotes a text: the only quotes that end it are its first and last character.
fn is_quoted(text: &str) -> bool {
    let inside = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inside.is_some_and(|inside| {
        let is_open = inside.chars().try_fold(false, |escapes, character| match (escapes, character) {
            (true, _) => Some(false),
            (false, '"') => None,
            (false, character) => Some(character == '\\'),
        });
        is_open == Some(false)
    })
}

/// A document of JSON with `\u001b` in the place of each hidden character. What is hidden stands within strings there,
/// but for the newline at its end.
#[must_use]
pub fn escaped_json(document: &str) -> Cow<'_, str> {
    let is_special = |character| is_hidden(character) && character != '\n';
    replaced(document, is_special, |out, hidden| {
        for unit in hidden.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    })
}

/// An error as people are told of it: without the number that the standard library writes behind the system's words, as
/// in `Connection refused (os error 111)`.
#[must_use]
pub fn in_words(error: &(impl fmt::Display + ?Sized)) -> String {
    const NUMBER: &str = " (os error ";
    let text = error.to_string();
    let mut parts = text.split(NUMBER);
    let mut words = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((number, rest)) if number.bytes().all(|digit| digit.is_ascii_digit()) => words += rest,
            _ => words.extend([NUMBER, part]),
        }
    }
    words
}

fn replaced(
    text: &str,
    is_replaced: impl Fn(char) -> bool,
    replace: impl Fn(&mut String, char),
) -> Cow<'_, str> {
    // Most text has nothing to be replaced, and log lines are written on the thread of the wire.
    if !text.contains(&is_replaced) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_replaced(character) { replace(&mut out, character) } else { out.push(character) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_written_as_its_code() {
        let hostile = "\x1b]52;c;AA\x07 a\rb\tc\nd \u{7f}\u{9b}2J \u{202e}x\u{2069}\u{200b}\u{feff}\u{2028}";
        let shown =
            r"\u{1b}]52;c;AA\u{7} a\rb\tc\nd \u{7f}\u{9b}2J \u{202e}x\u{2069}\u{200b}\u{feff}\u{2028}";
        assert_eq!(escaped(hostile), shown);
    }

    #[test]
    fn other_text_stays_as_it_is_in_all_scripts() {
        for text in ["rabbit", "кролик", "兎 と 亀", "أرنب", "a\\b 'c'", "🐇", ""] {
            assert!(matches!(escaped(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn a_value_that_looks_like_more_values_is_quoted() {
        assert_eq!(as_value("x peer=10.0.0.9 ERROR"), r#""x peer=10.0.0.9 ERROR""#);
        assert_eq!(as_value(r#"x" y=\"#), r#""x\" y=\\""#);
        assert_eq!(as_value("\u{1b}=\u{202e}"), r#""\u{1b}=\u{202e}""#);
        assert_eq!(as_value("two words"), "two words");
        // Quoted by `Debug` already, and what only looks so.
        assert_eq!(as_value(r#""a=\"b\"""#), r#""a=\"b\"""#);
        assert_eq!(as_value(r#""a" b="c""#), r#""\"a\" b=\"c\"""#);
        assert_eq!(as_value(r#""a=\""#), r#""\"a=\\\"""#);
        assert_eq!(as_value("\""), r#""\"""#);
    }

    #[test]
    fn an_error_of_the_system_is_said_without_its_number_wherever_it_stands() {
        let refused = std::io::Error::from_raw_os_error(111);
        assert_eq!(in_words(&refused), "Connection refused");
        let twice = format!("{refused}: {refused}, again");
        assert_eq!(in_words(&twice), "Connection refused: Connection refused, again");
        for text in ["", "a (os error x)", "a (os error 1", "a (an error)"] {
            assert_eq!(in_words(text), text);
        }
    }

    #[test]
    fn json_keeps_its_meaning_when_what_is_hidden_is_escaped() {
        let value = serde_json::json!({"name": "\x1b\u{7f}\u{9b}\u{202e}\u{e0041}é"});
        let document = format!("{value}\n");
        let safe = escaped_json(&document);
        assert_eq!(safe, "{\"name\":\"\\u001b\\u007f\\u009b\\u202e\\udb40\\udc41é\"}\n");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
    }
}
