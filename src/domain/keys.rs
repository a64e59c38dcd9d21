//! What a key of a game is: what it may do, and the hash by which it is known.

use sha2::Digest as _;

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// Publishable: post events, read public data.
    Client,
    /// Secret: everything of its game.
    Server,
}

impl KeyKind {
    /// As stored and as written in the api.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// SHA-256 of a key.
pub type KeyHash = [u8; 32];

/// The hash under which a key is stored and looked up. A lookup by hash tells an attacker nothing: what a guess
/// shares with a stored hash is not what it shares with the key.
pub fn hash_key(key: &str) -> KeyHash {
    sha2::Sha256::digest(key.as_bytes()).into()
}
