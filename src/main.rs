//! The `repmd` program.
fn main() {}
