// What waits, in the order of its positions.

import { ago, byId, el, empty, number, replace } from './dom.js';
import { get, routePath } from './client.js';

const PAGE = 10;
const MOODS = { ready: '', due: '', scheduled: '', held: 'warn', retrying: 'warn' };

// The positions after which the pages so far begin.
let starts = [null];
let route = null;

export function choose(name) {
  route = name;
  starts = [null];
}

function row(message) {
  const cell = (label, ...content) => el('td', { 'data-label': label }, ...content);
  return el('tr', {},
    cell('Position', el('code', {}, String(message.position))),
    cell('Topic', message.topic ?? '–'),
    cell('Key', message.key ?? '–'),
    cell('State', el('span', { class: `badge ${MOODS[message.state] ?? ''}` }, message.state)),
    cell('Attempts', number(message.attempts)),
    cell('Error', el('span', { class: 'clip', title: message.error }, message.error ?? '–')),
    cell('Enqueued', ago(message.enqueued_at)));
}

function turn(name, disabled, change) {
  const onclick = () => {
    change();
    load();
  };
  return el('button', { type: 'button', class: 'quiet', disabled, 'data-focus': `waiting-${name}`, onclick }, name);
}

export async function load() {
  const asked = route;
  try {
    const after = starts.at(-1);
    const { messages } = await get(routePath(route, 'messages'), { limit: PAGE + 1, after });
    if (asked !== route || after !== starts.at(-1)) return;
    show(messages);
  } catch (error) {
    if (error.status !== 501 && error.status !== 500 && error.status !== 503) throw error;
    replace(byId('waiting'), el('p', { class: 'problem' }, error.message));
  }
}

function show(messages) {
  if (messages.length === 0 && starts.length > 1) {
    // What stood here has gone out meanwhile.
    starts = [null];
    load();
    return;
  }
  if (messages.length === 0) {
    replace(byId('waiting'), empty('Nothing waits', 'Every message has been delivered, or has become a dead letter.'));
    return;
  }
  const here = messages.slice(0, PAGE);
  const heads = ['Position', 'Topic', 'Key', 'State', 'Attempts', 'Error', 'Enqueued'];
  replace(byId('waiting'),
    el('table', { class: 'of-waiting' }, el('caption', { class: 'hidden' }, 'Waiting messages'),
      el('thead', {}, el('tr', {}, heads.map((head) => el('th', { scope: 'col' }, head)))),
      el('tbody', {}, here.map(row))),
    el('div', { class: 'pages' },
      turn('First', starts.length === 1, () => { starts = [null]; }),
      turn('Next', messages.length <= PAGE, () => { starts.push(here.at(-1).position); })));
}
