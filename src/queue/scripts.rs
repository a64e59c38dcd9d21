//! The Lua scripts, and how they are called. Each file's head says keys, arguments, result and cost.
//!
//! Those that only give memory back (fetch, settle, renew, rescue, sign-off) declare `allow-oom`: a full Redis must
//! still drain (docs/rules.md#a-full-redis-still-drains).

use std::sync::LazyLock;

use redis::aio::ConnectionLike;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind, ToRedisArgs};

use crate::redis_connection::with_source;

/// A script's text, and its hash.
pub struct Script(&'static str, LazyLock<redis::Script>);

macro_rules! script {
    ($name:ident, $file:literal) => {
        #[doc = concat!("`scripts/", $file, "`")]
        pub static $name: Script =
            Script(include_str!(concat!("scripts/", $file)), LazyLock::new(|| redis::Script::new($name.0)));
    };
}

script!(BLOCKED, "blocked.lua");
script!(FETCH, "fetch.lua");
script!(FORGET_DEAD, "forget_dead.lua");
script!(JOB_HEADS, "job_heads.lua");
script!(LOW_WATER, "low_water.lua");
script!(MAY_WRITE, "may_write.lua");
script!(PUSH, "push.lua");
script!(RECONCILE, "reconcile.lua");
script!(REGISTER, "register.lua");
script!(RENEW, "renew.lua");
script!(REPLAY, "replay.lua");
script!(RESCUE, "rescue.lua");
script!(SETTLE, "settle.lua");
script!(SIGN_OFF, "sign_off.lua");
script!(STAMP, "stamp.lua");
script!(SURVEY, "survey.lua");
script!(TAKE_DEAD, "take_dead.lua");
script!(WAITS, "waits.lua");

/// A call being put together. Arguments go straight into the command's buffer.
pub struct Call {
    script: &'static Script,
    command: Cmd,
}

impl Script {
    /// Begins a call with all its keys.
    pub fn keys<K: AsRef<str>>(&'static self, keys: impl IntoIterator<Item = K, IntoIter: ExactSizeIterator>) -> Call {
        let keys = keys.into_iter();
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.1.get_hash()).arg(keys.len());
        for key in keys {
            command.arg(key.as_ref());
        }
        Call { script: self, command }
    }
}

impl Call {
    /// Appends an argument (or several).
    pub fn arg<A: ToRedisArgs>(mut self, argument: A) -> Self {
        self.command.arg(argument);
        self
    }

    /// Appends an argument (or several) in place.
    pub fn push<A: ToRedisArgs>(&mut self, argument: A) {
        self.command.arg(argument);
    }

    /// Calls the script, by its text where the server does not know it (it was restarted, or is new).
    ///
    /// # Errors
    /// Redis cannot be reached, or says no.
    pub async fn run<T: FromRedisValue>(&self, connection: &mut impl ConnectionLike) -> RedisResult<T> {
        match self.command.query_async(connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                with_source(&self.command, self.script.0).query_async(connection).await
            }
            answer => answer,
        }
    }
}
