//! A way to a store that can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Carries bytes between a daemon and its store. While it is cut, what is sent waits for it to heal, as on a
/// network that has fallen apart.
pub(crate) struct Link {
    url: String,
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    is_cut: AtomicBool,
    delay_ms: AtomicU64,
    is_over: AtomicBool,
}

impl Link {
    /// A link to the store at `url`.
    pub(crate) fn to(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").expect("a URL");
        let (login, rest) =
            rest.split_once('@').map_or((String::new(), rest), |(login, rest)| (format!("{login}@"), rest));
        let (store, path) =
            rest.split_once('/').map_or((rest, String::new()), |(store, path)| (store, format!("/{path}")));
        let store = store.to_owned();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let link =
            Self { url: format!("{scheme}://{login}127.0.0.1:{port}{path}"), state: Arc::default(), port };
        let state = Arc::clone(&link.state);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                if state.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(&store)) else { continue };
                for (from, to) in [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))] {
                    let (from, to, state) = (from.unwrap(), to.unwrap(), Arc::clone(&state));
                    std::thread::spawn(move || carry(from, to, &state));
                }
            }
        });
        link
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    pub(crate) fn cut(&self) {
        self.state.is_cut.store(true, Ordering::Relaxed);
    }

    /// From now on what is sent over it, there or back, takes so long.
    pub(crate) fn slow_down(&self, delay: Duration) {
        self.state.delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    pub(crate) fn heal(&self) {
        self.state.is_cut.store(false, Ordering::Relaxed);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        self.heal();
        // The listener learns of it by its next connection.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let mut bytes = [0; 65_536];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        std::thread::sleep(Duration::from_millis(state.delay_ms.load(Ordering::Relaxed)));
        while state.is_cut.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // It fails where that side is gone already.
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
