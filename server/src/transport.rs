//! The options of `serve` that say how callers reach it: TLS and browsers.

#![expect(
    clippy::doc_markdown,
    reason = "help texts are read on a terminal, not as Markdown"
)]

use std::path::PathBuf;

use clap::Args;
use highwater_server::{Origin, ServeOptions, TlsFiles};

#[derive(Debug, Args)]
pub(crate) struct Transport {
    /// A PEM file with the certificate to show, then those that lead to an authority; TLS only from then on
    #[arg(long, env = "HIGHWATER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// A PEM file with the key of that certificate. Both files are read again when they change
    #[arg(long, env = "HIGHWATER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,

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
    /// These options, and those of all others.
    pub(crate) fn chosen(&self, others: ServeOptions) -> ServeOptions {
        let files = self.tls_cert.clone().zip(self.tls_key.clone());
        ServeOptions {
            tls: files.map(|(certificate, key)| TlsFiles::new(certificate, key)),
            cors_origins: self.cors_origins.clone(),
            ..others
        }
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
        Ok(Alone::try_parse_from(words)?
            .transport
            .chosen(ServeOptions::default()))
    }

    #[test]
    fn options_out_of_bounds_are_refused() {
        for bad in [
            &["--tls-cert", "c.pem"][..],
            &["--tls-key", "k.pem"],
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
