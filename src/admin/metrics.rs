//! What is measured: one table of names, meanings and sources.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::api::App;
use crate::links::WithHost;
use crate::metrics::{Counter, Timings};
use crate::relay::{Refused, Relay};
use crate::telemetry;

const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One metric. `docs/metrics.md` has a row for each.
#[derive(Debug)]
pub struct Metric {
    /// As it is asked for: with its unit, and `_total` for counters.
    pub name: &'static str,
    /// The name of its label; empty: it has none.
    pub label: &'static str,
    /// One sentence.
    pub help: &'static str,
    read: Read,
}

/// A value, and what its metric's label says of it.
type Samples<T> = Vec<(&'static str, T)>;

/// Where the values come from.
#[derive(Clone, Copy, Debug)]
enum Read {
    Counter(fn(&super::State) -> Samples<u64>),
    Seconds(fn(&super::State) -> Samples<f64>),
    Gauge(fn(&super::State) -> Samples<f64>),
    /// Of hosts, which are not known before.
    Hosts(fn(&super::State) -> Vec<(String, f64)>),
    Timings(fn(&super::State) -> Samples<&Timings>),
}

/// The one value of a metric without a label.
fn one<T>(value: T) -> Samples<T> {
    vec![("", value)]
}

/// What the relay counts; zero where there is none.
fn relay(state: &super::State, read: impl Fn(&Relay) -> u64) -> u64 {
    state.daemon.relay().map_or(0, read)
}

/// Other hosts that a metric tells apart; the rest is one.
const HOSTS_MAX: usize = 100;

/// What this daemon's host has with each other host; those with the least are put together.
fn by_host(
    state: &super::State,
    read: fn(&WithHost) -> f64,
    join: fn(f64, f64) -> f64,
) -> Vec<(String, f64)> {
    let hosts = state.about.links.by_host();
    let mut samples: Vec<_> = hosts.iter().map(|with| (with.host.clone(), read(with))).collect();
    if HOSTS_MAX < samples.len() {
        let rest = samples.split_off(HOSTS_MAX).into_iter().map(|(_, value)| value);
        samples.push(("others".to_owned(), rest.fold(0.0, join)));
    }
    if samples.is_empty() {
        samples.push((state.daemon.registry().instance().host.as_str().to_owned(), 0.0));
    }
    samples
}

/// Every metric.
pub const TABLE: &[Metric] = &[
    Metric {
        name: "repmd_build_info",
        label: "version",
        help: "The version that runs; always 1.",
        read: Read::Gauge(|_| vec![(env!("CARGO_PKG_VERSION"), 1.0)]),
    },
    Metric {
        name: "repmd_connections_total",
        label: "",
        help: "Connections that were accepted on the wire.",
        read: Read::Counter(|state| one(state.daemon.stats().connections.get())),
    },
    Metric {
        name: "repmd_lookups_total",
        label: "answer",
        help: "Look-ups (PORT_PLEASE2), by where the answer was: here, elsewhere in the registry, or none.",
        read: Read::Counter(|state| {
            let stats = state.daemon.stats();
            vec![
                ("here", stats.found_here.get()),
                ("elsewhere", stats.found_elsewhere.get()),
                ("none", stats.not_found.get()),
            ]
        }),
    },
    Metric {
        name: "repmd_registrations_total",
        label: "result",
        help: "Nodes that asked to be registered (ALIVE2): granted; refused, because the name is taken here or \
               by another daemon of the host; or turned away, because no descriptor is left.",
        read: Read::Counter(|state| {
            let stats = state.daemon.stats();
            vec![
                ("granted", stats.granted.get()),
                ("taken_here", stats.refused_here.get()),
                ("taken_elsewhere", stats.refused_elsewhere.get()),
                ("turned_away", stats.turned_away.get()),
            ]
        }),
    },
    Metric {
        name: "repmd_dns_questions_total",
        label: "type",
        help: "Questions by DNS, by the type of record that was asked for.",
        read: Read::Counter(|state| state.about.dns.questions().collect()),
    },
    Metric {
        name: "repmd_dns_answers_total",
        label: "code",
        help: "Answers by DNS, by their code.",
        read: Read::Counter(|state| state.about.dns.answers().collect()),
    },
    Metric {
        name: "repmd_dns_truncated_total",
        label: "",
        help: "Answers by DNS that were cut, because they did not fit a datagram.",
        read: Read::Counter(|state| one(state.about.dns.truncated.get())),
    },
    Metric {
        name: "repmd_dns_forwarded_total",
        label: "",
        help: "Questions by DNS that other name servers were asked.",
        read: Read::Counter(|state| one(state.about.dns.forwarded.get())),
    },
    Metric {
        name: "repmd_dns_limited_total",
        label: "",
        help: "Questions by DNS that were dropped or sent to TCP, because their network asks too much.",
        read: Read::Counter(|state| one(state.about.dns.limited.get())),
    },
    Metric {
        name: "repmd_unregistrations_total",
        label: "",
        help: "Nodes whose registration with this daemon ended.",
        read: Read::Counter(|state| one(state.daemon.stats().unregistered.get())),
    },
    Metric {
        name: "repmd_other_requests_total",
        label: "request",
        help: "Requests that are neither look-ups nor registrations, by kind; malformed: no client should send \
               them, not_allowed: their sender may not make them; too_fast: it made too many.",
        read: Read::Counter(|state| {
            let stats = state.daemon.stats();
            vec![
                ("names", stats.names.get()),
                ("dump", stats.dump.get()),
                ("stop", stats.stop.get()),
                ("kill", stats.kill.get()),
                ("malformed", stats.malformed.get()),
                ("not_allowed", stats.not_allowed.get()),
                ("too_fast", stats.too_fast.get()),
            ]
        }),
    },
    Metric {
        name: "repmd_nodes",
        label: "",
        help: "Nodes that are registered with this daemon.",
        read: Read::Gauge(|state| one(state.daemon.nodes_count() as f64)),
    },
    Metric {
        name: "repmd_nodes_not_published",
        label: "state",
        help: "Nodes of this daemon that its shared registry does not show: not published yet, in conflict with \
               another daemon of the host, or refused by the store.",
        read: Read::Gauge(|state| {
            let counts = state.daemon.registry().lease_counts();
            vec![
                ("unpublished", counts.unpublished as f64),
                ("conflict", counts.conflict as f64),
                ("failed", counts.failed as f64),
            ]
        }),
    },
    Metric {
        name: "repmd_connections_waiting",
        label: "for",
        help: "Connections that wait for their peer: for the rest of a request, or for a reply to be read.",
        read: Read::Gauge(|state| {
            let (request, reader) = state.daemon.crowd_counts();
            vec![("request", request as f64), ("reader", reader as f64)]
        }),
    },
    Metric {
        name: "repmd_connections_crowded_out_total",
        label: "",
        help: "Connections that waited for their peer and were ended to make room for others.",
        read: Read::Counter(|state| one(state.daemon.crowded_out())),
    },
    Metric {
        name: "repmd_accept_pauses_total",
        label: "",
        help: "Times that accepting paused, because no descriptor was left.",
        read: Read::Counter(|state| one(state.daemon.stats().pauses.get())),
    },
    Metric {
        name: "repmd_log_lines_lost_total",
        label: "log",
        help: "Log lines that were lost, because nobody took them in time or they could not be written: of the log \
               itself, and of the audit log.",
        read: Read::Counter(|_| {
            let [log, audit] = telemetry::lost_lines();
            vec![("log", log), ("audit", audit)]
        }),
    },
    Metric {
        name: "repmd_ready",
        label: "",
        help: "Whether all is well, as /readyz has it: 1 or 0.",
        read: Read::Gauge(|state| {
            let is_ready = state.daemon.registry().readiness().borrow().complaints.is_empty();
            one(f64::from(u8::from(is_ready)))
        }),
    },
    Metric {
        name: "repmd_registry_up",
        label: "",
        help: "Whether the registry answers: 1 or 0. A registry of this process alone always does.",
        read: Read::Gauge(|state| one(f64::from(u8::from(state.daemon.registry().away().is_none())))),
    },
    Metric {
        name: "repmd_registry_answers_total",
        label: "from",
        help: "Questions for names that other daemons hold, by what answered: memory while it is fresh, the \
               store, or old memory while the store is away.",
        read: Read::Counter(|state| {
            let stats = state.daemon.registry().stats();
            vec![
                ("memory", stats.remembered.get()),
                ("store", stats.loaded.get()),
                ("stale_memory", stats.stale.get()),
            ]
        }),
    },
    Metric {
        name: "repmd_registry_questions_left_out_total",
        label: "",
        help: "Questions that the store was not asked, because too many of their asker's, or in all, were under way; \
               they are answered as while it is away.",
        read: Read::Counter(|state| one(state.daemon.registry().questions_left_out())),
    },
    Metric {
        name: "repmd_registry_ambiguous_total",
        label: "",
        help: "Times that the store was asked for a name without a host, and several hosts have it.",
        read: Read::Counter(|state| one(state.daemon.registry().stats().ambiguous.get())),
    },
    Metric {
        name: "repmd_registry_unreadable_total",
        label: "",
        help: "Times that an entry of the registry could not be read, and was left out of an answer.",
        read: Read::Counter(|state| one(state.daemon.registry().unreadable_entries())),
    },
    Metric {
        name: "repmd_registry_call_seconds",
        label: "verb",
        help: "How long calls of the registry took, whatever came of them.",
        read: Read::Timings(|state| {
            let calls = state.daemon.registry().stats().calls();
            calls.map(|(verb, timings, _)| (verb, timings)).collect()
        }),
    },
    Metric {
        name: "repmd_registry_calls_failed_total",
        label: "verb",
        help: "Calls of the registry that failed or ran out of time; that a name is taken counts too.",
        read: Read::Counter(|state| {
            state.daemon.registry().stats().calls().map(|(verb, _, failed)| (verb, failed)).collect()
        }),
    },
    Metric {
        name: "repmd_links",
        label: "host",
        help: "Links that are seen between nodes of this daemon's host and those of each host, its own too.",
        read: Read::Hosts(|state| by_host(state, |with| with.links as f64, |one, other| one + other)),
    },
    Metric {
        name: "repmd_links_missing",
        label: "host",
        help: "Pairs of the same nodes that have no link, while most others of their mesh have one; twice in a row.",
        read: Read::Hosts(|state| by_host(state, |with| with.missing as f64, |one, other| one + other)),
    },
    Metric {
        name: "repmd_links_round_trip_seconds",
        label: "host",
        help: "The longest smoothed round trip of these links; 0 where the kernel does not tell it.",
        read: Read::Hosts(|state| {
            by_host(state, |with| with.rtt.unwrap_or_default().as_secs_f64(), f64::max)
        }),
    },
    Metric {
        name: "repmd_links_look_cpu_seconds_total",
        label: "",
        help: "Processor time of the looks at this machine's connections.",
        read: Read::Seconds(|state| one(state.about.links.cpu().as_secs_f64())),
    },
    Metric {
        name: "repmd_relay_listeners",
        label: "",
        help: "Nodes that the relay listens for.",
        read: Read::Gauge(|state| one(relay(state, |relay| relay.listeners() as u64) as f64)),
    },
    Metric {
        name: "repmd_relay_connections_open",
        label: "",
        help: "Connections that are relayed now.",
        read: Read::Gauge(|state| one(relay(state, |relay| relay.connections() as u64) as f64)),
    },
    Metric {
        name: "repmd_relay_connections_total",
        label: "",
        help: "Connections that were relayed to a node.",
        read: Read::Counter(|state| one(relay(state, |relay| relay.stats().connections.get()))),
    },
    Metric {
        name: "repmd_relay_bytes_total",
        label: "direction",
        help: "Bytes that were relayed, from those who dialled to nodes and back.",
        read: Read::Counter(|state| {
            vec![
                ("to_node", relay(state, |relay| relay.stats().bytes_to_nodes.get())),
                ("from_node", relay(state, |relay| relay.stats().bytes_from_nodes.get())),
            ]
        }),
    },
    Metric {
        name: "repmd_relay_refused_total",
        label: "reason",
        help: "Look-ups and connections that were not relayed: the node is in no network that may be dialled, \
               too many connections, no listener left, a peer that may not look up, a node that is gone or \
               unreachable.",
        read: Read::Counter(|state| {
            let count =
                |read: fn(&Refused) -> &Counter| relay(state, |relay| read(&relay.stats().refused).get());
            vec![
                ("network", count(|refused| &refused.network)),
                ("connections", count(|refused| &refused.connections)),
                ("listeners", count(|refused| &refused.listeners)),
                ("peer", count(|refused| &refused.peer)),
                ("gone", count(|refused| &refused.gone)),
                ("unreachable", count(|refused| &refused.unreachable)),
            ]
        }),
    },
    Metric {
        name: "process_start_time_seconds",
        label: "",
        help: "When the daemon started, in seconds since 1970.",
        read: Read::Gauge(|state| {
            let since_epoch = state.started_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            one(since_epoch.as_secs_f64())
        }),
    },
    Metric {
        name: "process_cpu_seconds_total",
        label: "",
        help: "Processor time of all threads.",
        read: Read::Seconds(|_| one(process::cpu_seconds())),
    },
    Metric {
        name: "process_resident_memory_bytes",
        label: "",
        help: "Resident memory.",
        read: Read::Gauge(|_| one(process::resident_bytes())),
    },
    Metric {
        name: "process_open_fds",
        label: "",
        help: "Open file descriptors.",
        read: Read::Gauge(|_| one(process::open_files())),
    },
    Metric {
        name: "process_max_fds",
        label: "",
        help: "How many descriptors may be open.",
        read: Read::Gauge(|_| one(process::open_files_max())),
    },
];

/// Answers `/metrics`.
pub(super) async fn answer(State(state): App) -> Response {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Source(state)));
    let mut page = String::with_capacity(16 << 10);
    text::encode(&mut page, &registry).expect("a string takes all text");
    ([(CONTENT_TYPE, FORMAT)], page).into_response()
}

