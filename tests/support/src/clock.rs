//! Clocks that are off.

use std::path::Path;

/// The variables by which a program sees a clock that is off, as `faketime` is told: `-1d`. Time passes for it as it
/// does.
///
/// # Panics
/// When `libfaketime` is not installed.
#[must_use]
pub fn faketime(by: &str) -> [(&'static str, String); 3] {
    let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    assert!(Path::new(&library).exists(), "{library} is missing: `apt-get install libfaketime`");
    [("LD_PRELOAD", library), ("FAKETIME", by.to_owned()), ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned())]
}
