//! The options of `serve` that bound what callers can take of it, each described in `docs/limits.md`.

#![expect(
    clippy::doc_markdown,
    reason = "help texts are read on a terminal, not as Markdown"
)]

use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;
use highwater_server::limit::{PageBounds, TransactionBounds};
use highwater_server::{ServeOptions, URL_BYTES_MAX};

const TIME_MIN: Duration = Duration::from_secs(1);

const TIME_MAX: Duration = Duration::from_hours(1);

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct Limits {
    /// The most requests that are answered at one time; further ones get 503. Those who wait do not count
    #[arg(long, env = "HIGHWATER_REQUESTS_MAX", default_value_t = 1_024, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    requests_max: u32,

    /// How long a request may take until its answer begins, beside the wait that it asks for; then it gets 503. From 1s to 1h
    #[arg(long, env = "HIGHWATER_REQUEST_TIME_MAX", default_value = "60s", value_name = "DURATION", value_parser = time)]
    request_time_max: Duration,

    /// The most callers who may wait for news; further ones get 503. Each needs an open file
    #[arg(
        long,
        env = "HIGHWATER_WAITING_MAX",
        default_value_t = 20_000,
        value_name = "NUMBER"
    )]
    waiting_max: u32,

    /// The most requests of one known caller that may wait; further ones get 503 [default: no bound of its own]
    #[arg(long, env = "HIGHWATER_CALLER_WAITING_MAX", value_name = "NUMBER")]
    caller_waiting_max: Option<u32>,

    /// The most requests a second of one known caller, and as many at once; further ones get 429 [default: no bound]
    #[arg(long, env = "HIGHWATER_CALLER_REQUESTS_PER_SECOND", value_name = "NUMBER")]
    caller_requests_per_second: Option<NonZeroU32>,

    /// The most rows of a page; a larger `limit` is lowered to it. Up to 1000000
    #[arg(long, env = "HIGHWATER_PAGE_ROWS_MAX", default_value_t = 100_000, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    page_rows_max: u64,

    /// A page ends with the row that reaches so many bytes, from 65536 to 268435456
    #[arg(long, env = "HIGHWATER_PAGE_BYTES_MAX", default_value_t = 33_554_432, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(65_536..=268_435_456))]
    page_bytes_max: u64,

    /// A page ends where it stands after this time: a slow reader gets less. From 1s to 1h
    #[arg(long, env = "HIGHWATER_PAGE_TIME_MAX", default_value = "60s", value_name = "DURATION", value_parser = time)]
    page_time_max: Duration,

    /// How long a reader may take nothing of its page before it is cut off, from 1s to 1h
    #[arg(long, env = "HIGHWATER_SEND_WAIT_MAX", default_value = "60s", value_name = "DURATION", value_parser = time)]
    send_wait_max: Duration,

    /// The most requests for digests that are answered at one time; further ones get 503. Each scans a table
    #[arg(
        long,
        env = "HIGHWATER_DIGESTS_MAX",
        default_value_t = 4,
        value_name = "NUMBER"
    )]
    digests_max: u32,

    /// How long digests may take until the last of them is sent, from 1s to 1h
    #[arg(long, env = "HIGHWATER_DIGESTS_TIME_MAX", default_value = "10m", value_name = "DURATION", value_parser = time)]
    digests_time_max: Duration,

    /// How long a statement of a page may take in Postgres (statement_timeout); longer than --page-time-max and --send-wait-max together
    #[arg(long, env = "HIGHWATER_STATEMENT_TIME_MAX", default_value = "150s", value_name = "DURATION", value_parser = time)]
    statement_time_max: Duration,

    /// How long the transaction of a page may stand still (idle_in_transaction_session_timeout); longer than --send-wait-max
    #[arg(long, env = "HIGHWATER_TRANSACTION_IDLE_TIME_MAX", default_value = "120s", value_name = "DURATION", value_parser = time)]
    transaction_idle_time_max: Duration,

    /// The most connections that are open at one time; further ones wait. Each needs an open file
    #[arg(long, env = "HIGHWATER_CONNECTIONS_MAX", default_value_t = 32_000, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    connections_max: u32,

    /// How long a caller may take until its first request has come, from 1s to 1h
    #[arg(long, env = "HIGHWATER_HEADER_TIME_MAX", default_value = "10s", value_name = "DURATION", value_parser = time)]
    header_time_max: Duration,

    /// The most bytes of a request's address and headers, from 8192; a cursor may have 61440. Beyond: 431
    #[arg(long, env = "HIGHWATER_HEADER_BYTES_MAX", default_value_t = 98_304, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(8_192..=1_048_576))]
    header_bytes_max: u32,

    /// The most bytes of a request's address, from 1024 to 65534; a cursor is part of it. Beyond: 414
    #[arg(long, env = "HIGHWATER_URL_BYTES_MAX", default_value_t = URL_BYTES_MAX as u64, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1_024..=URL_BYTES_MAX as u64))]
    url_bytes_max: u64,

    /// The most bytes of a request's body; only digests need one, of up to 1048576. Beyond: 413
    #[arg(
        long,
        env = "HIGHWATER_BODY_BYTES_MAX",
        default_value_t = 1_048_576,
        value_name = "BYTES"
    )]
    body_bytes_max: u64,

    /// The most devices that are remembered for the page at /; beyond it, who was not seen for longest is forgotten. 0 for none
    #[arg(
        long,
        env = "HIGHWATER_DEVICES_MAX",
        default_value_t = 10_000,
        value_name = "NUMBER"
    )]
    devices_max: u32,

    /// How long a connection may stay open on which nothing is asked, from 1s to 1h
    #[arg(long, env = "HIGHWATER_IDLE_TIME_MAX", default_value = "75s", value_name = "DURATION", value_parser = time)]
    idle_time_max: Duration,
}