#[derive(Debug)]
struct Source(Arc<super::State>);

impl Collector for Source {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in TABLE {
            let (name, unit) = metric.family();
            let encoder = encoder.encode_descriptor(name, metric.help, unit.as_ref(), metric.kind())?;
            metric.encode(encoder, &self.0)?;
        }
        Ok(())
    }
}

impl Metric {
    /// Its name without what the format adds by itself, and the unit that it adds.
    fn family(&self) -> (&'static str, Option<Unit>) {
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        match (name.strip_suffix("_seconds"), name.strip_suffix("_bytes")) {
            (Some(name), _) => (name, Some(Unit::Seconds)),
            (_, Some(name)) => (name, Some(Unit::Bytes)),
            (None, None) => (name, None),
        }
    }

    /// What it is, as the format calls it.
    #[must_use]
    pub fn kind(&self) -> MetricType {
        match self.read {
            Read::Counter(_) | Read::Seconds(_) => MetricType::Counter,
            Read::Gauge(_) | Read::Hosts(_) => MetricType::Gauge,
            Read::Timings(_) => MetricType::Histogram,
        }
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>, state: &super::State) -> fmt::Result {
        match self.read {
            Read::Counter(read) => read(state).into_iter().try_for_each(|(label, value)| {
                self.labelled(&mut encoder, label, |encoder| {
                    encoder.encode_counter::<NoLabelSet, u64, u64>(&value, None)
                })
            }),
            Read::Seconds(read) => read(state).into_iter().try_for_each(|(label, value)| {
                self.labelled(&mut encoder, label, |encoder| {
                    encoder.encode_counter::<NoLabelSet, f64, u64>(&value, None)
                })
            }),
            Read::Gauge(read) => read(state).into_iter().try_for_each(|(label, value)| {
                self.labelled(&mut encoder, label, |encoder| encoder.encode_gauge(&value))
            }),
            Read::Hosts(read) => read(state).into_iter().try_for_each(|(host, value)| {
                encoder.encode_family(&[(self.label, host.as_str())])?.encode_gauge(&value)
            }),
            Read::Timings(read) => read(state).into_iter().try_for_each(|(label, timings)| {
                let classes: Vec<_> = timings.classes().collect();
                let count = classes.iter().map(|(_, count)| count).sum();
                let sum = timings.sum().as_secs_f64();
                self.labelled(&mut encoder, label, |encoder| {
                    encoder.encode_histogram::<NoLabelSet>(sum, count, &classes, None)
                })
            }),
        }
    }

