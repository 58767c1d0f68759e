// The live page: reads the API, follows its events, and shows only the rows that are in sight.
'use strict';

const $ = (id) => document.getElementById(id);

const state = {
  status: null,        // the last answer of api/v1/status
  nodes: [],           // of the whole cluster, in the API's order
  isStale: false,
  readAt: 0,           // when the nodes were read, by this page's clock
  answers: true,       // whether the daemon does
  items: [],           // hosts and nodes that the filter lets through
  tops: [],            // the place of each item, and at the end the height of all
  active: null,        // key of the row that the keyboard is on
  words: [],
  onlyTrouble: false,
  lastEvent: null,
  samples: [],         // look-ups a second
};

// Asking

const isLooking = () => document.visibilityState === 'visible';
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function ask(path, options = {}) {
  const token = sessionStorage.getItem('token');
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  const reply = await fetch(path, { ...options, headers, cache: 'no-store' });
  if (reply.status === 401) askForToken();
  if (!reply.ok) throw new Error(`${path}: ${reply.status}`);
  return reply;
}

function askForToken() {
  if ($('login').hidden) {
    $('login').hidden = false;
    $('token').focus();
  }
}

$('login').addEventListener('submit', (event) => {
  event.preventDefault();
  sessionStorage.setItem('token', $('token').value.trim());
  $('token').value = '';
  $('login').hidden = true;
  readStatus();
  readNodes();
});

async function readStatus() {
  try {
    const reply = await ask('api/v1/status', { signal: AbortSignal.timeout(5000) });
    const before = state.status;
    state.status = await reply.json();
    const wasAway = !state.answers;
    state.answers = true;
    countLookups(before, state.status);
    if (wasAway || (before && before.registry.away === null) !== (state.status.registry.away === null)) readNodes();
  } catch (error) {
    state.answers = false;
  }
  showStatus();
}

let reading = false, readAgain = false, readTime = 0;

// Reads all nodes, once for however many changes come meanwhile.
async function readNodes() {
  readAgain = true;
  if (reading) return;
  reading = true;
  while (readAgain) {
    readAgain = false;
    try {
      const started = performance.now();
      const nodes = [];
      let after = '', page;
      do {
        // At first only what fits the screen, so that there is something to see; then so much as is parsed
        // within a frame.
        const limit = state.readAt === 0 ? 100 : 2000;
        const reply = await ask(`api/v1/nodes?limit=${limit}${after}`, { signal: AbortSignal.timeout(20000) });
        page = await reply.json();
        nodes.push(...page.nodes);
        if (state.readAt === 0 && page.next !== null) takeNodes([...nodes], page.is_stale);
        after = `&after=${encodeURIComponent(page.next)}`;
      } while (page.next !== null);
      readTime = performance.now() - started;
      takeNodes(nodes, page.is_stale);
    } catch (error) {
      break;  // The next status or event leads here again.
    }
    await pause(Math.max(200, 4 * readTime));
  }
  reading = false;
}

// Follows the events, over all ends of the stream.
async function follow() {
  for (;;) {
    const stop = new AbortController();
    const hide = () => { if (!isLooking()) stop.abort(); };
    try {
      if (!isLooking()) throw new Error('nobody looks');
      document.addEventListener('visibilitychange', hide);
      const headers = state.lastEvent === null ? {} : { 'Last-Event-ID': state.lastEvent };
      const reply = await ask('api/v1/events', { headers, signal: stop.signal });
      readNodes();
      const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = '';
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        const events = text.split('\n\n');
        text = events.pop();
        events.forEach(takeEvent);
      }
    } catch (error) {
      // Gone, hidden, or in need of a token.
    }
    document.removeEventListener('visibilitychange', hide);
    if (isLooking()) readStatus();
    await pause(1000);
  }
}

function takeEvent(text) {
  const event = Object.fromEntries(text.split('\n').map((line) => {
    const at = line.indexOf(': ');
    return [line.slice(0, at), line.slice(at + 2)];
  }));
  if (!event.event) return;
  state.lastEvent = event.id;
  showEvent(event.event, JSON.parse(event.data));
  document.dispatchEvent(new Event('happened'));
  readNodes();
  if (event.event.startsWith('store_') || event.event === 'conflict') readStatus();
}

