//! Where to look and whom to ask, as the environment says. The variables are those of Hugging Face's own tools.

use std::ffi::OsString;
use std::path::PathBuf;

use super::error::{Error, Result};

const ENDPOINT: &str = "https://huggingface.co";

/// Folders, endpoint and token.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The Hugging Face cache: `HF_HUB_CACHE`, or `hub` under `HF_HOME`, or `~/.cache/huggingface/hub`.
    pub(super) hub_cache: PathBuf,
    /// What is made from it: `$XDG_CACHE_HOME/dylora`, or `~/.cache/dylora`.
    pub(super) own_cache: PathBuf,
    /// `HF_ENDPOINT` without a slash at its end.
    pub(super) endpoint: String,
    /// `DYLORA_MIRROR` without a slash at its end: a server that has every other host as a folder.
    pub(super) mirror: Option<String>,
    /// `HF_TOKEN`, or the file at `HF_TOKEN_PATH`, or `token` under `HF_HOME`.
    pub(super) token: Option<String>,
    /// `HF_HUB_OFFLINE` is 1, true, yes or on.
    pub(super) offline: bool,
}

impl Place {
    pub(super) fn from_env() -> Result<Self> {
        Self::new(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn new(var: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let text = |name: &str| var(name).and_then(|value| value.into_string().ok());
        let caches = || {
            let home = || var("HOME").map(PathBuf::from).or_else(std::env::home_dir);
            let cache = var("XDG_CACHE_HOME").map(PathBuf::from);
            cache.or_else(|| Some(home()?.join(".cache"))).ok_or_else(|| {
                Error::Offline("there is no home directory; set HF_HOME and XDG_CACHE_HOME to folders".to_owned())
            })
        };
        let hf_home = match var("HF_HOME") {
            Some(dir) => PathBuf::from(dir),
            None => caches()?.join("huggingface"),
        };
        let token_file = var("HF_TOKEN_PATH").map_or_else(|| hf_home.join("token"), PathBuf::from);
        let token = text("HF_TOKEN").or_else(|| std::fs::read_to_string(token_file).ok());
        Ok(Place {
            hub_cache: var("HF_HUB_CACHE").map_or_else(|| hf_home.join("hub"), PathBuf::from),
            own_cache: caches()?.join("dylora"),
            endpoint: text("HF_ENDPOINT").map_or_else(
                || ENDPOINT.to_owned(),
                |endpoint| endpoint.trim_end_matches('/').to_owned(),
            ),
            mirror: text("DYLORA_MIRROR").map(|mirror| mirror.trim_end_matches('/').to_owned()),
            token: token
                .map(|token| token.trim().to_owned())
                .filter(|token| !token.is_empty()),
            offline: text("HF_HUB_OFFLINE")
                .is_some_and(|word| ["1", "true", "yes", "on"].contains(&word.to_ascii_lowercase().as_str())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> Place {
        let var = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Place::new(var).unwrap()
    }

    #[test]
    fn the_nearest_variable_says_where() {
        let bare = place(&[("HOME", "/h")]);
        assert_eq!(bare.hub_cache, PathBuf::from("/h/.cache/huggingface/hub"));
        assert_eq!(bare.own_cache, PathBuf::from("/h/.cache/dylora"));
        assert_eq!(
            (bare.endpoint.as_str(), bare.token, bare.offline),
            (ENDPOINT, None, false)
        );
        let xdg = place(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]);
        assert_eq!(xdg.hub_cache, PathBuf::from("/x/huggingface/hub"));
        assert_eq!(xdg.own_cache, PathBuf::from("/x/dylora"));
        let home = [("HOME", "/h"), ("HF_HOME", "/f"), ("HF_ENDPOINT", "http://mirror/")];
        assert_eq!(place(&home).hub_cache, PathBuf::from("/f/hub"));
        assert_eq!(place(&home).endpoint, "http://mirror");
        let cache = place(&[("HOME", "/h"), ("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")]);
        assert_eq!(cache.hub_cache, PathBuf::from("/c"));
    }

    #[test]
    fn the_token_comes_from_the_environment_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        std::fs::write(dir.path().join("token"), "from file\n").unwrap();
        let file = place(&[("HOME", "/h"), ("HF_HOME", home)]);
        assert_eq!(file.token.as_deref(), Some("from file"));
        let both = place(&[("HOME", "/h"), ("HF_HOME", home), ("HF_TOKEN", " given ")]);
        assert_eq!(both.token.as_deref(), Some("given"));
        let path = dir.path().join("token");
        let named = place(&[("HOME", "/h"), ("HF_TOKEN_PATH", path.to_str().unwrap())]);
        assert_eq!(named.token.as_deref(), Some("from file"));
    }

    #[test]
    fn offline_is_a_word() {
        for (word, offline) in [("1", true), ("TRUE", true), ("on", true), ("0", false), ("no", false)] {
            assert_eq!(
                place(&[("HOME", "/h"), ("HF_HUB_OFFLINE", word)]).offline,
                offline,
                "{word}"
            );
        }
    }
}
