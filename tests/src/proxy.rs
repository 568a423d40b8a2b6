//! A connection that fails: a TCP proxy between a process and its broker.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How much is passed on at once.
const BLOCK_BYTES: usize = 16 * 1024;

/// Passes everything on to a server, until told otherwise.
pub struct Proxy {
    url: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    delay_ms: AtomicU64,
    /// Nothing goes to the server, or nothing comes from it: it is taken and lost.
    deaf: AtomicBool,
    mute: AtomicBool,
    /// New connections are closed at once.
    closed: AtomicBool,
    connections: Mutex<Vec<(TcpStream, TcpStream)>>,
}

impl Proxy {
    /// A proxy before the server at `url`: `nats://127.0.0.1:4222`, with a login or without.
    pub fn before(url: &str) -> Proxy {
        let server = url.rsplit(['/', '@']).next().expect("a URL").to_owned();
        let before = url.strip_suffix(&server).expect("a URL ends with the address").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it listens");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.closed.load(Ordering::Relaxed) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&server) else { continue };
                let pair = || Some((client.try_clone().ok()?, server.try_clone().ok()?));
                let (Some(kept), Some(up), Some(down)) = (pair(), pair(), pair()) else { continue };
                shared.connections.lock().expect("no thread panics").push(kept);
                let (there, back) = (Arc::clone(&shared), Arc::clone(&shared));
                std::thread::spawn(move || pass_on(up.0, up.1, &there, &there.deaf));
                std::thread::spawn(move || pass_on(down.1, down.0, &back, &back.mute));
            }
        });
        Proxy { url: format!("{before}{address}"), state }
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Everything comes so much later from now on.
    pub fn delay(&self, ms: u64) {
        self.state.delay_ms.store(ms, Ordering::Relaxed);
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        for (client, server) in self.state.connections.lock().expect("no thread panics").drain(..) {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    /// What clients send gets lost, though the connection stands; `false`: no more.
    pub fn deafen(&self, deaf: bool) {
        self.state.deaf.store(deaf, Ordering::Relaxed);
    }

    /// What the server sends gets lost, though the connection stands; `false`: no more.
    pub fn mute(&self, mute: bool) {
        self.state.mute.store(mute, Ordering::Relaxed);
    }

    /// Half-closes all connections: the server hears that the client is done, the client hears nothing.
    pub fn half_close(&self) {
        for (_, server) in self.state.connections.lock().expect("no thread panics").iter() {
            let _ = server.shutdown(Shutdown::Write);
        }
    }

    /// Takes no new connections; `false`: takes them again.
    pub fn close(&self, closed: bool) {
        self.state.closed.store(closed, Ordering::Relaxed);
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, state: &State, lost: &AtomicBool) {
    let mut block = vec![0; BLOCK_BYTES];
    while let Ok(length) = from.read(&mut block) {
        if length == 0 {
            break;
        }
        let delay = state.delay_ms.load(Ordering::Relaxed);
        if delay > 0 {
            std::thread::park_timeout(Duration::from_millis(delay));
        }
        if !lost.load(Ordering::Relaxed) && to.write_all(&block[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