// Nodes

const isTrouble = (node) => node.state !== 'published';
const keyOf = (node) => `${node.node} ${node.daemon}`;

function takeNodes(nodes, isStale) {
  for (const node of nodes) {
    const { name, host, port, advertised_port: other, addresses, daemon, type, state: standing } = node;
    node.text = `${name}@${host} ${port} ${other} ${addresses.join(' ')} ${daemon} ${type} ${standing}`.toLowerCase();
    node.key = keyOf(node);
  }
  state.nodes = nodes;
  state.isStale = isStale;
  state.readAt = performance.now();
  arrange();
  showStatus();
  if (performance.getEntriesByName('nodes-shown').length === 0) performance.mark('nodes-shown');
}

// Chooses what is listed, and gives each item its place.
function arrange() {
  const style = getComputedStyle(document.documentElement);
  const rowHeight = parseFloat(style.getPropertyValue('--row'));
  const headHeight = parseFloat(style.getPropertyValue('--head'));
  const items = [], tops = [];
  let top = 0, host = null, shown = 0;
  const put = (item, height) => { items.push(item); tops.push(top); top += height; };
  for (const node of state.nodes) {
    if (state.onlyTrouble && !isTrouble(node)) continue;
    if (!state.words.every((word) => node.text.includes(word))) continue;
    if (host === null || host.name !== node.host) {
      if (host) items[items.length - 1].isLast = true;
      host = { name: node.host, key: `host ${node.host}`, addresses: node.addresses, daemons: new Set(), count: 0 };
      put(host, headHeight);
    }
    host.count += 1;
    host.daemons.add(node.daemon);
    shown += 1;
    put({ node, key: node.key, isFirst: host.count === 1, number: shown }, rowHeight);
  }
  if (host) items[items.length - 1].isLast = true;
  tops.push(top);
  Object.assign(state, { items, tops });
  $('list').style.height = `${top}px`;
  const isAll = shown === state.nodes.length;
  $('shown').textContent = isAll ? '' : `${count(shown)} of ${count(state.nodes.length)}`;
  $('empty').hidden = shown > 0;
  $('empty').textContent = state.nodes.length > 0 ? 'No node matches.' :
    state.readAt > 0 ? 'No node is registered. Start one: erl -sname hello' : 'Reading the nodes.';
  const trouble = state.nodes.filter(isTrouble).length;
  $('trouble').hidden = trouble === 0 && !state.onlyTrouble;
  $('trouble').textContent = `${count(trouble)} in trouble`;
  show();
}

const shownItems = new Map();

// Makes elements for the items in sight, and for no others.
function show() {
  const { items, tops } = state;
  const list = $('list');
  const above = -list.getBoundingClientRect().top;
  const from = Math.max(0, find(tops, above) - 8);
  const to = Math.min(items.length, find(tops, above + innerHeight) + 9);
  const wanted = new Map();
  for (let at = from; at < to; at += 1) wanted.set(items[at].key, at);
  const active = state.active === null ? -1 : items.findIndex((item) => item.key === state.active);
  if (active >= 0) wanted.set(state.active, active);
  for (const [key, element] of shownItems) {
    if (!wanted.has(key)) {
      element.remove();
      shownItems.delete(key);
    }
  }
  for (const [key, at] of wanted) {
    let element = shownItems.get(key);
    if (!element) {
      element = items[at].node ? rowElement() : hostElement();
      shownItems.set(key, element);
      element.at = -1;
    }
    fill(element, items[at]);
    element.style.transform = `translateY(${tops[at]}px)`;
    if (element.at !== at || !element.isConnected) {
      element.at = at;
      place(list, element);
    }
  }
  if (active < 0) {
    const first = list.querySelector('.row');
    if (first) first.tabIndex = 0;
  }
}

// In the order of the items, which is the order for readers and the keyboard.
function place(list, element) {
  const next = [...list.children].find((other) => other !== element && other.at > element.at) ?? null;
  if (element.nextSibling !== next || !element.isConnected) list.insertBefore(element, next);
}

