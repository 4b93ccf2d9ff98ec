//! The token that says who is calling: where it is read, and that it is shown nowhere.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use reqwest::header::HeaderValue;

use crate::error::Error;

/// The longest token; servers take no longer headers.
const TOKEN_BYTES_MAX: u64 = 32 * 1024;

/// Where the token comes from that a client sends.
#[derive(Clone)]
#[non_exhaustive]
pub enum Token {
    /// The token itself.
    Text(String),
    /// A file that holds it, on a line of its own. It is read when the client is made, and again
    /// when the server refuses the token, so that a new one takes effect while the client runs.
    File(PathBuf),
}

impl From<String> for Token {
    fn from(token: String) -> Self {
        Self::Text(token)
    }
}

impl From<&str> for Token {
    fn from(token: &str) -> Self {
        Self::Text(token.to_owned())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(..)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl Token {
    /// The value of the header `Authorization`. It is marked as sensitive, so that nobody logs it.
    fn header(&self) -> Result<HeaderValue, Error> {
        let text = match self {
            Self::Text(text) => text.clone(),
            Self::File(path) => read(path)?,
        };
        let mut value =
            HeaderValue::from_str(&format!("Bearer {}", text.trim())).map_err(|_| Error::Token)?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// What to do when the server refuses it.
    fn remedy(&self) -> String {
        match self {
            Self::Text(_) => "the token is not, or no longer, valid; a new one is needed".to_owned(),
            Self::File(path) => format!(
                "the token in {} is not, or no longer, valid; write a new one there",
                path.display()
            ),
        }
    }
}

/// A token in use.
#[derive(Debug)]
pub(crate) struct Bearer {
    token: Token,
    header: Mutex<HeaderValue>,
}

impl Bearer {
    /// Reads the token for the first time.
    pub(crate) fn read(token: &Token) -> Result<Self, Error> {
        Ok(Self {
            header: Mutex::new(token.header()?),
            token: token.clone(),
        })
    }

    /// The header to send.
    pub(crate) fn header(&self) -> HeaderValue {
        self.header.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the token again, since the server has refused this one. Says whether another is there.
    pub(crate) fn renew(&self, refused: &HeaderValue) -> Result<bool, Error> {
        let found = self.token.header()?;
        let is_new = found != *refused;
        if is_new {
            *self.header.lock().unwrap_or_else(PoisonError::into_inner) = found;
        }
        Ok(is_new)
    }

    /// What to do when the server refuses it.
    pub(crate) fn remedy(&self) -> String {
        self.token.remedy()
    }
}

fn read(path: &Path) -> Result<String, Error> {
    let refuse = |reason: String, source: Option<io::Error>| Error::TokenFile {
        file: path.to_owned(),
        reason,
        source,
    };
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(TOKEN_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| refuse(error.to_string(), Some(error)))?;
    if text.len() as u64 > TOKEN_BYTES_MAX {
        return Err(refuse(format!("it is longer than {TOKEN_BYTES_MAX} bytes"), None));
    }
    if text.trim().is_empty() {
        return Err(refuse("it is empty".to_owned(), None));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown() {
        let bearer = Bearer::read(&Token::from("secret")).expect("a token");
        assert_eq!(bearer.header(), "Bearer secret");
        assert!(!format!("{bearer:?} {:?}", Token::from("secret")).contains("secret"));
        let error = Bearer::read(&Token::from("se\ncret")).expect_err("a line break");
        assert!(!format!("{error} {error:?}").contains("cret"));
    }

    #[test]
    fn a_file_is_read_again_when_its_token_was_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let token = Token::File(path.clone());
        for (content, words) in [
            (None, "No such file"),
            (Some(String::new()), "empty"),
            (Some("\n \n".to_owned()), "empty"),
            (Some("x".repeat(40_000)), "longer"),
        ] {
            if let Some(content) = content {
                std::fs::write(&path, content).expect("a file");
            }
            let error = Bearer::read(&token).expect_err(words).to_string();
            assert!(error.contains(words) && error.contains("token"), "{error}");
        }
        std::fs::write(&path, "old\n").expect("a file");
        let bearer = Bearer::read(&token).expect("a token");
        let old = bearer.header();
        assert!(!bearer.renew(&old).expect("the same token"));
        std::fs::write(&path, "new\n").expect("a file");
        assert!(bearer.renew(&old).expect("another token"));
        assert_eq!(bearer.header(), "Bearer new");
    }
}
