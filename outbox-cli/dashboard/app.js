// The page: which route is shown, and asking the relay again and again.

import { byId, compact, el, now, replace, setClock } from './dom.js';
import { Gone, Refused, get, routePath, token } from './client.js';
import { askForToken } from './dialogs.js';
import * as failures from './failures.js';
import * as letters from './letters.js';
import * as overview from './overview.js';
import * as relays from './relays.js';
import * as theme from './theme.js';
import * as waiting from './waiting.js';

const PAUSE = 2_000;
const LISTS = 5_000;
const HOUR = 3_600_000;

// What is known of each route, by its name.
const states = new Map();
let about = null;
let current = null;
let gone = null;
let locked = false;
let listed = 0;

function connection() {
  const badge = byId('connection');
  const [text, mood] = gone !== null ? ['Relay gone', 'bad'] : locked ? ['Locked', 'warn'] : about ? ['Live', 'good'] : ['Connecting…', ''];
  if (badge.textContent !== text) badge.textContent = text;
  badge.className = `connection ${mood}`;
  byId('token').textContent = token.get() === null ? 'Enter token' : 'Forget token';
  byId('token').hidden = about !== null && !about.changes && !locked && token.get() === null;
}

function banners() {
  const state = states.get(current);
  const found = [];
  if (gone !== null) {
    found.push(['bad', 'The relay does not answer', `since ${gone.since} (${gone.why}). What is shown may be old. Trying again…`]);
  } else if (locked) {
    found.push(['warn', 'Locked', 'Reading needs the token of this relay.']);
  } else if (state?.error) {
    found.push(['warn', 'No figures', state.error]);
  } else if (state) {
    const last = state.samples.at(-1);
    if (state.relay?.circuit_open) found.push(['bad', 'The broker is down', 'Nothing is lost: messages wait in the outbox, and the relay tries again by itself.']);
    if (last?.error) found.push(['bad', 'The store does not answer', last.error]);
  }
  const text = JSON.stringify(found);
  const box = byId('banners');
  // A banner that is said again is read out again.
  if (box.dataset.said === text) return;
  box.dataset.said = text;
  replace(box, found.map(([mood, title, more]) => el('p', { class: `banner ${mood}` }, el('strong', {}, title), ' ', more)));
}

function tabs() {
  if (about.routes.length < 2) {
    replace(byId('routes'));
    return;
  }
  replace(byId('routes'), about.routes.map(({ route }) => {
    const state = states.get(route);
    const last = state?.samples.at(-1);
    const [mood, word] = !state || state.error || last?.error ? ['warn', 'no figures'] : state.relay?.circuit_open ? ['bad', 'the broker is down']
      : last?.dead_letters?.count > 0 ? ['warn', 'has dead letters'] : ['good', 'all is well'];
    const waits = last?.backlog?.count > 0 ? el('span', { class: 'muted' }, ` ${compact(last.backlog.count)}`) : null;
    return el('button', {
      type: 'button', 'data-focus': route, 'aria-current': route === current ? 'true' : null, title: word, onclick: () => choose(route),
    }, el('span', { class: `light ${mood}` }, el('span', { class: 'hidden' }, `${word}: `)), route, waits);
  }));
}

function choose(name) {
  current = name;
  history.replaceState(null, '', `#${encodeURIComponent(name)}`);
  const { store, publisher } = about.routes.find((one) => one.route === name);
  byId('route-name').textContent = name;
  byId('route-way').textContent = `${store} → ${publisher}`;
  document.title = `${name} · outbox`;
  letters.choose(name, about);
  waiting.choose(name);
  listed = 0;
  draw();
  round();
}

function draw() {
  connection();
  banners();
  if (about === null) return;
  tabs();
  const state = states.get(current);
  if (state) overview.show(state);
}

// What is newer than what is known of a route.
async function refresh(name) {
  const state = states.get(name) ?? { samples: [], relay: null, every: 5, error: null };
  states.set(name, state);
  try {
    const answer = await get(routePath(name, 'history'), { after: state.samples.at(-1)?.at ?? 0 });
    setClock(answer.now);
    const oldest = now() - HOUR;
    const known = state.samples.at(-1)?.at ?? 0;
    state.samples = [...state.samples, ...answer.samples.filter((sample) => sample.at > known)].filter((sample) => sample.at > oldest);
    [state.relay, state.every, state.error] = [answer.relay, answer.every_seconds, null];
  } catch (error) {
    if (error.status !== 503) throw error;
    state.error = error.message;
  }
}

async function panel(rest, show) {
  const name = current;
  try {
    const answer = await get(routePath(name, rest));
    if (name === current) show(answer, null);
  } catch (error) {
    if (![500, 501, 503].includes(error.status)) throw error;
    show(null, error.message);
  }
}

async function update() {
  // Asked again each time: a relay that was started anew may have other routes.
  const told = await get('/api/v1/routes');
  const changed = JSON.stringify(told) !== JSON.stringify(about);
  about = told;
  await Promise.all(about.routes.map(({ route }) => refresh(route)));
  if (changed || current === null) {
    const wanted = current ?? decodeURIComponent(location.hash.slice(1));
    const known = about.routes.some(({ route }) => route === wanted);
    if (about.routes.length > 0) choose(known ? wanted : about.routes[0].route);
  }
  if (current === null) return;
  await Promise.all([panel('relays', relays.show), panel('failures', failures.show)]);
  if (Date.now() - listed >= LISTS) {
    listed = Date.now();
    await Promise.all([letters.load(), waiting.load()]);
  }
}

let running = false;
let again = null;

// One round of questions; the next one follows by itself.
async function round() {
  if (running) return;
  running = true;
  clearTimeout(again);
  try {
    await update();
    if (gone !== null) listed = 0;
    [gone, locked] = [null, false];
  } catch (error) {
    if (error instanceof Gone) gone ??= { since: new Date().toLocaleTimeString('en-GB'), why: error.message };
    else if (error instanceof Refused && [401, 403].includes(error.status)) await lock(error);
    else throw error;
  } finally {
    running = false;
    draw();
    again = setTimeout(round, PAUSE);
  }
}

async function lock(error) {
  gone = null;
  const first = !locked;
  locked = true;
  const refused = token.get() !== null;
  if (refused) token.set(null);
  draw();
  // Once by itself; who closed the question finds it again behind the button.
  if (!first && !refused) return;
  const why = refused ? 'The relay refused this token.' : `This relay shows nothing without its token: ${error.message}.`;
  if (await askForToken(why)) listed = 0;
}

byId('token').addEventListener('click', async () => {
  if (token.get() !== null) token.set(null);
  else if (await askForToken('With the token of this relay you may change things here.')) listed = 0;
  round();
});
document.addEventListener('token', connection);
document.addEventListener('visibilitychange', () => { if (!document.hidden) round(); });
theme.start();
overview.start();
round();
