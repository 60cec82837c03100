// A payload for people: JSON with its indentation, other texts as they are, and everything else as bytes.

import { bytes, el } from './dom.js';

const MOST = 64 * 1024;
const MOST_BYTES = 4 * 1024;

// Indents JSON without reading its values: a number with twenty digits keeps all of them.
export function indented(text) {
  JSON.parse(text);
  let out = '';
  let depth = 0;
  const line = () => `\n${'  '.repeat(depth)}`;
  for (const [part] of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g)) {
    if (part === '{' || part === '[') {
      depth += 1;
      out += part + line();
    } else if (part === '}' || part === ']') {
      depth -= 1;
      out = /[{[]\s*$/.test(out) ? out.trimEnd() + part : out + line() + part;
    } else if (part === ',') out += part + line();
    else out += part === ':' ? ': ' : part;
  }
  return out;
}

// As a hex editor would: where, the bytes, and what of them can be read.
export function hex(data) {
  const lines = [];
  for (let from = 0; from < Math.min(data.length, MOST_BYTES); from += 16) {
    const row = [...data.subarray(from, from + 16)];
    const codes = row.map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
    const signs = row.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : '.')).join('');
    lines.push(`${from.toString(16).padStart(6, '0')}  ${codes.padEnd(47)}  ${signs}`);
  }
  return lines.join('\n');
}

function text(payload) {
  const cut = payload.length > MOST ? `${payload.slice(0, MOST)}…` : payload;
  if (cut !== payload) return ['text', cut];
  try {
    return ['JSON', indented(payload)];
  } catch {
    return ['text', payload];
  }
}

export function preview(letter) {
  if (letter.payload === undefined && letter.payload_base64 === undefined) {
    return el('p', { class: 'muted' }, 'The row cannot be read as a message.');
  }
  let kind = 'binary';
  let shown;
  if (letter.payload !== undefined) [kind, shown] = text(letter.payload);
  else shown = hex(Uint8Array.from(atob(letter.payload_base64), (sign) => sign.charCodeAt(0)));
  const size = letter.payload_bytes === undefined ? '' : `, ${bytes(letter.payload_bytes)}`;
  const title = `Payload (${kind}${size})`;
  const headers = Object.entries(letter.headers ?? {});
  return el('div', {},
    headers.length === 0 ? null : el('h4', {}, 'Headers'),
    headers.length === 0 ? null : el('dl', { class: 'facts' },
      headers.map(([name, value]) => [el('dt', {}, name), el('dd', {}, String(value))])),
    el('h4', {}, title),
    el('pre', { class: 'payload', tabindex: '0', 'aria-label': title }, shown === '' ? '(empty)' : shown));
}
