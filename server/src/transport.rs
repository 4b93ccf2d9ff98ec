//! The options of `serve` that say how callers reach it: TLS, the limits of connections, browsers.

#![expect(
    clippy::doc_markdown,
    reason = "help texts are read on a terminal, not as Markdown"
)]

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use highwater_server::{Origin, ServeOptions, TlsFiles};

const TIME_MIN: Duration = Duration::from_secs(1);

const TIME_MAX: Duration = Duration::from_hours(1);

#[derive(Debug, Args)]
pub(crate) struct Transport {
    /// A PEM file with the certificate to show, then those that lead to an authority; TLS only from then on
    #[arg(long, env = "HIGHWATER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// A PEM file with the key of that certificate. Both files are read again when they change
    #[arg(long, env = "HIGHWATER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,

    /// The most connections that are open at one time; further ones wait. Each needs an open file
    #[arg(long, env = "HIGHWATER_CONNECTIONS_MAX", default_value_t = 32_000, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections_max: u32,

    /// How long a caller may take until its first request has come, from 1s to 1h
    #[arg(long, env = "HIGHWATER_HEADER_TIME_MAX", default_value = "10s", value_name = "DURATION", value_parser = time)]
    pub(crate) header_time_max: Duration,

    /// The most bytes of a request's address and headers, from 8192; a cursor may have 65536
    #[arg(long, env = "HIGHWATER_HEADER_BYTES_MAX", default_value_t = 98_304, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(8_192..=1_048_576))]
    pub(crate) header_bytes_max: u32,

    /// How long a connection may stay open on which nothing is asked, from 1s to 1h
    #[arg(long, env = "HIGHWATER_IDLE_TIME_MAX", default_value = "75s", value_name = "DURATION", value_parser = time)]
    pub(crate) idle_time_max: Duration,

    /// An origin whose pages may ask from a browser, such as https://app.example.org; may be given again
    #[arg(
        long = "cors-origin",
        env = "HIGHWATER_CORS_ORIGINS",
        value_name = "ORIGIN",
        value_delimiter = ','
    )]
    pub(crate) cors_origins: Vec<Origin>,
}

impl Transport {
    /// These options, and the defaults of all others.
    pub(crate) fn chosen(self) -> ServeOptions {
        let files = self.tls_cert.zip(self.tls_key);
        let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        ServeOptions {
            tls: files.map(|(certificate, key)| TlsFiles::new(certificate, key)),
            connections_max: number(self.connections_max),
            header_time_max: self.header_time_max,
            header_bytes_max: number(self.header_bytes_max),
            idle_time_max: self.idle_time_max,
            cors_origins: self.cors_origins,
            ..ServeOptions::default()
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
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        transport: Transport,
    }

    fn read(words: &[&str]) -> Result<ServeOptions, clap::Error> {
        let words = ["serve"].iter().chain(words);
        Ok(Alone::try_parse_from(words)?.transport.chosen())
    }

    #[test]
    fn without_options_the_program_serves_as_the_library_does() {
        let (program, library) = (read(&[]).unwrap(), ServeOptions::default());
        assert_eq!(format!("{program:?}"), format!("{library:?}"));
        assert!(library.connections_max > library.requests_max + library.waiting_max / 2);
        assert!(library.connections_max > library.waiting_max);
    }

    #[test]
    fn options_out_of_bounds_are_refused() {
        for bad in [
            &["--tls-cert", "c.pem"][..],
            &["--tls-key", "k.pem"],
            &["--connections-max", "0"],
            &["--header-time-max", "0s"],
            &["--header-bytes-max", "8191"],
            &["--idle-time-max", "2h"],
            &["--cors-origin", "*"],
            &["--cors-origin", "https://app.example.org/"],
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        let both = read(&["--tls-cert", "c.pem", "--tls-key", "k.pem"]).unwrap();
        assert!(both.tls.is_some());
        let origins = [
            "--cors-origin",
            "https://a.example",
            "--cors-origin",
            "https://b.example",
        ];
        assert_eq!(read(&origins).unwrap().cors_origins.len(), 2);
    }
}
