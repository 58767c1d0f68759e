// The last hour, a minute a column, as the daemon remembers it: what happened, and when.
'use strict';

const MINUTES = 60;
const LINES_MAX = 12;     // of the minute that is pointed at

// What is counted in each row of the strip, with its words for one and for many; the first kinds are the worse ones.
const LANES = [
  { name: 'Joined', kinds: { registered: ['joined', 'joined'] } },
  { name: 'Left', kinds: { expired: ['gone without a word', 'gone without a word'], released: ['left', 'left'] } },
  { name: 'Trouble', kinds: {
    conflict: ['name held twice', 'names held twice'], refused: ['refused', 'refused'], store_lost: ['store away', 'times the store away'],
    missed: ['gap in the events', 'gaps in the events'], store_back: ['store back', 'times the store back'] } },
  { name: 'Links', kinds: { link_lost: ['link lost', 'links lost'], mesh_partial: ['link missing', 'links missing'], link_back: ['link back', 'links back'] } },
];
const GOOD = new Set(['store_back', 'link_back']);

const hour = {
  minutes: new Map(),   // by their begin
  since: 0,             // when the daemon began to take note
  offset: 0,            // of the daemon's clock to this one
  readAt: -Infinity,
  isRead: false,
  isOld: true,          // something has happened since
  chosen: null,         // the minute that the keyboard or a finger is on
  pointed: null,        // the minute that the pointer is on
  drawn: '',
};

const daemonNow = () => Date.now() + hour.offset;
const minuteOf = (time) => Math.floor(time / 60000) * 60000;
const firstMinute = () => minuteOf(daemonNow()) - (MINUTES - 1) * 60000;
const clock = (time) => new Date(time).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
const countOf = (minute, kind) => minute?.counts.get(kind) ?? 0;
const countIn = (minute, lane) => Object.keys(lane.kinds).reduce((sum, kind) => sum + countOf(minute, kind), 0);

async function readHour() {
  hour.isOld = false;
  hour.readAt = performance.now();
  try {
    const reply = await ask('api/v1/history', { signal: AbortSignal.timeout(20000) });
    const { now, since, minutes } = await reply.json();
    hour.minutes = new Map(minutes.map(({ at, counts, events }) =>
      [Date.parse(at), { events, counts: new Map(counts.map((one) => [one.event, one.count])) }]));
    hour.since = Date.parse(since);
    hour.offset = Date.parse(now) - Date.now();
    hour.isRead = true;
  } catch (error) {
    hour.isOld = true;
  }
}

// Words

function laneWords(minute, lane) {
  return Object.entries(lane.kinds).map(([kind, words]) => [countOf(minute, kind), words])
    .filter(([number]) => number > 0).map(([number, words]) => `${count(number)} ${words[number === 1 ? 0 : 1]}`);
}

function minuteWords(begin) {
  const words = LANES.flatMap((lane) => laneWords(hour.minutes.get(begin), lane));
  if (words.length) return words.join(', ');
  return begin + 60000 <= hour.since ? 'not known: the daemon had not started' : 'nothing';
}

function eventLines(minute, most) {
  const lines = minute.events.slice(0, most).map((event) => {
    const time = make('time', '', new Date(event.at).toLocaleTimeString());
    return make('li', '', time, make('span', '', ...eventWords(event.event, event)));
  });
  const left = [...minute.counts.values()].reduce((sum, number) => sum + number, 0) - lines.length;
  if (left > 0) lines.push(make('li', '', `And ${count(left)} more.`));
  return lines;
}

// The strip

