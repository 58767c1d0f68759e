//! Writes a picture of a page, as PNG in base64:
//! `cargo run -p repmd-test-support --example screenshot http://127.0.0.1:4370/ | base64 -d >docs/screenshot.png`

use std::time::Duration;

use repmd_test_support::{Browser, wait_until};

fn main() {
    let url = std::env::args().nth(1).expect("an argument: the address of the page");
    let browser = Browser::start();
    browser.look(1100, 1170, false);
    browser.open(&url);
    // It is after two looks at the daemon, and the nodes come with the first.
    wait_until("the rate of look-ups is known", Duration::from_secs(15), || {
        browser.eval("document.getElementById('rate').textContent") != "–"
    });
    println!("{}", browser.picture());
}
