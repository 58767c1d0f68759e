//! What a store says, cut to one line of a log: it may say anything.

use std::fmt::{self, Write as _};

use repmd_backend_api::REASON_CHARS_MAX;

/// Takes what fits, and lets the rest be written into nothing: it may be long.
struct Cut {
    text: String,
    left: usize,
}

impl fmt::Write for Cut {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let fits = more.char_indices().nth(self.left).map_or(more.len(), |(at, _)| at);
        self.text.push_str(&more[..fits]);
        if fits < more.len() {
            self.text.push('…');
            return Err(fmt::Error);
        }
        self.left -= more.chars().count();
        Ok(())
    }
}

/// What is said, at most [`REASON_CHARS_MAX`] characters of it.
#[must_use]
pub fn short(said: &(impl fmt::Display + ?Sized)) -> String {
    let mut cut = Cut { text: String::new(), left: REASON_CHARS_MAX };
    // It fails where it was cut.
    let _ = write!(cut, "{said}");
    cut.text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_cut_at_300_characters() {
        assert_eq!(short(&"é".repeat(300)), "é".repeat(300));
        let long = short(&"é".repeat(1000));
        assert!(long.ends_with("é…") && long.chars().count() == 301, "{long}");
    }
}
