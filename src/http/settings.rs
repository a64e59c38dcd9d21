//! What a public listener allows its clients.

use clap::Args;

/// Timeouts and caps of a public HTTP listener.
#[derive(Args, Debug, Clone)]
pub struct HttpConfig {
    /// A request's headers must arrive within this time.
    #[arg(long, env = "HTTP_HEADER_TIMEOUT_SECONDS", default_value_t = 10)]
    pub http_header_timeout_seconds: u64,
    /// Longest gap between two pieces of a body, and longest body in all is three times that.
    #[arg(long, env = "HTTP_BODY_TIMEOUT_SECONDS", default_value_t = 10)]
    pub http_body_timeout_seconds: u64,
    /// Close a connection that was idle this long between two requests (longer than the load balancer's). One
    /// that becomes idle while three quarters of `HTTP_MAX_CONNECTIONS` are open: after a second.
    #[arg(long, env = "HTTP_IDLE_SECONDS", default_value_t = 75)]
    pub http_idle_seconds: u64,
    /// Most open connections.
    #[arg(long, env = "HTTP_MAX_CONNECTIONS", default_value_t = 10_000)]
    pub http_max_connections: usize,
    /// Most open connections of one address (a trusted proxy is exempt).
    #[arg(long, env = "HTTP_MAX_CONNECTIONS_PER_ADDRESS", default_value_t = 500)]
    pub http_max_connections_per_address: usize,
    /// Peers whose `X-Forwarded-For` is believed: addresses or networks, separated by commas.
    #[arg(long, env = "TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Origins that browsers may call from, separated by commas; `*` for any.
    #[arg(long, env = "CORS_ORIGINS", value_delimiter = ',')]
    pub cors_origins: Vec<String>,
}
