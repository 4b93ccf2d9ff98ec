//! `highwater-server serve` as a program, which is killed, frozen, and begun again on the same address.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use highwater_testbed::process::Signal;
use highwater_testbed::{Process, free_port, programs};

/// A server of which nothing is left but its address where it was killed.
pub(crate) struct Server {
    address: SocketAddr,
    process: Option<Process>,
}

impl Server {
    /// Serves a database.
    pub(crate) fn start(database_url: &str) -> Self {
        let mut server = Self {
            address: SocketAddr::from(([127, 0, 0, 1], free_port().unwrap())),
            process: None,
        };
        server.start_again(database_url);
        server
    }

    /// Where it listens, whatever becomes of it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves a database, in place of what is served now.
    pub(crate) fn start_again(&mut self, database_url: &str) {
        self.kill();
        let mut command = Command::new(programs::build(false).unwrap().server);
        command
            .args(["serve", "--listen", &self.address.to_string()])
            .args(["--database-url", database_url])
            .env("RUST_LOG", "error,tower_http=off")
            .stdout(Stdio::null());
        self.process = Some(Process::spawn(command).unwrap());
    }

    /// Ends it as the kernel does when memory runs out.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Tells it something.
    pub(crate) fn signal(&mut self, signal: Signal) {
        let process = self.process.as_mut().expect("it runs");
        process.signal(signal).unwrap();
    }
}