// The last item whose place is not below `y`.
function find(tops, y) {
  let low = 0, high = Math.max(0, tops.length - 2);
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (tops[middle] <= y) low = middle; else high = middle - 1;
  }
  return low;
}

function make(tag, kind, ...children) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  element.append(...children);
  return element;
}

function hostElement() {
  const element = make('li', 'host', make('h2'), make('span'), make('span', 'count'));
  return element;
}

function rowElement() {
  const lease = make('span', 'lease', make('i'));
  const held = make('span', 'held', make('span', 'daemon'), lease);
  const row = make('button', 'row', make('span', 'name'), make('span', 'where'), make('span', 'alive'), held);
  row.type = 'button';
  row.tabIndex = -1;
  const element = make('li', '', row);
  row.addEventListener('click', () => openDetails(element.item.node));
  row.addEventListener('focus', () => { if (state.active !== element.item.key) { state.active = element.item.key; show(); } });
  return element;
}

function fill(element, item) {
  const before = element.item;
  element.item = item;
  if (!item.node) {
    const [name, about, number] = element.children;
    setText(name, item.name);
    setText(about, [...item.addresses, ...(item.daemons.size > 1 ? [`${item.daemons.size} daemons`] : [])].join(', '));
    setText(number, item.count === 1 ? '1 node' : `${count(item.count)} nodes`);
    return;
  }
  element.className = `${item.isFirst ? 'first ' : ''}${item.isLast ? 'last' : ''}`;
  const row = element.firstChild;
  row.tabIndex = item.key === state.active ? 0 : -1;
  const { node } = item;
  if (before && before.node === node) return;
  const [name, where, , held] = row.children;
  const badges = [];
  if (isTrouble(node)) badges.push(make('span', `badge ${node.state}`, node.state));
  if (node.type !== 'normal') badges.push(make('span', 'badge', ({ hidden: 'hidden', c: 'C' })[node.type] ?? `type ${node.type}`));
  name.replaceChildren(node.name, ...badges);
  const ports = node.port === node.advertised_port ? node.port : `${node.port} → ${node.advertised_port}`;
  const [address] = node.addresses;
  setText(where, address === undefined ? `port ${ports}` : `${address.includes(':') ? `[${address}]` : address}:${ports}`);
  setText(held.firstChild, node.daemon);
  row.title = node.holder ? `Also held by ${node.holder}` : node.reason ?? '';
  showAge(element);
  showLease(held.lastChild, node);
}

function showAge(element) {
  const { node } = element.item;
  setText(element.firstChild.children[2], age(node.alive_seconds + sinceRead() / 1000));
}

function showLease(bar, node) {
  const whole = state.status?.registry.lease_ttl_ms ?? 0;
  bar.hidden = node.lease_left_ms === null || whole === 0;
  bar.animation?.cancel();
  if (bar.hidden) return;
  const left = Math.max(0, node.lease_left_ms - sinceRead());
  const part = Math.min(1, left / whole);
  bar.classList.toggle('low', part < 1 / 3);
  bar.title = `${Math.round(left / 1000)} s of the lease left`;
  const scale = (part) => ({ transform: `scaleX(${part})` });
  bar.animation = bar.firstChild.animate([scale(part), scale(0)], { duration: Math.max(1, left), fill: 'forwards' });
}

// Status

