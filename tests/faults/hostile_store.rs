//! What answers in the store's place is hostile, or mad: it announces what it likes and never ends.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::SOON;
use crate::stage::Plan;

/// What a daemon may take meanwhile, in MiB: a reply of 64 MiB, the buffer that it came in, and a second
/// connection that meets the same.
const MEMORY_MAX: u64 = 300;

/// What is sent over one connection at most, so that a daemon without a bound shows, and the machine lives.
const FLOOD: usize = 200 << 20;

/// A daemon that is asked as usual while its store answers with `reply` again and again, or, when it is
/// asked who it is, with `greeting`.
fn disturbs_nobody(what: &str, greeting: Option<&'static [u8]>, head: &'static [u8], then: &'static [u8]) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("redis://127.0.0.1:{}", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // It fails when the daemon ends the connection.
            std::thread::spawn(move || answer(stream, greeting, head, then));
        }
    });
    let host = Plan::new(&url, "a").start();
    let _node = host.register_within_a_second("own", 7);
    let (started, mut worst) = (Instant::now(), Duration::ZERO);
    while started.elapsed() < Duration::from_secs(4) {
        let asked = Instant::now();
        assert_eq!(host.find("own"), Some(7), "{what}");
        worst = worst.max(asked.elapsed());
        if worst < Duration::from_millis(1) {
            // Somebody asks the store as well.
            let _ = host.find("other@b");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let log = host.log();
    let longest = log.lines().map(str::len).max().unwrap_or_default();
    let peak = host.peak_memory() >> 10;
    eprintln!("{what}: peak {peak} MiB, worst {worst:?}, longest line {longest}");
    assert!(peak < MEMORY_MAX, "{what}: {peak} MiB");
    assert!(worst < Duration::from_secs(1), "{what}: a look-up took {worst:?}");
    assert!(longest < 1000 && log.len() < 100_000, "{what}: {log:.2000}");
    assert!(!log.contains('\x1b'), "{what}: {log:.2000}");
    host.wait_until_degraded("the registry");
}

fn answer(
    mut stream: TcpStream,
    greeting: Option<&[u8]>,
    head: &[u8],
    then: &[u8],
) -> Result<(), std::io::Error> {
    const HELLO: &[u8] =
        b"%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n$4\r\nrole\r\n$6\r\nmaster\r\n";
    stream.set_read_timeout(Some(SOON))?;
    let mut bytes = vec![0; 65_536];
    loop {
        let length = stream.read(&mut bytes)?;
        if length == 0 {
            return Ok(());
        }
        let asked = String::from_utf8_lossy(&bytes[..length]).to_uppercase();
        if asked.contains("EVALSHA") || asked.contains("SUBSCRIBE") {
            break;
        }
        if let Some(greeting) = greeting {
            stream.write_all(greeting)?;
            break;
        }
        let count = |word: &str| asked.matches(word).count();
        stream.write_all(&HELLO.repeat(count("HELLO")))?;
        stream.write_all(&b"+OK\r\n".repeat(count("SETINFO") + count("SELECT")))?;
    }
    stream.write_all(head)?;
    let mut sent = 0;
    while !then.is_empty() && sent < FLOOD {
        stream.write_all(then)?;
        sent += then.len();
    }
    // Whoever waits for more gets nothing.
    stream.read(&mut bytes).map(drop)
}

/// A mebibyte of it.
fn mebibyte(of: &[u8]) -> &'static [u8] {
    of.repeat((1 << 20) / of.len()).leak()
}

#[test]
fn a_store_whose_replies_have_no_end_takes_no_memory_and_no_time() {
    let text = mebibyte(b"x");
    let error = [b"-".as_slice(), &b"E".repeat(50 << 20), b"\r\n"].concat().leak();
    let bulk_error = [b"!52428800\r\n".as_slice(), &b"E".repeat(50 << 20), b"\r\n"].concat().leak();
    let escapes = b"-WRONGPASS \x1b[2J\x1b]0;x\x07 \xe2\x80\xae evil\r\n";
    let number = [b"(".as_slice(), &b"9".repeat(2_000_000), b"\r\n"].concat().leak();
    let greeting = &*[b"%100000\r\n".as_slice(), &b"+a\r\n+b\r\n".repeat(100_000)].concat().leak();
    let kinds = [
        ("a text that never ends", None, b"$9000000000\r\n".as_slice(), text),
        ("texts of just below the bound", None, b"*9\r\n", &*[b"$66000000\r\n", text].concat().leak()),
        ("a line that never ends", None, b"+", text),
        ("a push that never ends", None, b">3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$8000000000\r\n", text),
        ("a list that never ends", None, b"*2000000000\r\n", mebibyte(b":1\r\n")),
        ("a list of lists", None, b"", mebibyte(b"*1\r\n")),
        ("a list without end of lists", None, b"", mebibyte(b"*1000\r\n")),
        ("a greeting that never ends", Some(b"%2000000\r\n".as_slice()), b"", mebibyte(b"+a\r\n+b\r\n")),
        ("a greeting of a hundred thousand", Some(greeting), b"", b""),
        ("an error of 50 MiB", None, error, b""),
        ("a text of an error of 50 MiB", None, bulk_error, b""),
        ("an error with escapes", None, escapes, b""),
        ("a number of 2 MB", None, number, b""),
    ];
    // A few at a time: a daemon without a bound would take all that it is sent.
    for some in kinds.chunks(4) {
        std::thread::scope(|scope| {
            for &(what, greeting, head, then) in some {
                scope.spawn(move || disturbs_nobody(what, greeting, head, then));
            }
        });
    }
}