impl Limits {
    /// These options, and those of all others.
    pub(crate) fn chosen(&self, others: ServeOptions) -> ServeOptions {
        let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        ServeOptions {
            requests_max: number(self.requests_max),
            request_time_max: self.request_time_max,
            waiting_max: number(self.waiting_max),
            caller_waiting_max: self.caller_waiting_max.map(number),
            caller_requests_per_second: self.caller_requests_per_second,
            page_rows_max: self.page_rows_max,
            page: PageBounds {
                bytes_max: self.page_bytes_max,
                time_max: self.page_time_max,
                send_wait_max: self.send_wait_max,
            },
            digests_max: number(self.digests_max),
            digests_time_max: self.digests_time_max,
            transaction: TransactionBounds {
                statement_time_max: self.statement_time_max,
                idle_time_max: self.transaction_idle_time_max,
            },
            connections_max: number(self.connections_max),
            header_time_max: self.header_time_max,
            header_bytes_max: number(self.header_bytes_max),
            url_bytes_max: usize::try_from(self.url_bytes_max).unwrap_or(usize::MAX),
            body_bytes_max: self.body_bytes_max,
            idle_time_max: self.idle_time_max,
            devices_max: number(self.devices_max),
            ..others
        }
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (TIME_MIN..=TIME_MAX).contains(&time) {
        Ok(time)
    } else {
        Err("it is not between 1s and 1h".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, Parser};
    use highwater_server::limit::Limit;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        limits: Limits,
    }

    fn read(words: &[&str]) -> Result<ServeOptions, clap::Error> {
        let words = ["serve"].iter().chain(words);
        Ok(Alone::try_parse_from(words)?
            .limits
            .chosen(ServeOptions::default()))
    }

    #[test]
    fn options_out_of_bounds_are_refused() {
        for bad in [
            ["--requests-max", "0"],
            ["--caller-requests-per-second", "0"],
            ["--page-rows-max", "0"],
            ["--page-bytes-max", "65535"],
            ["--page-time-max", "0s"],
            ["--connections-max", "0"],
            ["--header-time-max", "0s"],
            ["--header-bytes-max", "8191"],
            ["--url-bytes-max", "65535"],
            ["--idle-time-max", "2h"],
        ] {
            assert!(read(&bad).is_err(), "{bad:?}");
        }
        for good in [
            ["--waiting-max", "0"],
            ["--caller-waiting-max", "0"],
            ["--body-bytes-max", "0"],
        ] {
            assert!(read(&good).is_ok(), "{good:?}");
        }
    }

    /// What metrics and messages call a limit is what its option is called.
    #[test]
    fn every_limit_is_an_option_of_its_name() {
        let command = Alone::command();
        let options: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
        for limit in Limit::ALL {
            let option = limit.name().replace('_', "-");
            assert!(options.contains(&option.as_str()), "{option}");
        }
    }
}