function showStatus() {
  const { status, answers } = state;
  const pill = (kind, text) => { $('health').dataset.state = kind; setText($('health-text'), text); };
  const says = [];
  if (!answers) {
    pill('bad', 'No answer');
    if ($('login').hidden) says.push('The daemon does not answer. What is shown was last known; this page goes on by itself.');
  } else if (status && status.registry.away) {
    pill('warn', 'Store away');
    says.push(`The store has been away for ${age(status.registry.away.seconds)}: ${status.registry.away.reason}`);
    says.push('Nodes of this host are served as ever; those of other hosts are shown as last known.');
  } else if (status) {
    pill(status.reasons.length ? 'warn' : 'good', status.reasons.length ? 'Degraded' : 'All well');
    const reasons = [...status.reasons, ...status.notes];
    says.push(...reasons.slice(0, 5));
    if (reasons.length > 5) says.push(`And ${reasons.length - 5} more.`);
  }
  const text = says.join('\n');
  $('banner').hidden = text === '';
  $('banner').dataset.state = answers ? 'warn' : 'bad';
  setText($('banner'), text);
  document.body.toggleAttribute('data-stale', !answers);
  if (!status) return;
  const { registry } = status;
  setText($('cluster'), registry.is_shared ? status.cluster : status.host);
  setText($('nodes-count'), count(state.nodes.length));
  setText($('hosts-count'), count(new Set(state.nodes.map((node) => node.host)).size));
  const store = registry.backend.replace(/^(\w+):\/\/(?:.*@)?([^/?]*).*$/, '$1 at $2');
  setText($('registry'), registry.is_shared ? store : 'In this daemon alone');
  const up = age(status.uptime_ms / 1000);
  const dns = status.dns_zones.length ? `, DNS for ${status.dns_zones.join(' ').replace(/\.(?= |$)/g, '')}` : '';
  setText($('about'), `repmd ${status.version}, ${status.daemon}, port ${status.port}${dns}, up for ${up}`);
  document.title = `${count(state.nodes.length)} nodes, ${registry.is_shared ? status.cluster : status.host} – repmd`;
}

function countLookups(before, now) {
  const isSameRun = before && before.started_at === now.started_at && before.uptime_ms < now.uptime_ms;
  if (!isSameRun) return;
  const rate = (now.lookups - before.lookups) * 1000 / (now.uptime_ms - before.uptime_ms);
  state.samples = [...state.samples, rate].slice(-40);
  setText($('rate'), rate > 0 && rate < 10 ? rate.toFixed(1) : count(Math.round(rate)));
  const highest = Math.max(1, ...state.samples);
  const points = state.samples.map((sample, at) =>
    `${(60 * (40 - state.samples.length + at) / 39).toFixed(1)},${(19 - 18 * sample / highest).toFixed(1)}`);
  $('spark').firstElementChild.setAttribute('d', points.length > 1 ? `M${points.join('L')}` : '');
}

const WORDS = {
  registered: () => 'registered',
  released: () => 'left',
  expired: () => 'is gone: its daemon did not renew it',
  refused: (data) => `was refused: ${data.holder} holds the name`,
  conflict: (data) => `is also held by ${data.holder}`,
  link_lost: (data) => `has lost its link to ${data.peer}`,
  link_back: (data) => `is linked with ${data.peer} again`,
  mesh_partial: (data) => `has no link to ${data.peer}: the mesh is partial`,
  store_lost: (data) => `The store is away: ${data.reason}`,
  store_back: (data) => data.away_seconds === undefined ? 'The store is back' : `The store is back after ${age(data.away_seconds)}`,
  missed: () => 'Some events were missed',
};

const eventWords = (kind, data) => [...(data.node ? [make('b', '', data.node), ' '] : []), WORDS[kind]?.(data) ?? kind];

function showEvent(kind, data) {
  const time = make('time', '', new Date(data.at).toLocaleTimeString());
  time.dateTime = data.at;
  $('events').prepend(make('li', '', time, make('span', '', ...eventWords(kind, data))));
  while ($('events').children.length > 50) $('events').lastChild.remove();
}

// Details

function openDetails(node) {
  const at = node.addresses.length ? node.addresses.join(', ') : 'not known beyond its host';
  const fields = [
    ['State', node.state + (node.holder ? `: also held by ${node.holder}` : '') + (node.reason ? `: ${node.reason}` : '')],
    ['Port', node.port === node.advertised_port ? node.port : `${node.port}; for other hosts ${node.advertised_port}`],
    ['Addresses', at],
    ['Daemon', node.daemon + (node.is_here ? ', this one' : '')],
    ['Registered', new Date(node.registered_at).toLocaleString()],
    ['Alive for', age(node.alive_seconds + sinceRead() / 1000)],
    ['Type', node.type],
    ['Versions', `${node.lowest_version} to ${node.highest_version}`],
    ['Creation', node.creation],
  ];
  if (node.lease_left_ms !== null) fields.push(['Lease left', `${(node.lease_left_ms / 1000).toFixed(1)} s when it was last read`]);
  setText($('details-title'), node.node);
  $('fields').replaceChildren(...fields.flatMap(([name, value]) => [make('dt', '', name), make('dd', '', String(value))]));
  $('details').showModal();
}

