//! Which addresses the sender may call, against server-side request forgery (SSRF). Anybody who registers an
//! endpoint chooses an address that this machine then calls from inside its own network.
//!
//! A registration is checked by its URL alone: the scheme, and a host that is an address. No name is resolved
//! then. A name is resolved for each connection: every address is checked, and a checked address is dialed. So
//! a DNS answer that changes after the check has no effect. `0x7f.1` needs no extra rule, because the URL
//! parser turns it into an address.
//!
//! ```
//! use webhooks::sender::guard::{Guard, Refused};
//!
//! let url = "http://example.com/hook".parse()?;
//! assert_eq!(Guard::default().check(&url), Err(Refused::Http));
//! # Ok::<(), url::ParseError>(())
//! ```

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::LazyLock,
    time::Duration,
};

use hickory_resolver::{
    Resolver, ResolverBuilder, TokioResolver,
    config::{ResolveHosts, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};
use tracing::warn;
use url::{Host, Url};

/// The most addresses of one name.
const MAX_ADDRESSES: usize = 16;
/// How long one name server may take for one question. Each is asked twice.
const NAME_SERVER: Duration = Duration::from_secs(1);
/// How long the DNS answer that a name has no address is cached.
const NO_SUCH_NAME: Duration = Duration::from_secs(5);

/// What is allowed. By default only https, to public addresses.
#[derive(Debug, Clone, Copy)]
pub struct Guard {
    /// Plain `http://` too.
    pub http: bool,
    /// This machine: 127.0.0.0/8 and ::1.
    pub loopback: bool,
    /// The networks of RFC 1918, 100.64.0.0/10 and fc00::/7.
    pub private: bool,
    /// Where the sender itself listens. Otherwise an endpoint could make it publish to itself.
    pub own: Option<SocketAddr>,
    /// How names are resolved: by the system, except in tests.
    pub lookup: Lookup,
}

/// Resolves a name and a port.
pub type Lookup = fn(&str, u16) -> Addresses<'_>;
/// The addresses of a name, once they are resolved.
pub type Addresses<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// Reads `/etc/hosts`, then asks the name servers of `/etc/resolv.conf`. The system's resolver is not used: it
/// blocks a thread while a name server is silent. A few such names would stop the lookups of all endpoints.
fn system(name: &str, port: u16) -> Addresses<'_> {
    static RESOLVER: LazyLock<TokioResolver> = LazyLock::new(|| {
        let builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            warn!(%error, "no name servers are known: only names in the hosts file resolve");
            asking(ResolverConfig::default())
        });
        resolver(builder)
    });
    resolve(&RESOLVER, name, port)
}

/// Resolves a name with this resolver.
pub(super) fn resolve<'a>(resolver: &'a TokioResolver, name: &'a str, port: u16) -> Addresses<'a> {
    Box::pin(async move {
        let found = resolver.lookup_ip(name).await.map_err(io::Error::other)?;
        Ok(found.iter().map(|ip| (ip, port).into()).collect())
    })
}

/// A resolver that asks these name servers.
pub(super) fn asking(config: ResolverConfig) -> ResolverBuilder<TokioRuntimeProvider> {
    Resolver::builder_with_config(config, TokioRuntimeProvider::default())
}

/// A resolver with this file's limits.
pub(super) fn resolver(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> TokioResolver {
    let options = builder.options_mut();
    options.timeout = NAME_SERVER;
    options.attempts = 2;
    options.negative_max_ttl = Some(NO_SUCH_NAME);
    options.use_hosts_file = ResolveHosts::Always;
    builder.build().expect("no option needs a file")
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            http: false,
            loopback: false,
            private: false,
            own: None,
            lookup: system,
        }
    }
}

