// How a route is doing: the figures of now, and the lines of the last hour.

import { Chart } from './chart.js';
import { byId, compact, count, duration, el, now, number, plural, replace } from './dom.js';

const SPANS = [['5 min', 300], ['15 min', 900], ['1 h', 3600]];
let span = 900;

const rate = (sample) => (sample.seconds > 0 ? sample.confirmed / sample.seconds : null);
const perSecond = (value) => `${compact(value)}/s`;

// A time in one unit, which is all that there is room for beside an axis.
function short(seconds) {
  if (seconds < 120) return duration(seconds).includes('min') ? `${seconds} s` : duration(seconds);
  const [size, unit] = seconds < 7200 ? [60, 'min'] : seconds < 172_800 ? [3600, 'h'] : [86_400, 'd'];
  return `${compact(seconds / size)} ${unit}`;
}

// Without a lag no messages, which is a lag of nothing; without a backlog nobody has counted.
const lag = (sample) => (sample.backlog === undefined ? null : sample.lag_seconds ?? 0);

const charts = [
  new Chart({
    name: 'Backlog', unit: 'messages', color: 'first', kind: 'count',
    value: (sample) => sample.backlog?.count ?? null, format: number, axis: compact,
  }),
  new Chart({
    name: 'Lag', unit: 'age of the oldest message', color: 'second', kind: 'time',
    value: lag, format: duration, axis: short,
  }),
  new Chart({
    name: 'Throughput', unit: 'messages per second', color: 'third', kind: 'rate',
    value: rate, format: perSecond, axis: compact,
  }),
];

let shown = null;

export function start() {
  replace(byId('charts'), charts.map((chart) => chart.element));
  const choose = (event) => {
    span = Number(event.currentTarget.dataset.span);
    spans();
    if (shown !== null) show(shown);
  };
  const spans = () => replace(byId('spans'), SPANS.map(([name, seconds]) => el('button', {
    type: 'button', 'data-span': seconds, 'data-focus': name, 'aria-pressed': String(span === seconds), onclick: choose,
  }, name)));
  spans();
}

function tile(id, name, value, note, mood = '') {
  return el('div', { class: `tile ${mood}`, id: `tile-${id}` },
    el('dt', {}, name), el('dd', {}, el('span', { class: 'value' }, value), el('span', { class: 'note' }, note)));
}

// The change of the backlog in the last minute, in words.
function trend(samples) {
  const last = samples.at(-1);
  const before = samples.find((sample) => sample.at >= last.at - 60_000 && sample.backlog);
  if (!last.backlog || !before || before === last) return 'undelivered';
  const change = last.backlog.count - before.backlog.count;
  const minute = duration((last.at - before.at) / 1000);
  if (last.backlog.at_least || before.backlog.at_least || change === 0) return 'undelivered';
  return `${change > 0 ? '+' : '−'}${number(Math.abs(change))} in ${minute}`;
}

function since(samples) {
  const closed = samples.findLastIndex((sample) => !sample.circuit_open);
  const first = samples[closed + 1];
  return first ? `for ${duration((now() - first.at) / 1000)}` : 'just now';
}

function tiles(state) {
  const { samples, relay } = state;
  const last = samples.at(-1);
  const uncounted = last?.error ? 'the store does not answer' : 'not counted';
  const backlog = last?.backlog;
  const dead = last?.dead_letters;
  const minute = samples.filter((sample) => sample.at > (last?.at ?? 0) - 60_000);
  const seconds = minute.reduce((sum, sample) => sum + sample.seconds, 0);
  const confirmed = minute.reduce((sum, sample) => sum + sample.confirmed, 0);
  const failed = minute.reduce((sum, sample) => sum + sample.retried + sample.died, 0);
  const open = relay?.circuit_open;
  const late = backlog ? lag(last) : null;
  return [
    tile('backlog', 'Backlog', backlog ? count(backlog) : '–', backlog ? trend(samples) : uncounted,
      backlog?.count > 0 && open ? 'warn' : ''),
    tile('lag', 'Lag', late === null ? '–' : late === 0 ? '0 s' : duration(late),
      late === null ? uncounted : late === 0 ? 'no messages' : 'oldest message', late > 60 ? 'warn' : ''),
    tile('throughput', 'Throughput', seconds > 0 ? perSecond(confirmed / seconds) : '–',
      failed > 0 ? `${plural(failed, 'failed attempt')} in the last minute` : 'last minute, this relay'),
    tile('dead', 'Dead letters', dead ? count(dead) : '–', dead ? (dead.count > 0 ? 'need a decision' : 'none') : uncounted,
      dead?.count > 0 ? 'bad' : ''),
    tile('circuit', 'Circuit', relay ? (open ? 'Open' : 'Closed') : '–',
      open ? `broker is down ${since(samples)}` : 'broker answers', open ? 'bad' : 'good'),
  ];
}

export function show(state) {
  shown = state;
  replace(byId('tiles'), tiles(state));
  for (const chart of charts) chart.show(state.samples, span, state.every);
  const from = now() - span * 1000;
  byId('legend').hidden = !state.samples.some((sample) => sample.circuit_open && sample.at > from);
}