$('details').addEventListener('click', (event) => { if (event.target === $('details')) $('details').close(); });

// Keyboard, filter, scrolling

$('filter').addEventListener('input', () => {
  state.words = $('filter').value.toLowerCase().split(/\s+/).filter((word) => word);
  state.active = null;
  arrange();
});

$('trouble').addEventListener('click', () => {
  state.onlyTrouble = !state.onlyTrouble;
  $('trouble').setAttribute('aria-pressed', state.onlyTrouble);
  state.active = null;
  arrange();
});

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $('details').open) return;
  const { target } = event;
  if (event.key === '/' && target.tagName !== 'INPUT') {
    event.preventDefault();
    $('filter').focus();
  } else if (event.key === 'Escape' && target === $('filter')) {
    $('filter').value = '';
    $('filter').dispatchEvent(new Event('input'));
  } else if (target === $('filter') ? event.key === 'ArrowDown' : target.classList.contains('row')) {
    const page = Math.max(1, Math.floor(innerHeight / target.offsetHeight) - 2);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (!(event.key in steps)) return;
    event.preventDefault();
    moveTo(target, steps[event.key]);
  }
});

// Moves the focus by so many rows, or from the filter to the first one.
function moveTo(target, step) {
  const { items } = state;
  const rows = items.map((item, at) => at).filter((at) => items[at].node);
  if (rows.length === 0) return;
  const here = target === $('filter') ? -1 : rows.indexOf(items.findIndex((item) => item.key === state.active));
  const next = here + step;
  if (next < 0 && step === -1) return $('filter').focus();
  const at = rows[Math.min(rows.length - 1, Math.max(0, next))];
  state.active = items[at].key;
  // Into sight first, and not under the toolbar.
  const top = $('list').getBoundingClientRect().top + state.tops[at];
  const room = $('toolbar').offsetHeight + 8, height = state.tops[at + 1] - state.tops[at];
  if (top < room) scrollBy(0, top - room - height);
  else if (top + height > innerHeight) scrollBy(0, top + 2 * height - innerHeight);
  show();
  shownItems.get(state.active).firstChild.focus({ preventScroll: true });
}

let isDrawn = false;
function showSoon() {
  if (isDrawn) return;
  isDrawn = true;
  requestAnimationFrame(() => { isDrawn = false; show(); });
}
addEventListener('scroll', showSoon, { passive: true });
addEventListener('resize', () => arrange());

// Words and numbers

const sinceRead = () => performance.now() - state.readAt;
const { format: count } = new Intl.NumberFormat('en');

function setText(element, text) {
  const words = String(text);
  if (element.textContent !== words) element.textContent = words;
}

function age(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days) return hours && days < 10 ? `${days} d ${hours} h` : `${days} d`;
  if (hours) return minutes ? `${hours} h ${minutes} min` : `${hours} h`;
  return minutes ? `${minutes} min` : `${whole} s`;
}

// Time

setInterval(() => {
  if (isLooking() && state.answers) shownItems.forEach((element) => { if (element.item.node) showAge(element); });
}, 1000);

async function keepReading() {
  for (let turn = 1; ; turn += 1) {
    await pause(2000);
    if (!isLooking()) continue;
    await readStatus();
    // For the leases, and for what no event tells.
    const each = state.status?.registry.is_shared ? 3 : 15;
    if (turn % each === 0 && state.answers) readNodes();
  }
}

document.addEventListener('visibilitychange', () => { if (isLooking()) { readStatus(); readNodes(); } });
readStatus().then(() => readNodes());
follow();
keepReading();