impl Guard {
    /// Checks what the URL alone shows.
    ///
    /// # Errors
    /// For a scheme or an address that is not allowed, and for a user name, which would end up in logs.
    pub fn check(&self, url: &Url) -> Result<(), Refused> {
        match url.scheme() {
            "https" => {}
            "http" if self.http => {}
            "http" => return Err(Refused::Http),
            _ => return Err(Refused::Scheme),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::UserInfo);
        }
        let port = url.port_or_known_default().unwrap_or(443);
        match url.host() {
            Some(Host::Ipv4(ip)) => self.judge((ip, port).into()),
            Some(Host::Ipv6(ip)) => self.judge((ip, port).into()),
            Some(Host::Domain(name)) if is_localhost(name) => {
                self.judge((Ipv4Addr::LOCALHOST, port).into())
            }
            _ => Ok(()),
        }
    }

    /// The addresses to dial for `url`, in this order. One address that is not allowed makes the whole name
    /// suspect, so then there are none.
    ///
    /// # Errors
    /// A name that does not resolve, or an address that is not allowed.
    pub async fn resolve(&self, url: &Url) -> Result<Vec<SocketAddr>, Unresolved> {
        let port = url.port_or_known_default().unwrap_or(443);
        let addresses: Vec<SocketAddr> = match url.host() {
            Some(Host::Ipv4(ip)) => vec![(ip, port).into()],
            Some(Host::Ipv6(ip)) => vec![(ip, port).into()],
            Some(Host::Domain(name)) => (self.lookup)(name, port).await?,
            None => Vec::new(),
        };
        if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
            let count = format!("{} addresses", addresses.len());
            return Err(Unresolved::Dns(io::Error::other(count)));
        }
        let is_name = matches!(url.host(), Some(Host::Domain(_)));
        for address in &addresses {
            self.judge(*address).map_err(|refused| match refused {
                // A stranger must not learn what a name means inside this network.
                Refused::Address(..) if is_name => Refused::Name,
                refused => refused,
            })?;
        }
        Ok(addresses)
    }

    fn judge(&self, address: SocketAddr) -> Result<(), Refused> {
        if self.own.is_some_and(|own| is_own(own, address)) {
            return Err(Refused::Own(address));
        }
        let ip = address.ip();
        let allowed = match reach(ip) {
            Reach::Public => true,
            Reach::Loopback => self.loopback,
            Reach::Private => self.private,
            Reach::Never => false,
        };
        if allowed {
            Ok(())
        } else {
            Err(Refused::Address(ip, reach(ip)))
        }
    }
}

/// RFC 6761 §6.3: always this machine.
fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether a listener at `own` accepts connections to `address`. A listener at 0.0.0.0 accepts them at every
/// address of this machine. Binding a socket shows whether an address is one of these.
fn is_own(own: SocketAddr, address: SocketAddr) -> bool {
    let [ip, own_ip] = [address, own].map(|address| address.ip().to_canonical());
    own.port() == address.port()
        && (own_ip == ip || own_ip.is_unspecified() && UdpSocket::bind((ip, 0)).is_ok())
}

/// How far an address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// This machine.
    Loopback,
    /// Link-local (cloud metadata), multicast, documentation, tunnels and what is unassigned.
    Never,
    /// Private networks.
    Private,
    /// The internet.
    Public,
}

fn reach(ip: IpAddr) -> Reach {
    match ip {
        IpAddr::V4(ip) => reach_v4(ip),
        IpAddr::V6(ip) => reach_v6(ip),
    }
}

/// Follows IANA's registry of special addresses (RFC 6890). All others are public. Services that hand out a
/// cloud machine's credentials are never called, even if their address is in a public or private network.
fn reach_v4(ip: Ipv4Addr) -> Reach {
    match ip.octets() {
        [100, 100, 100, 200] | [168, 63, 129, 16] => Reach::Never, // Alibaba, Azure
        [127, ..] => Reach::Loopback,
        [10, ..] | [192, 168, ..] | [172, 16..=31, ..] | [100, 64..=127, ..] => Reach::Private,
        [0, ..] | [169, 254, ..] | [224..=255, ..] => Reach::Never,
        [192, 0, 0 | 2, _] | [192, 88, 99, _] => Reach::Never,
        [198, 18..=19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => Reach::Never,
        _ => Reach::Public,
    }
}

/// Only 2000::/3 is public, without its special parts. An IPv4 address in the form of an IPv6 one
/// is judged as itself.
fn reach_v6(ip: Ipv6Addr) -> Reach {
    if let Some(embedded) = ip.to_ipv4_mapped() {
        return reach_v4(embedded);
    }
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Loopback,
        // NAT64 (RFC 6052): the network turns it into the IPv4 address.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            reach_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        // The metadata services of AWS, Oracle, Scaleway, Akamai and Google.
        [0xfd00, 0xec2 | 0xc1 | 0x42 | 0xa9fe, ..] | [0xfd20, 0xce, ..] => Reach::Never,
        [0xfc00..=0xfdff, ..] => Reach::Private,
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x2002, ..] => Reach::Never,
        [0x3fff, 0..=0xfff, ..] => Reach::Never,
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Never,
    }
}

