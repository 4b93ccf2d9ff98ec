//! Certificates for tests that speak TLS: an authority of one's own, which nobody else believes.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

use crate::Result;

/// An authority, with its files in a folder of the test's.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

/// The files of one certificate.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate, in PEM form.
    pub certificate: PathBuf,
    /// Its key, in PEM form.
    pub key: PathBuf,
}

impl Authority {
    /// A new authority.
    pub fn new(folder: impl Into<PathBuf>) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority of a test");
        Ok(Self {
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)?,
            folder: folder.into(),
        })
    }

    /// The authority's own certificate, in PEM form.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A file with the authority's own certificate.
    pub fn file(&self) -> Result<PathBuf> {
        let file = self.folder.join("ca.pem");
        fs::write(&file, self.pem())?;
        Ok(file)
    }

    /// A certificate for these names, in files that bear `label`. Files that are there are replaced as
    /// programs do that renew certificates: one after the other.
    pub fn issue(&self, label: &str, names: &[&str]) -> Result<Files> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.write(label, &CertificateParams::new(names)?)
    }

    /// As [`Authority::issue`], but its time is over.
    pub fn issue_expired(&self, label: &str, names: &[&str]) -> Result<Files> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 2, 1);
        self.write(label, &params)
    }

    fn write(&self, label: &str, params: &CertificateParams) -> Result<Files> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let files = Files {
            certificate: self.folder.join(format!("{label}.pem")),
            key: self.folder.join(format!("{label}.key")),
        };
        put(&files.certificate, &certificate.pem())?;
        put(&files.key, &key.serialize_pem())?;
        Ok(files)
    }
}

/// Replaces a file at once, so that nobody reads half of it.
fn put(path: &Path, content: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content)?;
    Ok(fs::rename(&new, path)?)
}
