// Dead letters: finding them, looking at them, and redriving or discarding one, some, or all that a filter finds.

import { ago, byId, bytes, count, el, empty, number, plural, replace } from './dom.js';
import { get, post, routePath, token } from './client.js';
import { askForToken, confirmChange, toast } from './dialogs.js';
import { preview } from './payload.js';

const PAGE = 20;
const AGES = [['', 'any age'], ['5m', 'older than 5 minutes'], ['1h', 'older than 1 hour'], ['1d', 'older than 1 day'], ['7d', 'older than 7 days']];
const WORDS = {
  redrive: {
    verb: 'Redrive',
    done: 'redriven',
    one: 'It goes back to its old place in the outbox, and the relay tries it anew.',
    many: 'They go back to their old places in the outbox, and the relay tries each of them anew.',
  },
  discard: {
    verb: 'Discard',
    done: 'discarded',
    one: 'It is deleted for good. Nobody will ever get this message.',
    many: 'They are deleted for good. Nobody will ever get these messages.',
  },
};

let route = null;
let may = { payloads: false, changes: false };
let filter = {};
let starts = [null];
let letters = [];
let selected = new Set();
let details = new Map();
let list = null;
let drawn = '';

export function choose(name, rights) {
  if (name !== route) {
    filter = {};
    forget();
    list = null;
  }
  [route, may] = [name, rights];
  if (list === null) build();
}

function forget() {
  starts = [null];
  selected = new Set();
  details = new Map();
  drawn = '';
}

function build() {
  list = el('div', { id: 'letters-list' });
  const field = (name, label, control) => el('div', { class: 'field' }, el('label', { for: `filter-${name}` }, label), control);
  const text = (name, label, placeholder) => field(name, label, el('input', {
    id: `filter-${name}`, name, type: 'search', placeholder, autocomplete: 'off', spellcheck: 'false',
  }));
  const age = el('select', { id: 'filter-older_than', name: 'older_than' },
    AGES.map(([value, name]) => el('option', { value }, name)));
  const form = el('form', { class: 'filters', 'aria-label': 'Filter dead letters' },
    text('topic', 'Topic', 'any topic'), text('key', 'Key', 'any key'), text('error', 'Error contains', 'any error'),
    field('older_than', 'Died', age), el('button', { type: 'submit', id: 'filter-apply' }, 'Filter'));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    apply(form);
  });
  age.addEventListener('change', () => apply(form));
  replace(byId('letters'), form, list);
}

function apply(form) {
  filter = Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ''));
  forget();
  load();
}

export async function load() {
  const [asked, at] = [route, starts.at(-1)];
  const conditions = filter;
  try {
    const query = { ...filter, after: at, limit: PAGE + 1 };
    const answer = await get(routePath(route, 'dead-letters'), query);
    if (asked !== route || at !== starts.at(-1) || conditions !== filter) return;
    letters = answer.dead_letters;
    if (letters.length === 0 && starts.length > 1) {
      starts = [null];
      load();
      return;
    }
    // One more than is shown was asked for, to know whether there is another page. What cannot be seen is not selected.
    const there = new Set(letters.slice(0, PAGE).map((letter) => letter.position));
    selected = new Set([...selected].filter((position) => there.has(position)));
    // Who reads, or is about to click, is not disturbed for nothing.
    const now = JSON.stringify(letters);
    if (now !== drawn) draw();
    drawn = now;
  } catch (error) {
    if (![400, 500, 501, 503].includes(error.status)) throw error;
    drawn = '';
    replace(list, el('p', { class: 'problem' }, error.message));
  }
}

function draw() {
  const filtered = Object.keys(filter).length > 0;
  if (letters.length === 0) {
    replace(list, filtered ? empty('No dead letter matches', 'Change the filter to see others.')
      : empty('No dead letters', 'No message had to be given up.'));
    return;
  }
  const here = letters.slice(0, PAGE);
  const all = here.every((letter) => selected.has(letter.position));
  const everyone = el('input', {
    type: 'checkbox', checked: all, indeterminate: !all && selected.size > 0, 'data-focus': 'all', 'aria-label': 'Select all on this page',
    onchange: (event) => {
      selected = new Set(event.target.checked ? here.map((letter) => letter.position) : []);
      draw();
    },
  });
  const heads = ['Position', 'Topic', 'Key', 'Error', 'Attempts', 'Died', ''];
  replace(list, bar(filtered),
    el('table', { class: 'of-letters' }, el('caption', { class: 'hidden' }, 'Dead letters'),
      el('thead', {}, el('tr', {}, el('th', { class: 'tick-box' }, everyone),
        heads.map((head) => (head === '' ? el('td', {}) : el('th', { scope: 'col' }, head))))),
      el('tbody', {}, here.flatMap(rows))),
    el('div', { class: 'pages' },
      turn('Previous', starts.length === 1, () => starts.pop()),
      el('span', { class: 'muted small' }, `Page ${starts.length}`),
      turn('Next', letters.length <= PAGE, () => starts.push(here.at(-1).position))));
}

function turn(name, disabled, change) {
  const onclick = () => {
    change();
    selected = new Set();
    drawn = '';
    load();
  };
  return el('button', { type: 'button', class: 'quiet', disabled, 'data-focus': `letters-${name}`, onclick }, name);
}

function actions(which, conditions, suffix, focus) {
  return Object.entries(WORDS).map(([action, { verb }]) => el('button', {
    type: 'button', class: action === 'discard' ? 'quiet danger-text' : 'quiet', disabled: !may.changes,
    'data-action': action, 'data-focus': `${action}-${focus}`,
    'aria-label': suffix ? null : `${verb} dead letter ${focus}`,
    onclick: () => change(action, which, conditions),
  }, suffix ? `${verb} ${suffix}` : verb));
}