/// A target that is not allowed. The text names the flag that would allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It resolves to this address.
    #[error("{} is {}", .0, described(*.1))]
    Address(IpAddr, Reach),
    /// Plain http.
    #[error("plain http is not allowed (--allow-http)")]
    Http,
    /// The name resolves to an address that is not allowed.
    #[error(
        "the name resolves to an address that is not allowed (--allow-loopback, --allow-private)"
    )]
    Name,
    /// The address at which this sender listens.
    #[error("{0} is this sender itself")]
    Own(SocketAddr),
    /// Neither http nor https.
    #[error("the scheme is neither https nor http")]
    Scheme,
    /// `https://user@host/`.
    #[error("the URL carries a user name or password")]
    UserInfo,
}

fn described(reach: Reach) -> &'static str {
    match reach {
        Reach::Loopback => "this machine (--allow-loopback)",
        Reach::Private => "a private address (--allow-private)",
        Reach::Never | Reach::Public => "not a public address",
    }
}

/// Why there is no address to dial.
#[derive(Debug, thiserror::Error)]
pub enum Unresolved {
    /// The name has no address now; it may have one later.
    #[error("the name does not resolve: {0}")]
    Dns(#[from] io::Error),
    /// It has an address that is not allowed.
    #[error(transparent)]
    Refused(#[from] Refused),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for (ip, expected) in [
            ("1.1.1.1", Reach::Public),
            ("172.32.0.1", Reach::Public),
            ("100.128.0.1", Reach::Public),
            ("2606:4700::1111", Reach::Public),
            ("2001:4860::8888", Reach::Public),
            ("64:ff9b::101:101", Reach::Public),
            ("127.255.255.254", Reach::Loopback),
            ("::1", Reach::Loopback),
            ("::ffff:127.0.0.1", Reach::Loopback),
            ("64:ff9b::7f00:1", Reach::Loopback),
            ("10.0.0.1", Reach::Private),
            ("172.16.0.1", Reach::Private),
            ("172.31.255.255", Reach::Private),
            ("192.168.1.1", Reach::Private),
            ("100.64.0.1", Reach::Private),
            ("::ffff:10.0.0.1", Reach::Private),
            ("fd00::1", Reach::Private),
            ("fd00:ec2::254", Reach::Never),
            ("fd00:ec2::23", Reach::Never),
            ("fd20:ce::254", Reach::Never),
            ("fd00:42::42", Reach::Never),
            ("fd00:a9fe:a9fe::1", Reach::Never),
            ("100.100.100.200", Reach::Never),
            ("::ffff:100.100.100.200", Reach::Never),
            ("64:ff9b::6464:64c8", Reach::Never),
            ("100.100.100.201", Reach::Private),
            ("168.63.129.16", Reach::Never),
            ("168.63.129.17", Reach::Public),
            ("0.0.0.0", Reach::Never),
            ("169.254.169.254", Reach::Never),
            ("::ffff:169.254.169.254", Reach::Never),
            ("64:ff9b::a9fe:a9fe", Reach::Never),
            ("192.0.0.1", Reach::Never),
            ("192.0.2.1", Reach::Never),
            ("192.88.99.1", Reach::Never),
            ("198.19.0.1", Reach::Never),
            ("198.51.100.1", Reach::Never),
            ("203.0.113.1", Reach::Never),
            ("224.0.0.1", Reach::Never),
            ("255.255.255.255", Reach::Never),
            ("::", Reach::Never),
            ("::127.0.0.1", Reach::Never),
            ("64:ff9b:1::1", Reach::Never),
            ("fe80::1", Reach::Never),
            ("fec0::1", Reach::Never),
            ("ff02::1", Reach::Never),
            ("2001::1", Reach::Never),
            ("2001:db8::1", Reach::Never),
            ("2002:7f00:1::", Reach::Never),
            ("3fff::1", Reach::Never),
        ] {
            assert_eq!(reach(ip.parse().unwrap()), expected, "{ip}");
        }
    }

