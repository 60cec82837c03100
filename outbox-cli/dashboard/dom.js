// Elements and texts. Nothing here, or anywhere in this page, makes HTML of a text: what comes from messages, brokers
// and databases goes into text nodes and attributes only.

const SVG = 'http://www.w3.org/2000/svg';

function make(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'checked' || name === 'disabled' || name === 'indeterminate' || name === 'value') element[name] = value;
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function el(tag, attributes = {}, ...children) {
  return make(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return make(document.createElementNS(SVG, tag), attributes, children);
}

export function byId(id) {
  return document.getElementById(id);
}

// Puts other children into an element, and the focus where it was: on what has the same data-focus.
export function replace(container, ...children) {
  const active = document.activeElement;
  const focus = container.contains(active) ? active.dataset.focus : undefined;
  const top = container.scrollTop;
  container.replaceChildren(...children.flat(Infinity).filter(Boolean));
  container.scrollTop = top;
  if (focus === undefined) return;
  const again = [...container.querySelectorAll('[data-focus]')].find((element) => element.dataset.focus === focus);
  again?.focus({ preventScroll: true });
}

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });

export function number(value) {
  return whole.format(value);
}

export function compact(value) {
  if (value !== 0 && Math.abs(value) < 10) return String(Math.round(value * 100) / 100);
  return Math.abs(value) < 1000 ? String(Math.round(value * 10) / 10) : short.format(value);
}

// A count that stopped at its limit says so.
export function count(counted) {
  return counted.at_least ? `${number(counted.count)}+` : number(counted.count);
}

export function plural(value, one, many = `${one}s`) {
  return `${number(value)} ${value === 1 ? one : many}`;
}

export function duration(seconds) {
  if (seconds < 0.001) return '0 s';
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${Math.round(seconds * 10) / 10} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const units = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]];
  const first = units.findIndex(([, size]) => seconds >= size);
  const [name, size] = units[first];
  const [next, part] = units[first + 1];
  const rest = Math.floor((seconds % size) / part);
  return rest > 0 ? `${Math.floor(seconds / size)} ${name} ${rest} ${next}` : `${Math.floor(seconds / size)} ${name}`;
}

export function bytes(size) {
  if (size < 1024) return plural(size, 'byte');
  return size < 1024 * 1024 ? `${compact(size / 1024)} KiB` : `${compact(size / 1024 / 1024)} MiB`;
}

let ahead = 0;

// The relay's clock is the one that counts: a browser's may be an hour off.
export function setClock(at) {
  ahead = at - Date.now();
}

export function now() {
  return Date.now() + ahead;
}

export function clock(at) {
  return new Date(at).toLocaleTimeString('en-GB');
}

// Only the first unit of a duration: nobody needs the seconds of an hour ago.
function roughly(seconds) {
  return duration(Math.floor(seconds)).split(' ').slice(0, 2).join(' ');
}

// How long ago, with the whole time for who points at it.
export function ago(text) {
  const at = new Date(text);
  const seconds = Math.max(0, (now() - at.getTime()) / 1000);
  const words = seconds < 5 ? 'just now' : `${roughly(seconds)} ago`;
  return el('time', { datetime: text, title: at.toLocaleString('en-GB') }, words);
}

export function empty(title, text) {
  return el('div', { class: 'empty' }, el('strong', {}, title), text ? el('span', {}, text) : null);
}