function bar(filtered) {
  const positions = [...selected];
  const some = positions.length > 0;
  const conditions = Object.entries(filter).map(([name, value]) => `${name.replace('_', ' ')}: ${value}`);
  return el('div', { class: 'bar', id: 'letters-bar' },
    el('span', { class: 'muted' }, some ? `${number(positions.length)} selected` : filtered ? 'All that match the filter' : 'All dead letters of this route'),
    el('div', { class: 'answers' },
      some ? actions({ positions }, ['the selected ones'], `${positions.length} selected`, 'many')
        : actions(filtered ? filter : { all: true }, filtered ? conditions : ['all dead letters of this route'], filtered ? 'all matching' : 'all', 'many')),
    may.changes ? null : el('p', { class: 'muted small whole' }, 'Nothing can be changed here until http.token_file or http.token_env is set.'));
}

function rows(letter) {
  const { position } = letter;
  const cell = (label, ...content) => el('td', { 'data-label': label }, ...content);
  const open = details.has(position);
  const look = el('button', {
    type: 'button', class: 'quiet', 'aria-expanded': String(open), 'data-action': 'details', 'data-focus': `details-${position}`,
    'aria-label': `Details of dead letter ${position}`, onclick: () => toggle(letter),
  }, open ? 'Hide' : 'Details');
  const row = el('tr', { 'data-position': position, class: open ? 'open' : null },
    el('td', { class: 'tick-box' }, el('input', {
      type: 'checkbox', checked: selected.has(position), 'data-focus': `select-${position}`, 'aria-label': `Select dead letter ${position}`,
      onchange: (event) => {
        if (event.target.checked) selected.add(position);
        else selected.delete(position);
        draw();
      },
    })),
    cell('Position', el('code', {}, String(position))),
    cell('Topic', letter.topic ?? '–'),
    cell('Key', letter.key ?? '–'),
    cell('Error', el('span', { class: 'clip', title: letter.error }, letter.error)),
    cell('Attempts', number(letter.attempts)),
    cell('Died', ago(letter.died_at)),
    el('td', { class: 'actions' }, look, actions({ positions: [position] }, null, '', position)));
  return open ? [row, el('tr', { class: 'details' }, el('td', { colspan: '8' }, details.get(position)))] : [row];
}

async function toggle(letter) {
  const { position } = letter;
  if (details.delete(position)) {
    draw();
    return;
  }
  const fact = (name, value) => (value === null || value === undefined ? null : [el('dt', {}, name), el('dd', {}, value)]);
  const content = el('div', { class: 'payload-box' });
  const facts = el('div', {},
    el('dl', { class: 'facts' },
      [fact('Id', letter.id), fact('Topic', letter.topic), fact('Key', letter.key),
        fact('Enqueued', ago(letter.enqueued_at)), fact('Died', ago(letter.died_at)),
        fact('Content type', letter.content_type),
        fact('Size', letter.payload_bytes === undefined ? null : bytes(letter.payload_bytes)),
        fact('Its key', letter.blocks_key ? 'waits for this one' : null)].flat().filter(Boolean)),
    el('h4', {}, 'Error'), el('pre', { class: 'payload' }, letter.error));
  details.set(position, el('div', { class: 'detail' }, facts, content));
  draw();
  if (!may.payloads) {
    replace(content, el('p', { class: 'muted small' }, 'Payloads and headers are hidden. http.payloads = true shows them.'));
    return;
  }
  try {
    replace(content, preview(await get(routePath(route, `dead-letters/${position}`), { payload: true })));
  } catch (error) {
    replace(content, el('p', { class: 'problem' }, error.message));
  }
}

// Posts, and asks for the token as often as it is refused. Null if nobody gives one.
async function posted(path, body) {
  for (let why = 'Changing something needs the token of this relay.'; ;) {
    if (token.get() === null && !(await askForToken(why))) return null;
    try {
      return await post(path, body);
    } catch (error) {
      if (error.status !== 401) throw error;
      token.set(null);
      why = 'The relay refused this token. Nothing was changed.';
    }
  }
}

async function change(action, which, conditions) {
  const words = WORDS[action];
  const { verb, done } = words;
  const path = routePath(route, `dead-letters/${action}`);
  try {
    const would = await posted(path, { ...which, dry_run: true });
    if (would === null) return;
    const found = would.would_be;
    if (found.count === 0) {
      toast('There are no such dead letters any more.');
      load();
      return;
    }
    const many = `${count(found)} ${found.count === 1 ? 'dead letter' : 'dead letters'}`;
    const position = which.positions?.length === 1 ? which.positions[0] : null;
    const letter = letters.find((one) => one.position === position);
    const lines = [
      letter ? el('p', {}, `Position ${position}, topic ${letter.topic ?? 'unknown'}${letter.key ? `, key ${letter.key}` : ''}.`)
        : el('p', {}, `Of route ${route}: ${(conditions ?? []).join(', ')}.`),
      found.count === 1 ? words.one : words.many,
    ];
    if (!(await confirmChange({ title: `${verb} ${many}?`, lines, confirm: `${verb} ${many}`, danger: action === 'discard' }))) return;
    const answer = await posted(path, which);
    if (answer === null) return;
    toast(`${plural(answer.changed, 'dead letter')} ${done}.`);
    selected = new Set();
    details = new Map();
    drawn = '';
    load();
  } catch (error) {
    toast(`Not ${done}: ${error.message}`, true);
  }
}
