//! Names of other zones, which other name servers are asked for.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Query, ResponseCode};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::{Resolver, TokioResolver};

use super::reply::Reply;

/// Answers of others that are remembered at most.
const CACHE_MAX: u64 = 4096;

/// How long one of them may take.
const TIME: Duration = Duration::from_secs(2);

/// How often one is asked.
const ATTEMPTS: usize = 2;

pub(super) struct Forwarder(TokioResolver);

impl Forwarder {
    pub(super) fn new(servers: &[SocketAddr]) -> io::Result<Self> {
        let server = |address: &SocketAddr| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = address.port();
                connection
            });
            NameServerConfig::new(address.ip(), true, connections.into())
        };
        let config = ResolverConfig::from_name_servers(servers.iter().map(server).collect());
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.use_hosts_file = ResolveHosts::Never;
        options.preserve_intermediates = true;
        options.cache_size = CACHE_MAX;
        options.timeout = TIME;
        options.attempts = ATTEMPTS;
        Ok(Self(builder.build().map_err(io::Error::other)?))
    }

    pub(super) async fn answer(&self, query: &Query) -> Reply {
        let mut reply = Reply::code(ResponseCode::NoError);
        match self.0.lookup(query.name.clone(), query.query_type).await {
            Ok(found) => reply.answers = found.answers().to_vec(),
            Err(NetError::Dns(DnsError::NoRecordsFound(absent))) => {
                reply.code = absent.response_code;
                reply.authorities.extend(absent.soa.map(|soa| soa.into_record_of_rdata()));
            }
            Err(NetError::Dns(DnsError::ResponseCode(code))) => reply.code = code,
            Err(_) => reply.code = ResponseCode::ServFail,
        }
        reply
    }
}
