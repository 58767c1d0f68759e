// The links between nodes: a picture of them, or of hosts where there are many, and both as tables.
'use strict';

const PICTURE_MAX = 60;   // nodes; more are a matrix of hosts
const HOSTS_MAX = 100;    // of the matrix
const ROWS = 250;         // of the table, and so many more when they are asked for
const SVG = $('spark').namespaceURI;

let links = null, tabled = null, rowsMax = ROWS, isDrawing = false, drawn = '';

function draw(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const isShown = () => !$('mesh').hidden;

async function readLinks() {
  if (isDrawing || !isShown()) return;
  isDrawing = true;
  try {
    const reply = await ask('api/v1/links', { signal: AbortSignal.timeout(20000) });
    links = await reply.json();
    await pause(0);  // Reading is one thing and drawing another: whoever types comes between.
    showLinks();
  } catch (error) {
    if ($('login').hidden) setText($('mesh-says'), 'The daemon does not say which links there are.');
  }
  isDrawing = false;
}

// Words

function roundTrip(link) {
  if (link.rtt_us === null) return null;
  const ms = link.rtt_us / 1000;
  return `${ms < 10 ? ms.toFixed(2) : Math.round(ms)} ms`;
}

function fromOf(link) {
  if (link.from !== null) return link.from;
  return link.one_of.length ? `one of ${link.one_of.join(', ')}` : `somebody at ${link.from_address}`;
}

function standingOf(link) {
  if (link.is_unanswered) return 'no answer';
  return link.is_one_ended ? 'seen by one end alone' : 'up';
}

function describeLink(link) {
  const words = [`${fromOf(link)} – ${link.to}: ${standingOf(link)}`];
  if (link.rtt_us !== null) words.push(`round trip ${roundTrip(link)}`);
  if (link.retransmits !== null) words.push(`${count(link.retransmits)} sent again`);
  return words.join(', ');
}

const describeMissing = (pair) => `${pair.node} – ${pair.peer}: missing${pair.is_confirmed ? '' : ' since the last look'}`;

const isHidden = (node) => node.is_hidden === true || node.type !== 'normal';
const isC = (node) => node.type === 'c';

function describeNode(node) {
  const words = [`${node.node}: ${node.links === 1 ? '1 link' : `${count(node.links)} links`}`];
  if (isHidden(node)) words.push(isC(node) ? 'a C node' : 'a hidden node');
  if (node.unseen !== null) words.push(node.unseen);
  return words.join(', ');
}

function summary() {
  const missing = links.missing.filter((pair) => pair.is_confirmed).length;
  const words = [links.links_total === 1 ? '1 link' : `${count(links.links_total)} links`];
  if (links.missing_total > 0) words.push(missing ? `${count(links.missing_total)} missing` : 'some of them away since the last look');
  const unseen = links.nodes.filter((node) => node.unseen !== null).length;
  if (unseen) words.push(`${count(unseen)} ${unseen === 1 ? 'node is' : 'nodes are'} seen from the other ends alone`);
  if (links.trouble !== null) words.push(`this daemon sees no connections: ${links.trouble}`);
  return `${words.join('; ')}.`;
}

// The picture

// A place for each node on a circle, with room between hosts.
function placeNodes(nodes) {
  const hosts = new Set(nodes.map((node) => node.host)).size;
  const steps = nodes.length + (hosts > 1 ? hosts * 1.2 : 0);
  const places = new Map(), arcs = [];
  let step = 0, last = null;
  for (const node of nodes) {
    if (node.host !== last && last !== null && hosts > 1) step += 1.2;
    const angle = (step + 0.5) / steps * 2 * Math.PI - Math.PI / 2;
    if (node.host !== last) arcs.push({ host: node.host, start: angle, end: angle });
    arcs[arcs.length - 1].end = angle;
    places.set(node.node, { node, angle, x: 200 * Math.cos(angle), y: 200 * Math.sin(angle) });
    last = node.host;
    step += 1;
  }
  return { places, arcs };
}

const at = (wide, angle, high = wide) => [(wide * Math.cos(angle)).toFixed(1), (high * Math.sin(angle)).toFixed(1)];

function label(text, wide, high, angle, kind) {
  const [x, y] = at(wide, angle, high);
  const side = Math.cos(angle);
  const anchor = Math.abs(side) < 0.25 ? 'middle' : side > 0 ? 'start' : 'end';
  const short = text.length > 22 ? `${text.slice(0, 21)}…` : text;
  return draw('text', { x, y, class: kind, 'text-anchor': anchor, 'dominant-baseline': 'middle' }, short);
}

function lineBetween(one, other, kind, says) {
  // Bent towards the middle, so that links within a host are seen.
  const path = `M${one.x.toFixed(1)} ${one.y.toFixed(1)}Q${((one.x + other.x) * 0.22).toFixed(1)} ${((one.y + other.y) * 0.22).toFixed(1)} ${other.x.toFixed(1)} ${other.y.toFixed(1)}`;
  const group = draw('g', { class: `link ${kind}`, 'data-says': says, 'data-one': one.node.node, 'data-other': other.node.node });
  group.append(draw('path', { d: path, class: 'touch' }), draw('path', { d: path, class: 'line' }));
  return group;
}

function drawPicture() {
  const { places, arcs } = placeNodes(links.nodes);
  const crowded = links.nodes.length > 30;
  const nameOf = (node) => node.node.slice(0, node.node.lastIndexOf('@'));
  const longest = (texts) => Math.min(22, Math.max(0, ...texts.map((text) => text.length)));
  // Names of nodes are outside of the circle, and those of hosts beyond them.
  const beyond = 240 + (crowded ? 0 : 9 * longest(links.nodes.map(nameOf)));
  const half = Math.ceil(beyond + 10 * longest(arcs.map((arc) => arc.host)) + 8);
  const svg = draw('svg', { viewBox: `${-half} -275 ${2 * half} 550`, role: 'img', 'aria-label': `${summary()} The same is in the table below.` });
  for (const arc of arcs) {
    const pad = 0.05;
    const [x1, y1] = at(200, arc.start - pad), [x2, y2] = at(200, arc.end + pad);
    const isLong = arc.end - arc.start + 2 * pad > Math.PI ? 1 : 0;
    svg.append(draw('path', { d: `M${x1} ${y1}A200 200 0 ${isLong} 1 ${x2} ${y2}`, class: 'arc' }));
    svg.append(label(arc.host, beyond, 256, (arc.start + arc.end) / 2, 'host-name'));
  }
  const lines = [];
  for (const link of links.links) {
    const [one, other] = [places.get(link.from), places.get(link.to)];
    if (!one || !other || one === other) continue;
    const kind = link.is_unanswered ? 'silent' : link.is_one_ended ? 'one-ended' : '';
    lines.push(lineBetween(one, other, kind, describeLink(link)));
  }
  for (const pair of links.missing) {
    const [one, other] = [places.get(pair.node), places.get(pair.peer)];
    if (one && other) lines.push(lineBetween(one, other, pair.is_confirmed ? 'missing' : 'missing new', describeMissing(pair)));
  }
  svg.append(...lines);
  for (const { node, angle, x, y } of places.values()) {
    const kind = `node${isC(node) ? ' c-node' : isHidden(node) ? ' hidden-node' : ''}${node.unseen === null ? '' : ' unseen'}`;
    const group = draw('g', { class: kind, 'data-says': describeNode(node), 'data-node': node.node });
    group.append(isC(node) ? draw('path', { d: `M${x} ${y - 8}L${x + 8} ${y + 6}L${x - 8} ${y + 6}Z` })
      : isHidden(node)
      ? draw('rect', { x: x - 6, y: y - 6, width: 12, height: 12, transform: `rotate(45 ${x} ${y})` })
      : draw('circle', { cx: x, cy: y, r: 7 }));
    if (!crowded) group.append(label(nameOf(node), 216, 222, angle, 'node-name'));
    svg.append(group);
  }
  return svg;
}

// What the pointer is on, in words, and what belongs to it in bold.
$('picture').addEventListener('pointerover', (event) => pointAt(event.target.closest('[data-says]')));
$('picture').addEventListener('pointerleave', () => pointAt(null));

function pointAt(element) {
  setText($('mesh-tip'), element?.dataset.says ?? 'Point at a line or a node.');
  const node = element?.dataset.node;
  for (const link of $('picture').querySelectorAll('.link')) {
    link.classList.toggle('pointed', link === element || (node !== undefined && (link.dataset.one === node || link.dataset.other === node)));
  }
}

// The matrix

function drawMatrix() {
  const pairs = new Map(links.hosts.flatMap((pair) => [[`${pair.host} ${pair.peer}`, pair], [`${pair.peer} ${pair.host}`, pair]]));
  const names = [...new Set(links.nodes.map((node) => node.host))];
  const trouble = (name) => links.hosts.some((pair) => pair.missing > 0 && (pair.host === name || pair.peer === name));
  const hosts = names.length > HOSTS_MAX ? [...names.filter(trouble), ...names.filter((name) => !trouble(name))].slice(0, HOSTS_MAX) : names;
  const head = make('tr', '', make('td', ''), ...hosts.map((host) => {
    const cell = make('th', '', make('span', '', host));
    cell.scope = 'col';
    return cell;
  }));
  const rows = hosts.map((host) => {
    const name = make('th', '', host);
    name.scope = 'row';
    return make('tr', '', name, ...hosts.map((peer) => {
      const pair = pairs.get(`${host} ${peer}`);
      if (!pair) return make('td', 'none', '·');
      const cell = make('td', pair.missing ? 'missing' : '', pair.missing ? `${pair.links} −${pair.missing}` : String(pair.links));
      const words = [`${host} – ${peer}: ${pair.links} links`];
      if (pair.missing) words.push(`${pair.missing} missing`);
      if (pair.rtt_us !== null) words.push(`longest round trip ${roundTrip(pair)}`);
      words.push(`${count(pair.retransmits)} sent again`);
      cell.dataset.says = words.join(', ');
      return cell;
    }));
  });
  const caption = make('caption', 'hidden', 'Links by pairs of hosts; after a minus those that are missing');
  return make('table', 'matrix', caption, make('thead', '', head), make('tbody', '', ...rows));
}

// The table

function drawTable() {
  const row = (...cells) => make('tr', '', ...cells.map((cell) => make('td', '', cell)));
  const { missing } = links;
  const rows = missing.slice(0, rowsMax).map((pair) => {
    const line = row(pair.node, pair.peer, '–', '–', pair.is_confirmed ? 'missing' : 'missing since the last look');
    line.className = 'missing';
    return line;
  });
  rows.push(...links.links.slice(0, rowsMax - rows.length).map((link) =>
    row(fromOf(link), link.to, roundTrip(link) ?? '–', link.retransmits === null ? '–' : count(link.retransmits), standingOf(link))));
  const left = missing.length + links.links.length - rows.length;
  $('mesh-rows').replaceChildren(...rows);
  $('mesh-more').hidden = left === 0;
  setText($('mesh-more'), `Show ${count(Math.min(ROWS, left))} more of ${count(left)}`);
}

$('mesh-more').addEventListener('click', () => {
  rowsMax += ROWS;
  drawTable();
});

// Where the table is closed, nobody sees its rows.
function showTable() {
  if (links === null || links === tabled || !$('mesh-table').open) return;
  tabled = links;
  drawTable();
}

$('mesh-table').addEventListener('toggle', showTable);

function showLinks() {
  setText($('mesh-says'), summary());
  showTable();
  const isMatrix = links.nodes.length > PICTURE_MAX;
  // What does not change is not drawn again: the pointer may be on it.
  const now = JSON.stringify(isMatrix ? links.hosts : [links.nodes, links.missing, links.links.map(describeLink)]);
  if (now === drawn) return;
  drawn = now;
  $('picture').classList.toggle('wide', isMatrix);
  $('picture').replaceChildren(isMatrix ? drawMatrix() : drawPicture());
  $('legend').hidden = isMatrix;
  pointAt(null);
  if (performance.getEntriesByName('links-shown').length === 0) performance.mark('links-shown');
}

// Which of the two is shown

for (const [button, isMesh] of [['show-nodes', false], ['show-links', true]]) {
  $(button).addEventListener('click', () => {
    $('mesh').hidden = !isMesh;
    for (const id of ['list', 'filter', 'shown']) $(id).classList.toggle('away', isMesh);
    $('empty').classList.toggle('away', isMesh);
    $('show-nodes').setAttribute('aria-pressed', !isMesh);
    $('show-links').setAttribute('aria-pressed', isMesh);
    readLinks();
  });
}

setInterval(() => { if (isLooking()) readLinks(); }, 2000);
