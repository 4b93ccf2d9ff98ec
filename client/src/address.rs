//! The address of a server: what is one, whether it leaves this machine, and where a redirect may
//! lead.

use reqwest::redirect;
use url::{Host, Url};

use crate::error::Error;

/// Redirects within the server's own origin that are followed.
const REDIRECTS_MAX: usize = 5;

/// The address that requests go to.
pub(crate) fn address(server: &str) -> Result<Url, Error> {
    let refuse = |reason: &str| Error::ServerAddress {
        address: server.to_owned(),
        reason: reason.to_owned(),
    };
    let url: Url = server
        .trim()
        .parse()
        .map_err(|error: url::ParseError| refuse(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse("it does not begin with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::ServerAddress {
            address: format!("{}://...", url.scheme()),
            reason: "it carries a password; use a token instead".to_owned(),
        });
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("it carries a query or a fragment"));
    }
    Ok(url)
}

/// Whether requests to this address stay within the machine.
pub(crate) fn is_this_machine(server: &Url) -> bool {
    match server.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

/// Redirects are followed within the origin only (scheme, host and port): the request may carry a
/// token, and the answer is believed.
pub(crate) fn redirects() -> redirect::Policy {
    redirect::Policy::custom(|attempt| {
        let Some(first) = attempt.previous().first() else {
            return attempt.stop();
        };
        let next = attempt.url();
        if first.origin() != next.origin() {
            let target = format!("to {}://{}", next.scheme(), host_and_port(next));
            return attempt.error(target);
        }
        if attempt.previous().len() > REDIRECTS_MAX {
            return attempt.error("in circles");
        }
        attempt.follow()
    })
}

/// Without a name and a password, which whoever redirects may have written before them.
fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_without_a_host_or_with_secrets_are_refused() {
        for bad in [
            "",
            "localhost:8080",
            "ftp://host",
            "http://",
            "http://user:secret@host",
            "http://host?x=1",
        ] {
            let error = address(bad).expect_err(bad).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        for good in ["http://127.0.0.1:8080", "https://example.org/highwater/"] {
            assert!(address(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn only_an_address_of_this_machine_is_taken_for_one() {
        for (server, expected) in [
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:8080", true),
            ("http://localhost", true),
            ("http://10.0.0.1", false),
            ("https://localhost.example.org", false),
            ("http://127.0.0.1.example.org", false),
        ] {
            assert_eq!(
                is_this_machine(&server.parse().expect("a URL")),
                expected,
                "{server}"
            );
        }
    }
}
