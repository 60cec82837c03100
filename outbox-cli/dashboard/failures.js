// What went wrong lately, the newest first.

import { ago, byId, duration, el, empty, replace } from './dom.js';

const KINDS = {
  retrying: ['retry', 'warn'],
  dead_letter: ['dead', 'bad'],
  broker: ['broker', 'bad'],
  store: ['store', 'bad'],
};

function message(failure) {
  const parts = [];
  if (failure.topic) parts.push(failure.topic);
  if (failure.key) parts.push(`key ${failure.key}`);
  if (failure.attempts) parts.push(`attempt ${failure.attempts}`);
  if (failure.retry_after_seconds) parts.push(`again after ${duration(failure.retry_after_seconds)}`);
  if (failure.operation) parts.push(failure.operation);
  return parts.join(' · ');
}

export function show(answer, error) {
  if (error) {
    replace(byId('failures'), el('p', { class: 'problem' }, error));
    return;
  }
  const { failures } = answer;
  if (failures.length === 0) {
    replace(byId('failures'), empty('Nothing has failed', 'since this relay started.'));
    return;
  }
  const rows = failures.slice(0, 50).map((failure) => {
    const [name, mood] = KINDS[failure.kind] ?? [failure.kind, 'warn'];
    return el('li', {},
      el('span', { class: `badge ${mood}` }, name),
      el('span', { class: 'said' }, failure.error,
        failure.times > 1 ? el('span', { class: 'muted' }, ` (${failure.times} times)`) : null),
      el('span', { class: 'muted small of' }, message(failure)),
      el('span', { class: 'muted small when' }, ago(failure.at)));
  });
  replace(byId('failures'), el('ul', { class: 'failures' }, rows));
}
