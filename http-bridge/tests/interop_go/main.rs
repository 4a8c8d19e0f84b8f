//! Our relay server, client, discovery and HTTP against the Go implementation of DMSG, on loopback.
//!
//! Nothing of Go is in this repository: each test runs programs that environment variables name, and passes
//! with a note on stderr when one of its variables is not set. Programs of the Go distribution:
//!
//! | variable | program |
//! |---|---|
//! | `DMSG_GO_DISCOVERY_BIN` | `dmsg-discovery` |
//! | `DMSG_GO_SERVER_BIN` | `dmsg-server` |
//! | `DMSG_GO_CURL_BIN` | `dmsgcurl` |
//! | `DMSG_GO_HTTP_BIN` | `dmsghttp` |
//! | `DMSG_GO_EXAMPLE_BIN` | `dmsg-example-http-server` |
//! | `DMSG_GO_REDIS_BIN` | `redis-server`, which the Go discovery stores its entries in |
//!
//! Small programs over the Go library, to be supplied by whoever runs this. Keys and addresses are as everywhere
//! in DMSG; `SERVER` is `<key>@<host>:<port>`; log lines on stderr do not matter, and SIGKILL must end them.
//!
//! | variable | command line and behaviour |
//! |---|---|
//! | `DMSG_GO_RELAY_BIN` | `-sk HEX -listen HOST:PORT [-disc URL]`: a relay server, registered at `URL` if there is one. Prints `READY SERVER` when it accepts sessions |
//! | `DMSG_GO_ECHO_BIN` | `-server SERVER \| -disc URL`, `-port N`, `[-sk HEX]`: a client that listens on port `N` and sends back what each stream brings until its end. Prints `READY <key>` when it listens. With `-server` it uses that server without a discovery |
//! | `DMSG_GO_DIAL_BIN` | `-server SERVER \| -disc URL`, `-to KEY:PORT -bytes B -count C -par P [-settle D] [-hold D] [-timeout D]`: `P` series at once of `C` streams one after the other; on each, sends `B` bytes while it reads them back and compares, waits `-hold`, closes. The first dial comes `-settle` (default 200ms) after the session is up. Prints `OK …` or `FAIL <reason>`. `-lookupip` prints `IP <address>` as the server tells it |
//!
//! Programs over the Go code of a visor and its services (2024):
//!
//! | variable | command line and behaviour |
//! |---|---|
//! | `DMSG_GO_VISOR_BIN` | `-tpd URL -sd URL -ar URL -rf URL -ut URL`: makes each call of each client once or more, `sudph` over UDP among them. Prints `OK <call>` or `FAIL <call>: <reason>` for each |
//! | `DMSG_GO_SERVICE_BIN` | `tpd\|ar -t --addr HOST:PORT`: that service with its store in memory |
//!
//! `DMSG_GO26_RELAY_BIN`, `DMSG_GO26_ECHO_BIN`, `DMSG_GO26_DIAL_BIN`: the same with the behaviour of 2026: ML-KEM offers
//! in every handshake (`wire.md §2.6`), `-mux yamux|smux1|smux2` on all three, and `-ping` on the dialler, which
//! sends the marker of `wire.md §3.5` and prints `PING <key> <time>`.
//!
//! `docs/interop.md` has the command and what it gave.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod ours;
mod peer;

mod bootstrapper;
mod echoes;
mod failures;
mod muxes;
mod networks;
mod restarts;
mod services;
mod tickets;
mod web;
