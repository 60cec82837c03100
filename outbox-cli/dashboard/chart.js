// One line over time, as SVG: an axis with units, the line, the spans in which the circuit was open, and what is under
// the pointer or, with the arrow keys, under the cursor.

import { clock, el, now, svg } from './dom.js';

const HEIGHT = 180;
const LEFT = 52;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 24;

// Beyond a second, times are not read by powers of ten.
const TIMES = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400];

// The steps of an axis that people can read: 1, 2 or 5, times a power of ten; whole ones for what is counted, and those
// of a clock for times.
function steps(highest, kind) {
  const raw = Math.max(highest, { count: 4, time: 0.004, rate: 0.4 }[kind]) / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const decimal = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw * 0.999);
  const step = kind === 'time' && raw > 0.5 ? TIMES.find((size) => size >= raw * 0.999) ?? decimal : decimal;
  const ticks = [];
  for (let at = 0; at < highest + step * 0.999 || ticks.length < 3; at += step) ticks.push(Math.round(at * 1e9) / 1e9);
  return ticks;
}

// Where the minutes are that get a mark.
function times(from, to, most) {
  const sizes = [15, 30, 60, 120, 300, 600, 900, 1800].map((seconds) => seconds * 1000);
  const size = sizes.find((one) => (to - from) / one <= most) ?? 3_600_000;
  const marks = [];
  for (let at = Math.ceil(from / size) * size; at <= to; at += size) marks.push([at, size]);
  return marks;
}

function path(points) {
  return points.map(([x, y], index) => `${index === 0 ? 'M' : 'L'}${x.toFixed(1)},${y.toFixed(1)}`).join('');
}

// Runs of samples that have a value, and have no gap in them.
function runs(samples, value, gap) {
  const found = [];
  let run = [];
  for (const sample of samples) {
    const last = run.at(-1);
    if (value(sample) === null || (last && sample.at - last.at > gap)) {
      if (run.length > 0) found.push(run);
      run = [];
    }
    if (value(sample) !== null) run.push(sample);
  }
  if (run.length > 0) found.push(run);
  return found;
}

