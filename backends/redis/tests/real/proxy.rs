//! A way to the store whose connections can be stalled one by one.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use repmd_test_stores::Store;

/// Carries bytes to and from a store.
pub(crate) struct Proxy {
    port: u16,
    connections: Arc<Mutex<Vec<Arc<Carried>>>>,
    delay: Arc<AtomicU64>,
}

/// One connection through it.
#[derive(Default)]
pub(crate) struct Carried {
    asked: AtomicU64,
    is_stalled: AtomicBool,
    is_over: AtomicBool,
}

impl Carried {
    /// From now on nothing comes through, and neither side is told.
    pub(crate) fn stall(&self) {
        self.is_stalled.store(true, Ordering::Relaxed);
    }

    /// Whether one of its sides has ended it.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

impl Proxy {
    pub(crate) fn to(store: &Store) -> Self {
        let store = store.url().strip_prefix("redis://").unwrap().to_owned();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Self { port, connections: Arc::default(), delay: Arc::default() };
        let (connections, delay) = (Arc::clone(&proxy.connections), Arc::clone(&proxy.delay));
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(&store) else { continue };
                let carried = Arc::<Carried>::default();
                connections.lock().unwrap().push(Arc::clone(&carried));
                let there = (near.try_clone().unwrap(), far.try_clone().unwrap(), Arc::clone(&carried));
                let delay = Arc::clone(&delay);
                std::thread::spawn(move || carry(there.0, there.1, &there.2, None));
                std::thread::spawn(move || carry(far, near, &carried, Some(&delay)));
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// From now on each answer takes so long.
    pub(crate) fn slow_down(&self, delay: Duration) {
        self.delay.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    /// Stalls all connections that there are but these.
    pub(crate) fn stall_all_but(&self, spared: &[&Arc<Carried>]) {
        let all = self.connections.lock().unwrap();
        let others = all.iter().filter(|carried| !spared.iter().any(|spared| Arc::ptr_eq(spared, carried)));
        others.for_each(|carried| carried.stall());
    }

    /// The connection over which `call` asks. Tried again while another one happens to be made or checked.
    pub(crate) async fn connection_of(&self, mut call: impl AsyncFnMut()) -> Arc<Carried> {
        loop {
            let all = self.connections.lock().unwrap().clone();
            let asked =
                || all.iter().map(|carried| carried.asked.load(Ordering::Relaxed)).collect::<Vec<_>>();
            let before = asked();
            call().await;
            let after = asked();
            let used: Vec<_> = (0..all.len()).filter(|index| before[*index] != after[*index]).collect();
            if let [used] = used[..] {
                return Arc::clone(&all[used]);
            }
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, carried: &Carried, delay: Option<&AtomicU64>) {
    let mut bytes = [0; 65_536];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        match delay {
            None => drop(carried.asked.fetch_add(count as u64, Ordering::Relaxed)),
            Some(delay) => std::thread::sleep(Duration::from_millis(delay.load(Ordering::Relaxed))),
        }
        // What comes then is lost.
        if !carried.is_stalled.load(Ordering::Relaxed) && to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    carried.is_over.store(true, Ordering::Relaxed);
    // It fails where that side is gone already.
    let _ = to.shutdown(Shutdown::Both);
}
