// Light, dark, or as the system has it.

import { byId } from './dom.js';

const KEY = 'outbox-theme';
const NEXT = { system: 'light', light: 'dark', dark: 'system' };

function read() {
  try {
    return localStorage.getItem(KEY) in NEXT ? localStorage.getItem(KEY) : 'system';
  } catch {
    return 'system';
  }
}

let theme = read();

function apply() {
  if (theme === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId('theme').textContent = `Theme: ${theme}`;
}

export function start() {
  apply();
  byId('theme').addEventListener('click', () => {
    theme = NEXT[theme];
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // Then it is for this page only.
    }
    apply();
  });
}