export class Chart {
  // `value` gives the figure of a sample or null, `format` a figure for people, `axis` one for the axis; `kind` is
  // `count`, `time` or `rate`.
  constructor({ name, unit, color, value, format, axis, kind }) {
    Object.assign(this, { name, unit, value, format, axis, kind });
    this.samples = [];
    this.readout = el('output', { class: 'readout' });
    this.figure = svg('svg', { class: `plot ${color}`, height: HEIGHT, role: 'img', tabindex: '0' });
    this.box = el('div', { class: 'plot-box' }, this.figure);
    this.element = el('figure', { class: 'card chart' },
      el('figcaption', { class: 'heading' }, el('h3', {}, name, ' ', el('span', { class: 'unit' }, unit)), this.readout),
      this.box);
    this.figure.addEventListener('pointermove', (event) => {
      this.point(event.clientX - this.figure.getBoundingClientRect().left);
    });
    this.figure.addEventListener('pointerleave', () => this.point(null));
    this.figure.addEventListener('blur', () => this.point(null));
    this.figure.addEventListener('keydown', (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by || this.samples.length === 0) return;
      event.preventDefault();
      const last = this.samples.length - 1;
      const index = this.pointed === null ? last : this.samples.indexOf(this.pointed);
      this.point(this.x(this.samples[Math.min(last, Math.max(0, index + by))].at));
    });
    this.pointed = null;
    new ResizeObserver(() => this.draw()).observe(this.box);
  }

  show(samples, seconds, every) {
    const to = samples.length > 0 ? Math.max(samples.at(-1).at, now() - 10_000) : now();
    Object.assign(this, { from: to - seconds * 1000, to, gap: Math.max(every * 3_000, 15_000) });
    this.samples = samples.filter((sample) => sample.at >= this.from);
    if (!this.samples.includes(this.pointed)) this.pointed = null;
    this.draw();
  }

  x(at) {
    return LEFT + ((at - this.from) / (this.to - this.from)) * (this.width - LEFT - RIGHT);
  }

  draw() {
    this.width = this.box.clientWidth;
    if (this.from === undefined || this.width === 0) return;
    const values = this.samples.map(this.value).filter((value) => value !== null);
    const highest = Math.max(0, ...values);
    const ticks = steps(highest, this.kind);
    const top = ticks.at(-1);
    this.y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
    const right = this.width - RIGHT;
    const grid = ticks.flatMap((tick) => [
      svg('line', { class: tick === 0 ? 'base' : 'grid', x1: LEFT, x2: right, y1: this.y(tick), y2: this.y(tick) }),
      svg('text', { class: 'tick', x: LEFT - 8, y: this.y(tick) + 4, 'text-anchor': 'end' }, this.axis(tick)),
    ]);
    const marks = times(this.from, this.to, Math.max(2, Math.floor(this.width / 75))).map(([at, size]) => {
      const text = clock(at).slice(0, size < 60_000 ? 8 : 5);
      const x = this.x(at);
      if (x < LEFT + 14 || x > right - 12) return null;
      return svg('text', { class: 'tick', x, y: HEIGHT - 6, 'text-anchor': 'middle' }, text);
    });
    const down = runs(this.samples, (sample) => (sample.circuit_open ? 1 : null), this.gap).map((run) => {
      const begin = this.x(run[0].at - run[0].seconds * 1000 / 2);
      const x = Math.max(LEFT, begin);
      const width = Math.max(2, this.x(run.at(-1).at) - x);
      return svg('rect', { class: 'down', x, y: TOP, width, height: HEIGHT - TOP - BOTTOM });
    });
    const lines = runs(this.samples, this.value, this.gap).flatMap((run) => {
      const points = run.map((sample) => [this.x(sample.at), this.y(this.value(sample))]);
      const [first, last] = [points[0], points.at(-1)];
      if (points.length === 1) return [svg('circle', { class: 'dot', cx: first[0], cy: first[1], r: 2.5 })];
      const area = `${path(points)}L${last[0].toFixed(1)},${this.y(0)}L${first[0].toFixed(1)},${this.y(0)}Z`;
      return [svg('path', { class: 'area', d: area }), svg('path', { class: 'line', d: path(points) })];
    });
    this.cursor = svg('g', { class: 'cursor' });
    this.figure.setAttribute('width', this.width);
    this.figure.setAttribute('viewBox', `0 0 ${this.width} ${HEIGHT}`);
    this.figure.replaceChildren(...[...down, ...grid, ...marks, ...lines, this.cursor].filter(Boolean));
    if (values.length === 0) {
      const middle = { class: 'none', x: (LEFT + right) / 2, y: HEIGHT / 2 - 4, 'text-anchor': 'middle' };
      this.figure.append(svg('text', middle, 'No figures yet'));
    }
    const summary = values.length === 0 ? 'no figures yet'
      : `now ${this.format(values.at(-1))}, highest ${this.format(highest)}`;
    this.figure.setAttribute('aria-label', `${this.name}, ${this.unit}: ${summary}. Arrow keys read single figures.`);
    this.mark(highest, values.length > 0);
  }

  point(x) {
    const far = (sample) => Math.abs(this.x(sample.at) - x);
    const nearest = (best, sample) => (best === null || far(sample) < far(best) ? sample : best);
    this.pointed = x === null ? null : this.samples.reduce(nearest, null);
    this.draw();
  }

  mark(highest, any) {
    if (this.pointed === null) {
      this.readout.textContent = any ? `peak ${this.format(highest)}` : '';
      return;
    }
    const [at, value] = [this.x(this.pointed.at), this.value(this.pointed)];
    const said = value === null ? 'unknown' : this.format(value);
    this.readout.textContent = `${said} at ${clock(this.pointed.at)}`;
    this.cursor.append(svg('line', { class: 'rule', x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM }));
    if (value !== null) this.cursor.append(svg('circle', { class: 'dot', cx: at, cy: this.y(value), r: 4 }));
  }
}