    #[test]
    fn each_kind_of_target_has_its_flag() {
        let strict = Guard::default();
        let loopback = Guard {
            loopback: true,
            ..strict
        };
        let private = Guard {
            private: true,
            ..strict
        };
        for (ip, allowed) in [
            ("127.0.0.1", [false, true, false]),
            ("10.1.2.3", [false, false, true]),
            ("169.254.169.254", [false, false, false]),
            ("1.1.1.1", [true, true, true]),
        ] {
            let address = SocketAddr::new(ip.parse().unwrap(), 443);
            let judged = [strict, loopback, private].map(|guard| guard.judge(address).is_ok());
            assert_eq!(judged, allowed, "{ip}");
        }
    }

    #[test]
    fn the_sender_does_not_call_itself() {
        let judge = |own: &str, address: &str| {
            let guard = Guard {
                loopback: true,
                own: Some(own.parse().unwrap()),
                ..Guard::default()
            };
            guard.judge(address.parse().unwrap())
        };
        for (own, address, refused) in [
            ("127.0.0.1:8003", "127.0.0.1:8003", true),
            ("127.0.0.1:8003", "[::ffff:127.0.0.1]:8003", true),
            ("[::ffff:127.0.0.1]:8003", "127.0.0.1:8003", true),
            ("[::ffff:127.0.0.1]:8003", "[::ffff:127.0.0.1]:8003", true),
            ("[::]:8003", "127.0.0.1:8003", true),
            ("127.0.0.1:8003", "127.0.0.1:8004", false),
            ("127.0.0.1:8003", "127.0.0.2:8003", false),
            ("0.0.0.0:8003", "127.0.0.1:8003", true),
            ("0.0.0.0:8003", "1.1.1.1:8003", false),
        ] {
            let judged = judge(own, address);
            assert_eq!(
                matches!(judged, Err(Refused::Own(_))),
                refused,
                "{own} {address}"
            );
        }
    }

    #[tokio::test]
    async fn one_address_that_is_not_allowed_makes_the_name_suspect() {
        fn mixed(_: &str, port: u16) -> Addresses<'_> {
            let ips = ["1.1.1.1", "169.254.169.254"].map(|ip| ip.parse::<IpAddr>().unwrap());
            Box::pin(async move { Ok(ips.map(|ip| (ip, port).into()).into()) })
        }
        let guard = Guard {
            lookup: mixed,
            ..Guard::default()
        };
        let url = Url::parse("https://name.example/").unwrap();
        let refused = guard.resolve(&url).await.unwrap_err().to_string();
        assert!(
            refused.contains("not allowed") && !refused.contains("169.254"),
            "{refused}"
        );
    }

    #[test]
    fn what_a_url_says_in_a_strange_way_is_judged_by_where_it_leads() {
        let guard = Guard {
            http: true,
            ..Guard::default()
        };
        for url in [
            "http://127.1/",
            "http://0x7f.1/",
            "http://2130706433/",
            "http://017700000001/",
            "http://[::1]/",
            "http://[::ffff:7f00:1]/",
            "http://localhost/",
            "http://localhost./",
            "http://LOCALHOST/",
            "http://app.localhost/",
        ] {
            let refused = guard.check(&Url::parse(url).unwrap()).unwrap_err();
            assert!(
                refused.to_string().ends_with("(--allow-loopback)"),
                "{url}: {refused}"
            );
        }
        let name = Url::parse("http://localhost.example/").unwrap();
        assert_eq!(guard.check(&name), Ok(()));
    }

    #[test]
    fn the_scheme_is_judged_before_anything_is_looked_up() {
        let check = |guard: Guard, url| guard.check(&Url::parse(url).unwrap());
        let http = Guard {
            http: true,
            ..Guard::default()
        };
        assert_eq!(check(http, "http://a/"), Ok(()));
        assert_eq!(check(Guard::default(), "http://a/"), Err(Refused::Http));
        assert_eq!(check(Guard::default(), "https://a/"), Ok(()));
        assert_eq!(check(http, "ftp://a/"), Err(Refused::Scheme));
        assert_eq!(check(http, "http://u:p@a/"), Err(Refused::UserInfo));
    }
}
