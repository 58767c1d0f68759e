//! The number that tells the lives of one name apart.

use std::fmt;

/// Tells the lives of one node name apart: two lives with an equal creation make old pids look alive.
///
/// Always 4 to 2^32 - 1, because 0 means "any" and 1 to 3 belong to peers below version 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Creation(u32);

impl Creation {
    /// The smallest value of all.
    pub const FIRST: Self = Self(4);

    /// `value`, or `None` below 4.
    #[must_use]
    pub fn new(value: u32) -> Option<Self> {
        (Self::FIRST.0 <= value).then_some(Self(value))
    }

    /// The creation that a name gets when it was last seen with `self`: one more; after 2^32 - 1 comes 4.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1).max(Self::FIRST.0))
    }

    /// The four-byte form, for peers of version 6 and above.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// The two-byte form, for peers below version 6: always 1, 2 or 3.
    #[must_use]
    pub fn as_legacy(self) -> u16 {
        (self.0 % 3 + 1) as u16
    }
}

impl fmt::Display for Creation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_the_last_creation_comes_4() {
        assert_eq!(Creation::new(u32::MAX).unwrap().next(), Creation::FIRST);
    }

    #[test]
    fn creations_0_to_3_do_not_exist() {
        assert_eq!((0..4).find_map(Creation::new), None);
        assert_eq!(Creation::new(4), Some(Creation::FIRST));
    }

    #[test]
    fn the_legacy_form_goes_round_in_three() {
        let mut creation = Creation::new(9).unwrap();
        let legacy: Vec<_> = (0..4)
            .map(|_| {
                creation = creation.next();
                creation.as_legacy()
            })
            .collect();
        assert_eq!(legacy, [2, 3, 1, 2]);
    }
}
