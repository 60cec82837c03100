// Asking the relay. The token is kept for this tab only.

const KEY = 'outbox-token';
let memory = null;

export const token = {
  get() {
    try {
      return sessionStorage.getItem(KEY) ?? memory;
    } catch {
      return memory;
    }
  },
  set(value) {
    memory = value;
    try {
      if (value === null) sessionStorage.removeItem(KEY);
      else sessionStorage.setItem(KEY, value);
    } catch {
      // A browser that keeps nothing: then only this page knows it.
    }
    document.dispatchEvent(new CustomEvent('token'));
  },
};

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// The relay, or the way to it, is not there.
export class Gone extends Error {}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  const shown = token.get();
  if (shown !== null) headers.Authorization = `Bearer ${shown}`;
  let answer;
  let body;
  try {
    const signal = AbortSignal.timeout(options.patience ?? 15_000);
    answer = await fetch(path, { ...options, headers, signal, redirect: 'error' });
    body = await answer.text();
  } catch (error) {
    throw new Gone(error.name === 'TimeoutError' ? 'no answer in time' : 'no connection');
  }
  let json = null;
  try {
    json = JSON.parse(body);
  } catch {
    // Something between us and the relay answered instead of it.
    if (answer.ok) throw new Gone('the answer is not one of the relay');
  }
  if (!answer.ok) throw new Refused(answer.status, json?.error ?? `status ${answer.status}`);
  return json;
}

export function get(path, query = {}) {
  const pairs = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== '');
  const text = new URLSearchParams(pairs).toString();
  return ask(text ? `${path}?${text}` : path);
}

export function post(path, body) {
  const headers = { 'Content-Type': 'application/json' };
  // A hundred thousand dead letters take their time.
  return ask(path, { method: 'POST', headers, body: JSON.stringify(body), patience: 600_000 });
}

export function routePath(route, rest) {
  return `/api/v1/routes/${encodeURIComponent(route)}/${rest}`;
}
