//! All of `tests/daemon` again, with a shared registry in Redis.

#[path = "daemon/main.rs"]
mod daemon;