function drawHour() {
  const first = firstMinute();
  const now = JSON.stringify([first, hour.since, [...hour.minutes].map(([begin, minute]) => [begin, [...minute.counts]])]);
  if (now === hour.drawn) return;
  hour.drawn = now;
  const begins = Array.from({ length: MINUTES }, (_, at) => first + at * 60000);
  const rect = (x, y, width, height, kind) => draw('rect', { x, y, width, height, class: kind });
  const rects = [];
  const unknown = Math.min(MINUTES, Math.max(0, Math.floor((hour.since - first) / 60000)));
  if (unknown > 0) rects.push(rect(0, 0, unknown, LANES.length, 'unknown'));
  rects.push(rect(0, 0, 1, LANES.length, 'chosen'));
  LANES.forEach((lane, row) => {
    const counts = begins.map((begin) => countIn(hour.minutes.get(begin), lane));
    const most = Math.max(4, ...counts);
    counts.forEach((number, at) => {
      if (number === 0) return;
      // A few are seen beside many.
      const height = 0.22 + 0.6 * Math.log(number) / Math.log(most);
      const minute = hour.minutes.get(begins[at]);
      const isGood = Object.keys(lane.kinds).every((kind) => GOOD.has(kind) || countOf(minute, kind) === 0);
      rects.push(rect(at + 0.12, row + 0.94 - height, 0.76, height, `bar ${lane.name.toLowerCase()}${isGood ? ' good' : ''}`));
    });
    setText($('lanes').children[row].lastElementChild, count(counts.reduce((sum, number) => sum + number, 0)));
  });
  $('bars').firstElementChild.replaceChildren(...rects);
  $('ticks').replaceChildren(...begins.flatMap((begin, at) => {
    if (begin / 60000 % 10 !== 0 || at < 2 || at > MINUTES - 3) return [];
    const tick = make('span', begin / 60000 % 20 === 0 ? '' : 'between', clock(begin));
    tick.style.left = `${(at / MINUTES * 100).toFixed(2)}%`;
    return [tick];
  }));
  setText($('hour-says'), unknown > 0 ? `Since ${clock(hour.since)}, when this daemon started.` : '');
  const rows = [...hour.minutes].filter(([begin]) => begin >= first).reverse().map(([begin, minute]) => make('tr', '',
    make('td', '', clock(begin)),
    ...LANES.map((lane) => make('td', '', laneWords(minute, lane).join(', ') || '–')),
    make('td', '', make('ol', 'lines', ...eventLines(minute, Infinity)))));
  $('hour-rows').replaceChildren(...rows);
  setText($('hour-none'), rows.length ? '' : 'Nothing has happened.');
}

// The minute that is pointed at, or else the one that was chosen.
function showMinute() {
  const first = firstMinute(), last = first + (MINUTES - 1) * 60000;
  const hasFocus = document.activeElement === $('bars');
  const chosen = Math.min(last, Math.max(first, hour.chosen ?? last));
  const slider = $('bars');
  slider.setAttribute('aria-valuenow', (chosen - last) / 60000);
  slider.setAttribute('aria-valuetext', `${clock(chosen)}: ${minuteWords(chosen)}`);
  const begin = hour.pointed ?? (hasFocus ? chosen : null);
  const mark = slider.querySelector('.chosen');
  if (mark) mark.setAttribute('x', begin === null ? -2 : (begin - first) / 60000);
  $('minute').hidden = begin === null;
  if (begin === null) return;
  const minute = hour.minutes.get(begin);
  const words = `${clock(begin)}: ${minuteWords(begin)}`;
  const key = `${words} ${minute?.events.length}`;
  if ($('minute').dataset.key === key) return;
  $('minute').dataset.key = key;
  $('minute').replaceChildren(make('p', '', words), make('ol', 'lines', ...(minute ? eventLines(minute, LINES_MAX) : [])));
}

function showHour() {
  drawHour();
  showMinute();
}

// Pointer and keyboard

function minuteAt(event) {
  const { left, width } = $('bars').getBoundingClientRect();
  const at = Math.floor((event.clientX - left) / width * MINUTES);
  return firstMinute() + Math.min(MINUTES - 1, Math.max(0, at)) * 60000;
}

$('bars').addEventListener('pointermove', (event) => { hour.pointed = minuteAt(event); showMinute(); });
$('bars').addEventListener('pointerleave', () => { hour.pointed = null; showMinute(); });
$('bars').addEventListener('pointerdown', (event) => { hour.chosen = minuteAt(event); $('bars').focus(); showMinute(); });
$('bars').addEventListener('focus', showMinute);
$('bars').addEventListener('blur', showMinute);

$('bars').addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const first = firstMinute(), last = first + (MINUTES - 1) * 60000;
  const chosen = Math.max(first, hour.chosen ?? last);
  const begins = [...hour.minutes.keys()];
  const to = {
    ArrowLeft: () => chosen - 60000, ArrowDown: () => chosen - 60000, ArrowRight: () => chosen + 60000, ArrowUp: () => chosen + 60000,
    Home: () => first, End: () => last,
    // The next minute in which something happened.
    PageDown: () => begins.filter((begin) => begin < chosen).pop() ?? first, PageUp: () => begins.find((begin) => begin > chosen) ?? last,
  }[event.key];
  if (event.key === 'Escape') return $('bars').blur();
  if (!to) return;
  event.preventDefault();
  hour.pointed = null;
  hour.chosen = Math.min(last, Math.max(first, to()));
  showMinute();
});

document.addEventListener('happened', () => { hour.isOld = true; });

async function keepHour() {
  for (;;) {
    if (isLooking()) {
      // Each event is in it; what none tells is the time.
      if (hour.isOld || performance.now() - hour.readAt > 30000) await readHour();
      if (hour.isRead) showHour();
    }
    await pause(1000);
  }
}

keepHour();
