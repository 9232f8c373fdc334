// The page of one migration. What it shows comes by events, and is only ever put in as text: names are chosen by others.
'use strict';

const $ = id => document.getElementById(id);

// el makes an element with attributes and children; a string becomes text.
function el(tag, attributes, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) e.setAttribute(name, value);
  }
  e.append(...children.filter(c => c !== null && c !== undefined && c !== ''));
  return e;
}

// --- Words

const known = v => v !== null && v !== undefined;
const count = n => Math.round(n).toLocaleString('en-US');

function bytes(n) {
  if (!known(n)) return 'not known';
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) { n /= 1024; i++; }
  return (i === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)) + ' ' + units[i];
}

function seconds(s) {
  if (!known(s)) return 'not known';
  if (s < 10) return s.toFixed(s < 1 ? 2 : 1) + ' s';
  if (s < 60) return Math.round(s) + ' s';
  const m = Math.floor(s / 60), h = Math.floor(m / 60), d = Math.floor(h / 24);
  if (h < 1) return m + ' min ' + Math.round(s % 60) + ' s';
  if (d < 1) return h + ' h ' + m % 60 + ' min';
  return d + ' d ' + h % 24 + ' h';
}

const time = t => new Date(t).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const moment = t => new Date(t).toLocaleString([], { dateStyle: 'medium', timeStyle: 'medium', hourCycle: 'h23' });
const stamp = t => new Date(t).toDateString() === new Date().toDateString() ? time(t) :
  new Date(t).toLocaleString([], { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
const ms = n => known(n) ? count(n) + ' ms' : '–';
const pages = (n, one, many) => count(n) + ' ' + (n === 1 ? one : many);

// rich makes code of what a text has in backquotes.
const rich = text => text.split('`').map((part, i) => part && (i % 2 ? el('code', null, part) : part)).filter(Boolean);

// --- What is shown of a frame

const order = ['prepared', 'copying', 'indexing', 'following', 'fenced', 'drained', 'switched', 'finished'];

function headline(f, s) {
  const interrupted = s.phase && !s.running && s.phase !== 'finished' && s.phase !== 'aborted';
  const phase = s.phase || 'not begun';
  $('key').textContent = f.key;
  const badge = $('phase'), text = phase + (interrupted ? ', interrupted' : '');
  if (badge.textContent !== text) {
    if (badge.textContent) $('said').textContent = 'The migration is now ' + text;
    badge.textContent = text;
  }
  badge.className = 'badge' + (interrupted || s.phase === 'aborted' ? ' bad' : s.phase === 'finished' || s.phase === 'switched' ? ' good' : '');
  document.title = f.key + ': ' + text + ' – walferry';
  $('summary').textContent = summary(f, s, interrupted);
}

function summary(f, s, interrupted) {
  if (!s.phase) return 'The target has no migration of this name yet.';
  if (interrupted) return 'No migrate is running: the same command resumes it. Until then the slot holds back WAL.';
  const left = s.copy.eta_seconds;
  switch (s.phase) {
    case 'copying': return 'Copying' + (known(left) ? ': about ' + seconds(left) + ' left.' : '.');
    case 'indexing': return 'The rows are copied; indexes and constraints are being built.';
    case 'following': return f.ready.ready ? 'It follows, and a cutover may be asked for.' : 'It follows. ' + (known(f.catch_up_seconds) ? 'It has caught up in about ' + seconds(f.catch_up_seconds) + '.' : '');
    case 'fenced': case 'drained': return 'The cutover is under way.';
    case 'switched': return 'The new server is the database; the old one follows it.';
    case 'finished': return s.cutover.finished_at ? 'The new server is the database.' : 'The copy is made.';
    case 'aborted': return 'The migration was given up; what the target has is unfit for use.';
  }
  return s.step || '';
}

function problems(f, s) {
  const list = [];
  if (f.problem) list.push('The target was not read since ' + (s ? time(f.at) : 'the beginning') + ': ' + f.problem);
  if (s && s.source.error) list.push('The source does not answer: ' + s.source.error);
  if (s && s.target.error) list.push('The target does not answer: ' + s.target.error);
  if (s && s.error) list.push('The last run has ended with an error: ' + s.error);
  if (s && s.way_back.reason && s.way_back.state !== 'off') list.push('The way back is ' + s.way_back.state + ': ' + s.way_back.reason + (s.way_back.do ? '. ' + s.way_back.do : ''));
  const box = $('problems'), text = list.join('\n');
  if (box.dataset.text === text) return; // it would be read aloud again
  box.dataset.text = text;
  box.replaceChildren(...list.map(t => el('p', { class: 'problem' }, ...rich(t))));
}

function phases(s, at) {
  const entered = s.phases, last = {}, first = {}, spent = {};
  entered.forEach((e, i) => {
    const from = new Date(e.entered_at), to = i + 1 < entered.length ? new Date(entered[i + 1].entered_at) : null;
    first[e.phase] ??= from;
    last[e.phase] = from;
    if (to) spent[e.phase] = (spent[e.phase] || 0) + (to - from) / 1000;
    else if (s.phase === e.phase && s.phase !== 'finished' && s.phase !== 'aborted') spent[e.phase] = (spent[e.phase] || 0) + Math.max(0, (new Date(at) - from) / 1000);
  });
  let shown = order.filter(p => p !== 'switched' || last.switched || s.way_back.mode !== 'off');
  if (s.phase === 'aborted') shown = shown.filter(p => last[p]).concat('aborted');
  const now = shown.indexOf(s.phase);
  $('phases').replaceChildren(...shown.map((p, i) => {
    const current = i === now, done = i < now || p === 'finished' && current;
    const times = [];
    if (last[p]) times.push(stamp(first[p]));
    if (spent[p] >= 0.05) times.push(seconds(spent[p]));
    return el('li', { class: p === 'aborted' ? 'bad' : done ? 'done' : current ? '' : 'later', 'aria-current': current ? 'step' : null },
      el('b', null, p), el('small', null, times.join(' · ') || (done ? 'done' : current ? 'now' : ' ')));
  }));
}

function ready(f, s) {
  const r = f.ready, over = s.phase === 'finished' || s.phase === 'aborted' || s.phase === '';
  $('s-ready').hidden = over;
  $('ready').replaceChildren(el('b', { class: r.ready ? 'yes' : 'no' }, r.ready ? 'Yes' : 'Not now'),
    r.ready ? ': a ' + r.for + ' may be asked for. It looks again before it refuses a write.' : ': a ' + r.for + ' would be refused.');
  $('gates').replaceChildren(...r.gates.map(g => {
    const kind = g.ok === true ? 'yes' : g.ok === false ? 'no' : 'unknown';
    return el('li', { class: 'gate-' + kind },
      el('span', { class: 'mark ' + kind, 'aria-hidden': 'true' }, { yes: '✓', no: '✗', unknown: '?' }[kind]),
      el('b', null, g.name, el('span', { class: 'hidden-text' }, { yes: ': passes', no: ': does not pass', unknown: ': not known' }[kind])),
      el('span', { class: 'says' }, ...rich(g.says)), g.do ? el('span', { class: 'do' }, ...rich(g.do)) : null);
  }));
}

// flow is what is followed now: its stream, and the slot behind it.
function flow(s) {
  if (s.phase !== 'switched') return { stream: s.stream, slot: s.source, on: 'the source' };
  return { stream: s.way_back.stream, slot: s.way_back, on: 'the new server' };
}

function numbers(f, s) {
  const { stream, slot, on } = flow(s), list = [], add = (name, value) => list.push(el('dt', null, name), el('dd', null, value));
  $('s-numbers').hidden = !s.phase || s.phase === 'new' || s.phase === 'finished' || s.phase === 'aborted';
  if (known(stream.lag_seconds)) add('Lag', seconds(stream.lag_seconds));
  if (known(stream.lag_bytes)) add('Lag in bytes', bytes(stream.lag_bytes));
  if (known(f.catch_up_seconds) && stream.lag_seconds > 1) add('Caught up in', seconds(f.catch_up_seconds));
  const rate = rates[rates.length - 1];
  if (rate && s.phase === 'copying' && known(rate.copied)) add('Copied per second', bytes(rate.copied));
  if (rate && s.phase !== 'copying' && known(rate.transactions)) add('Transactions/s', count(rate.transactions));
  if (known(stream.transactions)) add('Transactions', count(stream.transactions));
  if (known(stream.changes)) add('Changes', count(stream.changes));
  if (known(slot.retained_bytes)) add('WAL held back on ' + on, bytes(slot.retained_bytes) + (known(slot.retained_limit_bytes) ? ' of ' + bytes(slot.retained_limit_bytes) : ''));
  if (known(slot.retained_left_seconds)) add('Limit reached in', seconds(slot.retained_left_seconds) + ', at ' + stamp(Date.now() + 1000 * slot.retained_left_seconds));
  $('numbers').replaceChildren(...list.reduce((groups, e, i) => {
    if (i % 2 === 0) groups.push(el('div', null, e)); else groups[groups.length - 1].append(e);
    return groups;
  }, []));
}

let copyWas = null;

function copy(s) {
  const c = s.copy, going = ['new', 'prepared', 'copying', 'indexing'].includes(s.phase);
  if (going !== copyWas) $('each').open = copyWas = going; // otherwise whoever reads it opens it
  $('s-copy').hidden = !c.tables && !tables.size;
  $('copy').textContent = pages(c.tables_done, 'table', 'tables') + ' of ' + count(c.tables) + ', ' + pages(c.rows, 'row', 'rows') + ', ' + bytes(c.bytes) + ' of ' +
    (c.tables_done < c.tables ? 'about ' : '') + bytes(c.bytes_total) + (known(c.eta_seconds) ? '; about ' + seconds(c.eta_seconds) + ' left' : '') +
    '. Indexes of ' + count(s.indexes.tables_done) + ' of ' + pages(s.indexes.tables, 'table', 'tables') + '.';
  $('copy-bar').value = c.tables && c.tables_done === c.tables ? 1 : c.bytes_total ? Math.min(1, c.bytes / c.bytes_total) : 0;
}

function switches(s) {
  const runs = s.switches;
  $('no-switches').hidden = runs.length > 0;
  $('switches').hidden = runs.length === 0;
  if (!runs.length) return;
  const name = r => r.kind === 'cutover' ? (r.dry_run ? 'Rehearsal' : 'Cutover') : (r.dry_run ? 'Rehearsal of the fallback' : 'Fallback');
  const steps = [];
  for (const r of runs) for (const step of r.steps) if (step.refused && !steps.includes(step.name)) steps.push(step.name);
  const row = (label, cell, kind) => el('tr', { class: kind }, el('th', { scope: 'row' }, label), ...runs.map(r => el('td', { class: 'n' }, cell(r))));
  $('switches').tHead.replaceChildren(el('tr', null, el('th', { scope: 'col' }, 'Writes were refused for'), ...runs.map(r =>
    el('th', { scope: 'col', class: 'n' }, name(r), el('small', null, moment(r.at))))));
  $('switches').tBodies[0].replaceChildren(
    row('in all', r => ms(r.pause_ms), 'total'),
    ...steps.map(step => row(step, r => {
      const took = r.steps.filter(t => t.name === step && t.refused);
      return took.length ? ms(took.reduce((sum, t) => sum + t.ms, 0)) : '–';
    })),
    ...(runs.some(r => known(r.expect_ms)) ? [row('expected of the switch', r => known(r.expect_ms) ? 'about ' + ms(r.expect_ms) : '–')] : []),
    row('outcome', r => r.error ? el('span', null, el('span', { class: 'no' }, 'not done'), el('small', null, r.error)) : el('span', { class: 'yes' }, 'done')));
}

// facts fills a list of names and texts; what has no text is left out.
function facts(id, pairs) {
  $(id).replaceChildren(...pairs.filter(p => p[1]).flatMap(([name, text]) => [el('dt', null, name), el('dd', null, text)]));
}

function back(s) {
  const w = s.way_back, on = w.state === 'following' || w.state === 'interrupted' || w.state === 'lost';
  facts('back', [
    ['Applications belong on', { new: 'the new server', old: 'the old server', mixed: 'the new server for the tables below, the old one for all others' }[s.owner] || 'not known'],
    ...(s.groups || []).map(g => ['Handed over' + (g.since ? ', ' + moment(g.since) : ''), g.tables.join(', ')]),
    ['Way back', (w.state || 'off') + (w.since ? ' since ' + moment(w.since) : '') + (w.mode && w.state === 'off' ? ' (--fall-back ' + w.mode + ')' : '')],
    ['Why', w.state === 'off' ? w.reason : ''],
    ['The old server lags', on && known(w.stream.lag_seconds) ? seconds(w.stream.lag_seconds) + ', ' + bytes(w.stream.lag_bytes) : ''],
    ['Last transaction on the old server', on && w.applied_commit_time ? 'committed ' + moment(w.applied_commit_time) : ''],
    ['WAL held back on the new server', on && known(w.retained_bytes) ? bytes(w.retained_bytes) + (known(w.retained_limit_bytes) ? ' of at most ' + bytes(w.retained_limit_bytes) : '') : ''],
    ['The old server', on && w.unfenced ? 'ACCEPTS WRITES: ' + w.unfenced : on && w.unfenced === '' ? 'refuses writes' : ''],
  ]);
}

function servers(s) {
  const { stream, slot, on } = flow(s);
  const fence = f => f ? (f.sealed ? 'sealed: writes are refused' : f.closed ? 'closed: writes are refused' : 'open: its triggers are still there') + ', ' + pages(f.tables, 'table', 'tables') : '';
  facts('servers', [
    ['Old server', s.source.version ? 'PostgreSQL ' + s.source.version + ', database ' + s.source.database : ''],
    ['New server', s.target.version ? 'PostgreSQL ' + s.target.version + ', database ' + s.target.database : ''],
    ['Slot', slot.slot ? slot.slot + ' on ' + on + (known(slot.slot_active) ? (slot.slot_active ? ', active' : ', not in use') : '') + (slot.wal_status ? ', WAL ' + slot.wal_status : '') : ''],
    ['Fence of the old server', fence(s.source.fence)], ['Fence of the new server', fence(s.target.fence)],
    ['Positions', stream.applied_lsn ? 'applied ' + stream.applied_lsn + (stream.source_lsn ? ' of ' + stream.source_lsn : '') : ''],
    ['Runner', s.runner], ['Options', s.options],
  ]);
}

function notes(s) {
  const list = [];
  if (s.error) list.push('The last run: ' + s.error);
  for (const r of s.switches.filter(r => r.error)) list.push(moment(r.at) + ', ' + (r.dry_run ? 'rehearsal' : r.kind) + ' not done: ' + r.error);
  if (s.note) list.push('The applier is ' + s.note);
  for (const r of s.requests || []) {
    const holders = (r.holders || []).map(h => 'pid ' + h.pid + [h.role, h.application, h.state, h.statement].filter(Boolean).map(t => ', ' + t).join(''));
    list.push('Asked for: ' + r.kind + (known(r.asked_seconds) ? ', ' + seconds(r.asked_seconds) + ' ago' : '') + (r.step ? '; step: ' + r.step : '') + (holders.length ? '; ' + (r.waits_for || 'waits for ') + holders.join('; ') : ''));
  }
  if (s.last_comparison) {
    const c = s.last_comparison;
    list.push('Compared ' + moment(c.at) + ': ' + pages(c.compared, 'table', 'tables') + (c.differ.length ? '; DIFFERENT: ' + c.differ.join(', ') : ', no difference'));
  }
  if (s.cutover.compared !== undefined && s.cutover.equal !== undefined) {
    list.push('As of the cutover: ' + (s.cutover.comparison_error || (s.cutover.equal === true ? 'both sides were equal' : s.cutover.equal === false ? 'both sides DIFFERED' : 'not all was compared')) + ', ' + pages(s.cutover.compared, 'table', 'tables'));
  }
  for (const t of s.new_tables || []) list.push(t + ' was created later: it is not followed');
  for (const t of s.insert_only_broken || []) list.push(t + ' was updated despite --insert-only: it is copied again');
  for (const o of s.refused || []) list.push('The target refuses ' + o.object + ': ' + o.why);
  for (const sql of s.foreign_keys_to_validate || []) list.push('A foreign key is not validated yet: ' + sql);
  for (const sql of s.disabled || []) list.push('The opening could not enable it; run on the target: ' + sql);
  for (const u of s.way_back.without_identity || []) list.push(u.table + ' has lost its replica identity: ' + u.sql);
  $('notes').replaceChildren(...(list.length ? list : ['None.']).map(t => el('li', null, ...rich(t))));
}

// --- Tables

const tables = new Map(); // by schema and name
let version = 0, asking = false, shown = 50;

async function readTables(now) {
  if (now === version || asking) return;
  asking = true;
  try {
    const answer = await (await fetch('tables?since=' + version)).json();
    for (const t of answer.tables) tables.set(t.schema + '\n' + t.name, t);
    if (tables.size > answer.count) { // of another run of the server
      tables.clear();
      version = 0;
    } else version = answer.version;
    drawTables();
  } catch { /* the next frame tries again */ } finally { asking = false; }
}

const rank = { copying: 0, indexing: 1, waiting: 2, done: 3 };

function drawTables() {
  const wanted = $('find').value.toLowerCase(), counts = { waiting: 0, copying: 0, indexing: 0, done: 0 };
  const list = [];
  for (const t of tables.values()) {
    counts[t.state]++;
    if (!wanted || (t.schema + '.' + t.name).toLowerCase().includes(wanted)) list.push(t);
  }
  const left = t => t.state === 'done' || t.state === 'indexing' ? 0 : t.bytes_total - t.bytes;
  list.sort((a, b) => rank[a.state] - rank[b.state] || left(b) - left(a) || b.bytes_total - a.bytes_total || (a.name < b.name ? -1 : 1));
  $('counts').textContent = Object.entries(counts).filter(c => c[1]).map(([state, n]) => count(n) + ' ' + state).join(', ');
  $('tables').tBodies[0].replaceChildren(...list.slice(0, shown).map(t => {
    const whole = t.state === 'done' || t.state === 'indexing', part = whole ? 1 : t.bytes_total ? Math.min(1, t.bytes / t.bytes_total) : 0, name = t.schema + '.' + t.name;
    return el('tr', null, el('th', { scope: 'row' }, name), el('td', null, t.state),
      el('td', null, el('progress', { max: 1, value: part, 'aria-label': name + ' copied' })),
      el('td', { class: 'n', 'data-label': 'size' }, whole || !t.bytes ? bytes(t.bytes_total) : bytes(t.bytes) + ' of ' + bytes(t.bytes_total)),
      el('td', { class: 'n', 'data-label': 'rows' }, count(t.rows)),
      el('td', { class: 'n', 'data-label': 'left' }, whole ? '–' : known(t.eta_seconds) ? seconds(t.eta_seconds) : ''));
  }));
  const rest = list.length - shown;
  $('more').hidden = rest <= 0;
  $('more').textContent = 'Show ' + count(Math.min(rest, 200)) + ' more of ' + count(rest);
}

$('find').addEventListener('input', () => { shown = 50; drawTables(); });
$('more').addEventListener('click', () => { shown += 200; drawTables(); });

// --- Charts

const kept = 2 * 3600, series = { at: [], lagSeconds: [], lagBytes: [], retained: [], limit: [], transactions: [], changes: [], copied: [] };
let rates = [], charts = [], lastPoint = 0;

function point(at, p) {
  if (at <= lastPoint) return;
  if (!lastPoint) { // a chart of one moment has no width
    for (const [name, list] of Object.entries(series)) list.push(name === 'at' ? at - 300 : null);
    rates.push({});
  }
  lastPoint = at;
  series.at.push(at);
  for (const [name, value] of Object.entries(p)) series[name].push(known(value) ? value : null);
  rates.push(rateAt(series.at.length - 1));
  while (series.at.length && at - series.at[0] > kept) {
    for (const list of Object.values(series)) list.shift();
    rates.shift();
  }
}

function rateAt(i) {
  const passed = i > 0 ? series.at[i] - series.at[i - 1] : 0;
  const per = list => known(list[i - 1]) && passed > 0 && passed < 60 && list[i] >= list[i - 1] ? (list[i] - list[i - 1]) / passed : null;
  return { transactions: per(series.transactions), changes: per(series.changes), copied: per(series.copied) };
}

const twos = Array.from({ length: 56 }, (_, i) => 2 ** i);
const tens = from => Array.from({ length: 45 }, (_, i) => [1, 2, 5][i % 3] * 10 ** (from + Math.floor(i / 3)));

function chart(id, lines, data, format, steps, least) {
  const css = getComputedStyle(document.documentElement), color = name => css.getPropertyValue(name).trim(), box = $(id);
  const axis = { stroke: color('--quiet'), grid: { stroke: color('--line'), width: 1 }, ticks: { stroke: color('--line'), width: 1 } };
  const size = () => ({ width: Math.max(200, box.clientWidth), height: 150 });
  box.replaceChildren();
  const plot = new uPlot({
    ...size(), legend: { show: true, live: true }, cursor: { drag: { x: false, y: false } },
    scales: { x: { range: (u, min, max) => known(max) ? [Math.min(min, max - 300), max] : [Date.now() / 1000 - 300, Date.now() / 1000] }, y: { range: (u, min, max) => [0, Math.max(least, max * 1.1 || 0)] } },
    axes: [{ ...axis, space: 70, values: (u, ticks) => ticks.map(t => time(t * 1000).slice(0, t % 60 ? 8 : 5)) }, { ...axis, size: 64, incrs: steps, values: (u, ticks) => ticks.map(format) }],
    series: [{ label: 'at', value: (u, v) => known(v) ? time(v * 1000) : '–' }, ...lines.map(([label, c, dash]) => ({ label, stroke: color(c), width: 1.5, dash, spanGaps: false, value: (u, v) => known(v) ? format(v) : '–' }))],
  }, data(), box);
  box.setAttribute('role', 'img');
  const update = () => {
    plot.setData(data());
    const d = data(), last = d[0].length - 1;
    if (!known(plot.cursor.idx)) plot.setLegend({ idx: last >= 0 ? last : null });
    box.setAttribute('aria-label', lines.map(([label], i) => label + ' ' + (last >= 0 && known(d[i + 1][last]) ? format(d[i + 1][last]) : 'not known')).join(', '));
  };
  update();
  return { update, resize: () => plot.setSize(size()) };
}

function drawCharts() {
  charts = [
    chart('c-lag-seconds', [['lag', '--accent']], () => [series.at, series.lagSeconds], v => v < 10 ? +v.toFixed(2) + ' s' : Math.round(v) + ' s', tens(-2), 1),
    chart('c-lag-bytes', [['lag', '--accent']], () => [series.at, series.lagBytes], bytes, twos, 1024),
    chart('c-retained', [['held back', '--accent'], ['limit', '--bad', [6, 4]]], () => [series.at, series.retained, series.limit], bytes, twos, 1 << 20),
    chart('c-rate', [['transactions', '--accent'], ['changes', '--second', [4, 3]]], () => [series.at, rates.map(r => r.transactions), rates.map(r => r.changes)], count, tens(0), 10),
  ];
}

function pointOf(f) {
  const { stream, slot } = flow(f.status);
  point(new Date(f.at) / 1000, {
    lagSeconds: stream.lag_seconds, lagBytes: stream.lag_bytes, retained: slot.retained_bytes, limit: slot.retained_limit_bytes,
    transactions: stream.transactions, changes: stream.changes, copied: f.status.copy.bytes,
  });
}

// --- Events

let lastFrame = null;

function show(f) {
  lastFrame = f;
  const s = f.status;
  problems(f, s);
  $('key').textContent = f.key;
  if (!s) return;
  s.phases ||= []; // where there is no migration yet
  s.switches ||= [];
  pointOf(f);
  headline(f, s);
  phases(s, f.at);
  ready(f, s);
  numbers(f, s);
  copy(s);
  switches(s);
  back(s);
  servers(s);
  notes(s);
  if (!$('s-numbers').hidden) { // a chart has the size that it is seen with
    if (!charts.length) drawCharts(); else charts.forEach(c => c.update());
  }
  readTables(f.tables_version);
  $('asof').textContent = 'as of ' + time(f.at) + ', live';
  document.body.dataset.drawn = String(Number(document.body.dataset.drawn || 0) + 1);
}

async function begin() {
  try {
    const h = await (await fetch('history')).json();
    (h.at || []).forEach((at, i) => point(at, {
      lagSeconds: h.lag_seconds[i], lagBytes: h.lag_bytes[i], retained: h.retained_bytes[i], limit: h.retained_limit_bytes[i],
      transactions: h.transactions[i], changes: h.changes[i], copied: h.copied_bytes[i],
    }));
  } catch { /* the charts begin now */ }
  const events = new EventSource('events');
  events.onmessage = e => show(JSON.parse(e.data));
  events.onerror = () => {
    $('asof').textContent = 'walferry does not answer: it may have ended' + (lastFrame ? '; this is as of ' + moment(lastFrame.at) : '') + '. Trying again.';
  };
}

matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { if (charts.length) drawCharts(); });
addEventListener('resize', () => charts.forEach(c => c.resize()));
begin();
