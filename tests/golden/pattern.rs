//! Byte patterns: what a recorded exchange sends and expects.

use std::collections::HashMap;

/// Numbers that an exchange keeps, each with its width in bytes.
pub(crate) type Kept = HashMap<String, (u64, usize)>;

/// One token of a pattern; `README.md` has the language.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Bytes(Vec<u8>),
    Any(usize),
    Keep(String, usize),
    Same(String),
    Port(usize),
}

/// A parsed pattern.
#[derive(Clone, Debug)]
pub(crate) struct Pattern(Vec<Token>);

impl Pattern {
    /// Panics when the text is no pattern: the recording is broken then, not the daemon.
    pub(crate) fn parse(text: &str) -> Self {
        let token =
            |word: &str| parse_token(word).unwrap_or_else(|| panic!("{word:?} is no token: {text:?}"));
        // A number in brackets may stand against the digits beside it.
        let apart = text.replace('<', " <").replace('>', "> ");
        Self(apart.split_whitespace().map(token).collect())
    }

    /// How many bytes it matches.
    pub(crate) fn len(&self, kept: &Kept) -> usize {
        let len = |token: &Token| match token {
            Token::Bytes(bytes) => bytes.len(),
            Token::Any(count) | Token::Keep(_, count) | Token::Port(count) => *count,
            Token::Same(name) => kept[name].1,
        };
        self.0.iter().map(len).sum()
    }

    /// The bytes of a pattern that is sent.
    pub(crate) fn bytes(&self, port: u16, kept: &Kept) -> Vec<u8> {
        let bytes = |token: &Token| fixed(token, port, kept).expect("a pattern that is sent has no wildcard");
        self.0.iter().flat_map(bytes).collect()
    }

    /// Compares, and keeps the numbers that the pattern names. `data` has [`Self::len`] bytes.
    pub(crate) fn compare(&self, data: &[u8], port: u16, kept: &mut Kept) -> Result<(), String> {
        let mut at = 0;
        let mut found = Kept::new();
        for token in &self.0 {
            if let Some(want) = fixed(token, port, kept) {
                let got = &data[at..at + want.len()];
                if got != want {
                    let (want, got, all) = (show(&want), show(&data[at..]), show(data));
                    return Err(format!("byte {at}: want {want}, got {got} (all: {all})"));
                }
                at += want.len();
            } else if let Token::Keep(name, width) = token {
                let number =
                    data[at..at + width].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
                found.insert(name.clone(), (number, *width));
                at += width;
            } else if let Token::Any(count) = token {
                at += count;
            }
        }
        kept.extend(found);
        Ok(())
    }
}

/// The bytes of a token that is no wildcard.
fn fixed(token: &Token, port: u16, kept: &Kept) -> Option<Vec<u8>> {
    let number = |number: u64, width: usize| number.to_be_bytes()[8 - width..].to_vec();
    match token {
        Token::Bytes(bytes) => Some(bytes.clone()),
        Token::Port(width) => Some(number(port.into(), *width)),
        Token::Same(name) => Some(number(kept[name].0, kept[name].1)),
        Token::Any(_) | Token::Keep(..) => None,
    }
}

fn parse_token(word: &str) -> Option<Token> {
    if let Some(inside) = word.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')) {
        return match inside {
            "port2" => Some(Token::Port(2)),
            "port4" => Some(Token::Port(4)),
            _ if inside.starts_with('=') => Some(Token::Same(inside[1..].to_owned())),
            _ => {
                let (name, width) = inside.split_once(':')?;
                Some(Token::Keep(name.to_owned(), width.parse().ok().filter(|width| *width <= 8)?))
            }
        };
    }
    let (group, times) = match word.split_once('*') {
        Some((group, times)) => (group, times.parse().ok()?),
        None => (word, 1),
    };
    if group == "??" {
        return Some(Token::Any(times));
    }
    let digits: Option<Vec<u32>> = group.chars().map(|digit| digit.to_digit(16)).collect();
    let (pairs, []) = digits.as_ref()?.as_chunks::<2>() else { return None };
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| (high * 16 + low) as u8).collect();
    Some(Token::Bytes(bytes.repeat(times)))
}

/// Bytes for people, cut where they get long.
pub(crate) fn show(bytes: &[u8]) -> String {
    const MOST: usize = 48;
    let hex: String = bytes.iter().take(MOST).map(|byte| format!("{byte:02x}")).collect();
    match bytes.len() {
        0 => "nothing".to_owned(),
        len if MOST < len => hex + "...",
        _ => hex,
    }
}
