// Who shares the work, and who holds which partition.

import { byId, el, empty, plural, replace } from './dom.js';

// 1, 2, 3, 7 as "1–3, 7".
function ranges(numbers) {
  const parts = [];
  for (const one of numbers) {
    const last = parts.at(-1);
    if (last && last[1] === one - 1) last[1] = one;
    else parts.push([one, one]);
  }
  return parts.map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`)).join(', ');
}

function map(group) {
  const owners = new Map();
  group.relays.forEach((relay, index) => relay.partitions.forEach((one) => owners.set(one, [relay, index])));
  const cells = [...new Set([...owners.keys(), ...group.free])].sort((a, b) => a - b).map((one) => {
    const [relay, index] = owners.get(one) ?? [null, null];
    const whose = relay === null ? 'nobody’s' : `held by ${relay.id}`;
    return el('li', {
      class: relay === null ? 'cell free' : `cell tint-${index % 6}`, title: `Partition ${one}: ${whose}`,
    }, String(one), el('span', { class: 'hidden' }, ` ${whose}`));
  });
  return el('ul', { class: 'cells', 'aria-label': 'Partitions' }, cells);
}

export function show(group, error) {
  byId('relays-note').textContent = group ? plural(group.partitions, 'partition') : '';
  if (error) {
    replace(byId('relays'), el('p', { class: 'problem' }, error));
    return;
  }
  const rows = group.relays.map((relay, index) => el('li', {},
    el('span', { class: `swatch tint-${index % 6}` }),
    el('span', { class: 'who' }, el('code', { title: relay.id }, relay.id),
      relay.this ? el('span', { class: 'badge' }, 'this process') : null),
    el('span', { class: 'muted' }, relay.partitions.length === 0 ? 'no partitions'
      : `${plural(relay.partitions.length, 'partition')}: ${ranges(relay.partitions)}`)));
  const free = group.free.length === 0 ? null
    : el('p', { class: 'problem' }, `${plural(group.free.length, 'partition')} nobody holds: ${ranges(group.free)}`);
  replace(byId('relays'),
    rows.length === 0 ? empty('No relay runs', 'Nothing is delivered until one does.') : el('ul', { class: 'relays' }, rows),
    free, map(group));
}
