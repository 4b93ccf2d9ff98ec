//! What became of a request that has failed, in words that say what to do.

use std::error::Error as StdError;
use std::io;

use rustls::CertificateError;

use crate::error::Error;

/// How long to wait for a connection.
pub(crate) const CONNECT_SECONDS_MAX: u64 = 10;

/// How long the server may be silent, before its answer or within it. Longer than a long poll.
pub(crate) const SILENCE_SECONDS_MAX: u64 = 90;

/// The same while it scans a table. Longer than it lets a scan take.
pub(crate) const SCAN_SECONDS_MAX: u64 = 660;

/// The error for a request that was not answered.
pub(crate) fn unanswered(server: String, error: reqwest::Error) -> Error {
    let error = error.without_url();
    let reason = reason(&error);
    if error.is_redirect() {
        return Error::Redirected { server, reason };
    }
    match tls(&error) {
        Some(tls) => Error::Tls {
            server,
            may_pass: may_pass(tls),
            reason,
            source: Box::new(error),
        },
        None => Error::Unreachable {
            server,
            reason,
            source: Box::new(error),
        },
    }
}

/// The error for a response that broke off.
pub(crate) fn cut(server: &str, error: reqwest::Error) -> Error {
    let error = error.without_url();
    Error::Cut {
        server: server.to_owned(),
        reason: reason(&error),
        source: Box::new(error),
    }
}

/// Whether another attempt can do better.
pub(crate) fn is_passing(error: &reqwest::Error) -> bool {
    tls(error).is_none_or(may_pass)
}

/// What lies at the bottom of an error of the HTTP client, since its own words say little.
pub(crate) fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return if error.is_connect() {
            format!("no answer within {CONNECT_SECONDS_MAX} seconds")
        } else {
            "no answer for too long".to_owned()
        };
    }
    if let Some(tls) = tls(error) {
        return advice(tls);
    }
    let mut cause: &dyn StdError = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        Some(io::ErrorKind::ConnectionReset) => "connection reset".to_owned(),
        _ => cause.to_string(),
    }
}

/// The error of the TLS library, where it is one.
fn tls(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref() {
            return Some(tls);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            // An I/O error does not give what it wraps as its source.
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

fn advice(error: &rustls::Error) -> String {
    let what = match error {
        rustls::Error::InvalidCertificate(problem) => match problem {
            // The latter: the authority's name is known here, with another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate comes from an authority that is not known here; --ca-cert names a file with that authority's certificate"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired, or the clock of this machine is wrong"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet, or the clock of this machine is wrong"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for another name"
            }
            _ => return error.to_string(),
        },
        rustls::Error::InvalidMessage(_) => {
            "what answers there does not speak TLS; is it an address with http://?"
        }
        _ => return error.to_string(),
    };
    format!("{what} ({error})")
}

/// Whether it can be otherwise the next time without anyone changing anything at this end: a server
/// gets a new certificate, and the clock of a device that was just switched on is set.
fn may_pass(error: &rustls::Error) -> bool {
    match error {
        rustls::Error::InvalidCertificate(problem) => matches!(
            problem,
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        ),
        rustls::Error::InvalidMessage(_) => false,
        _ => true,
    }
}
