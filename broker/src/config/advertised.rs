//! Which address Kafka clients are told to connect to, by where they come from.
//!
//! ```text
//! kafka.example.com:9092                                  the same for everybody
//! 10.0.0.0/8=broker.internal:9092,*=kafka.example.com:19092   first rule that fits
//! ```

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::problem::Problem;

/// Rules in the order in which they are tried; without any, clients are told the address that they
/// connected to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Advertised(Vec<Rule>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// Everybody where there is none.
    from: Option<Network>,
    host: String,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

const REMEDY: &str = "write HOST:PORT, or NETWORK=HOST:PORT for each network and *=HOST:PORT for \
                      everybody else, like 10.0.0.0/8=broker.internal:9092,*=kafka.example.com:9092";
const RULES_MAX: usize = 64;
const HOST_MAX: usize = 253;

impl Advertised {
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let refuse = |problem: String| Problem { problem, remedy: REMEDY.into() };
        let mut rules = Vec::new();
        for part in text.split(',') {
            let (from, address) = match part.trim().split_once('=') {
                None | Some(("*", _)) => (None, part.trim().trim_start_matches("*=")),
                Some((network, address)) => {
                    let parsed = Network::parse(network);
                    let parsed =
                        parsed.ok_or_else(|| refuse(format!("{network:?} is no network")))?;
                    (Some(parsed), address)
                }
            };
            let parsed = address.rsplit_once(':').and_then(|(host, port)| {
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let is_host = !host.is_empty()
                    && host.len() <= HOST_MAX
                    && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:".contains(c));
                Some((host.to_owned(), port.parse().ok().filter(|port| *port != 0)?))
                    .filter(|_| is_host)
            });
            let Some((host, port)) = parsed else {
                return Err(refuse(format!("{address:?} is not HOST:PORT")));
            };
            if rules.last().is_some_and(|rule: &Rule| rule.from.is_none()) {
                return Err(refuse("has rules behind the one for everybody".into()));
            }
            rules.push(Rule { from, host, port });
        }
        match rules.len() {
            0..=RULES_MAX => Ok(Self(rules)),
            many => Err(refuse(format!("has {many} rules, at most {RULES_MAX} are read"))),
        }
    }

    /// Host and port for a client at `peer` that connected to `local`.
    pub fn of(&self, peer: IpAddr, local: SocketAddr) -> (String, u16) {
        let peer = peer.to_canonical();
        let fits = |rule: &&Rule| rule.from.is_none_or(|network| network.holds(peer));
        match self.0.iter().find(fits) {
            Some(rule) => (rule.host.clone(), rule.port),
            None => (local.ip().to_canonical().to_string(), local.port()),
        }
    }
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Self { address, bits })
    }

    fn holds(&self, peer: IpAddr) -> bool {
        let (ours, theirs, all) = match (self.address, peer) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                (u128::from(ours.to_bits()), u128::from(theirs.to_bits()), 32)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (ours.to_bits(), theirs.to_bits(), 128),
            _ => return false,
        };
        let other = all - u32::from(self.bits);
        ours.checked_shr(other) == theirs.checked_shr(other)
    }
}

impl fmt::Display for Advertised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, rule) in self.0.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { "," })?;
            match rule.from {
                Some(network) => write!(f, "{}/{}=", network.address, network.bits)?,
                None if at > 0 => f.write_str("*=")?,
                None => {}
            }
            match rule.host.contains(':') {
                true => write!(f, "[{}]:{}", rule.host, rule.port)?,
                false => write!(f, "{}:{}", rule.host, rule.port)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(rules: &str, peer: &str) -> (String, u16) {
        let local = "127.0.0.1:9092".parse().unwrap();
        Advertised::parse(rules).unwrap().of(peer.parse().unwrap(), local)
    }

    #[test]
    fn the_first_rule_that_fits_says_it() {
        let rules = "10.0.0.0/8=in:1,2001:db8::/32=[2001:db8::9]:2,*=out.example:3";
        assert_eq!(told(rules, "10.7.7.7"), ("in".into(), 1));
        assert_eq!(told(rules, "::ffff:10.7.7.7"), ("in".into(), 1));
        assert_eq!(told(rules, "2001:db8::1"), ("2001:db8::9".into(), 2));
        assert_eq!(told(rules, "11.0.0.1"), ("out.example".into(), 3));
        assert_eq!(told("h:9", "1.2.3.4"), ("h".into(), 9));
        assert_eq!(told("0.0.0.0/0=h:9", "::1"), ("127.0.0.1".into(), 9092));
        let parsed = Advertised::parse(rules).unwrap();
        assert_eq!(Advertised::parse(&parsed.to_string()).unwrap(), parsed);
    }

    #[test]
    fn without_rules_it_is_where_the_client_connected() {
        let local = "[::ffff:127.0.0.1]:9092".parse().unwrap();
        let told = Advertised::default().of("127.0.0.1".parse().unwrap(), local);
        assert_eq!(told, ("127.0.0.1".into(), 9092));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for wrong in
            ["", "h", "h:", "h:0", "h:70000", ":9", "10.0.0.0/33=h:1", "x=h:1", "h:1,h:2", "a b:1"]
        {
            assert!(Advertised::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
