// Questions: for the token, and before a change. And short notices.

import { byId, el } from './dom.js';
import { token } from './client.js';

// Shows a dialog and gives back what `value` says when it is confirmed, or null.
function ask(title, content, confirm, value, danger = false) {
  return new Promise((resolve) => {
    const cancel = el('button', { type: 'button', class: 'quiet', 'data-answer': 'cancel' }, 'Cancel');
    const go = el('button', { type: 'submit', class: danger ? 'danger' : 'primary', 'data-answer': 'confirm' }, confirm);
    const form = el('form', {},
      el('h2', { id: 'dialog-title' }, title), content, el('div', { class: 'answers' }, cancel, go));
    const dialog = el('dialog', { 'aria-labelledby': 'dialog-title' }, form);
    let answer = null;
    cancel.addEventListener('click', () => dialog.close());
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      answer = value();
      dialog.close();
    });
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve(answer);
    });
    document.body.append(dialog);
    dialog.showModal();
    // What cannot be taken back is not one press of Enter away.
    if (danger) cancel.focus();
  });
}

let asking = null;

// Asks for the token, once at a time. Gives back whether there is one now.
export function askForToken(why) {
  asking ??= (async () => {
    const input = el('input', {
      id: 'token-input', type: 'password', autocomplete: 'off', spellcheck: 'false', required: true,
    });
    const content = el('div', { class: 'field' },
      el('p', {}, why),
      el('label', { for: 'token-input' }, 'Token (http.token)'), input,
      el('p', { class: 'muted small' }, 'It is kept for this tab only, and forgotten when you close it.'));
    const shown = await ask('Token needed', content, 'Use token', () => input.value.trim());
    if (shown) token.set(shown);
    return Boolean(shown);
  })().finally(() => { asking = null; });
  return asking;
}

export function confirmChange({ title, lines, confirm, danger }) {
  const content = el('div', {}, lines.map((line) => (typeof line === 'string' ? el('p', {}, line) : line)));
  return ask(title, content, confirm, () => true, danger);
}

export function toast(text, bad = false) {
  const one = el('p', { class: bad ? 'toast bad' : 'toast' }, text);
  byId('toasts').append(one);
  setTimeout(() => one.remove(), bad ? 15_000 : 7_000);
}