    /// Encodes one value under its label, if the metric has one.
    fn labelled(
        &self,
        encoder: &mut MetricEncoder<'_>,
        label: &'static str,
        encode: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        if self.label.is_empty() {
            return encode(encoder);
        }
        encode(&mut encoder.encode_family(&[(self.label, label)])?)
    }
}

/// What the kernel says of this process. Zero where it says nothing.
mod process {
    use std::fs::{metadata, read_dir, read_to_string};

    use rustix::param::{clock_ticks_per_second, page_size};
    use rustix::process::{Resource, getrlimit};

    /// A number of `/proc/self/stat`, counted from the state, which is the third field.
    fn stat(field: usize) -> f64 {
        let text = read_to_string("/proc/self/stat").unwrap_or_default();
        let after_name = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
        after_name.split(' ').nth(field - 3).and_then(|number| number.parse().ok()).unwrap_or(0.0)
    }

    pub(super) fn cpu_seconds() -> f64 {
        (stat(14) + stat(15)) / clock_ticks_per_second() as f64
    }

    pub(super) fn resident_bytes() -> f64 {
        stat(24) * page_size() as f64
    }

    pub(super) fn open_files() -> f64 {
        // Kernels since 6.2 know how many there are; counting takes long where there are many.
        let known = metadata("/proc/self/fd").map_or(0, |folder| folder.len());
        if 0 < known {
            return known as f64;
        }
        // One of them reads this folder.
        read_dir("/proc/self/fd").map_or(0, |files| files.count().saturating_sub(1)) as f64
    }

    pub(super) fn open_files_max() -> f64 {
        getrlimit(Resource::Nofile).current.map_or(f64::INFINITY, |limit| limit as f64)
    }
}
