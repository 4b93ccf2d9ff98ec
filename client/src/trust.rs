//! Whose certificates are believed.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use reqwest::Certificate;

use crate::error::Error;

/// The largest file of certificates; all authorities that a browser knows take a quarter of it.
const CERTIFICATES_BYTES_MAX: u64 = 1024 * 1024;

/// The certificates of the authorities in a PEM file.
pub(crate) fn authorities(path: &Path) -> Result<Vec<Certificate>, Error> {
    let refuse = |reason: String, source: Option<io::Error>| Error::CaCert {
        file: path.to_owned(),
        reason,
        source,
    };
    let mut pem = Vec::new();
    File::open(path)
        .and_then(|file| file.take(CERTIFICATES_BYTES_MAX + 1).read_to_end(&mut pem))
        .map_err(|error| refuse(error.to_string(), Some(error)))?;
    if pem.len() as u64 > CERTIFICATES_BYTES_MAX {
        return Err(refuse(
            format!("it is longer than {CERTIFICATES_BYTES_MAX} bytes"),
            None,
        ));
    }
    let found = Certificate::from_pem_bundle(&pem).unwrap_or_default();
    // What is none is noticed only where it is used.
    let usable = reqwest::Client::builder()
        .tls_certs_only(found.iter().cloned())
        .build()
        .is_ok();
    if found.is_empty() || !usable {
        let reason = "it holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)".to_owned();
        return Err(refuse(reason, None));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.pem");
        let error = authorities(&path).expect_err("no file").to_string();
        assert!(
            error.contains("ca.pem") && error.contains("No such file"),
            "{error}"
        );
        for content in [
            "",
            "hello",
            "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
        ] {
            std::fs::write(&path, content).expect("a file");
            let error = authorities(&path).expect_err(content).to_string();
            assert!(error.contains("no certificate"), "{error}");
        }
    }
}
