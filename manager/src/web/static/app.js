// What is known, how it comes here, and what is done: the manager tells of changes (server-sent events), and what is looked at
// closer is asked for. Everything is drawn anew from what is known; see view.js.

import * as view from '/view.js';

const main = document.querySelector('#main');
const live = document.querySelector('#live');
const liveText = document.querySelector('#live-text');

/** Without a sign of life for this long the connection is lost: the manager gives one every two seconds. */
const SILENCE_MILLIS = 7000;
/** Pause before it is tried again, doubled up to the most. */
const AGAIN_MILLIS = 1000;
const AGAIN_MILLIS_MAX = 15000;
/** How long something that was done is told. */
const SAID_MILLIS = 8000;
/** Sets of a history that are kept. */
const SETS_MAX = 2000;

const known = {
  me: null,
  sources: null,
  /** How far the manager's clock is ahead of ours. */
  ahead: 0,
  /** By place: lists that were asked for, with what they were asked at. */
  lists: new Map(),
  /** By source: revisions of the history that are open. */
  open: new Map(),
  /** By source and receiver. */
  plans: new Map(),
  letters: new Map(),
  /** What is being decided. */
  busy: new Set(),
};

const now = () => Date.now() + known.ahead;

/** Where the address says to be: `#/source/NAME/conflicts`, `#/source/NAME/receiver/NAME`. */
function place() {
  const parts = location.hash.replace(/^#\/?/, '').split('/').filter(Boolean).map((part) => {
    try { return decodeURIComponent(part); } catch { return part; }
  });
  if (parts[0] !== 'source' || parts[1] === undefined) return { view: 'overview' };
  if (parts[2] === 'receiver' && parts[3] !== undefined) return { view: 'receiver', source: parts[1], receiver: parts[3] };
  const tab = ['conflicts', 'dead-letters', 'history'].includes(parts[2]) ? parts[2] : '';
  return { view: 'source', source: parts[1], tab };
}

class Refused extends Error {}

/** Asks the manager; fails with its words. */
async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'deltabus-csrf': known.me.csrf },
    body: JSON.stringify(body),
  };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Refused('The manager can’t be reached.');
  }
  if (answer.status === 401) {
    end();
    throw new Refused('Your session has ended.');
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(content.problem ?? `The manager refused (${answer.status}).`);
  return content;
}

const at = (...parts) => `/api/${parts.map(encodeURIComponent).join('/')}`;

/** The session is over: only a new link leads back. */
function end() {
  location.replace('/login');
}

function state(name, text) {
  live.dataset.state = name;
  if (liveText.textContent !== text) liveText.textContent = text;
}

let silence;
let again = AGAIN_MILLIS;

/** Follows what the manager tells, and begins again when the connection is lost. */
function follow() {
  const events = new EventSource('/api/events');
  const lose = () => {
    clearTimeout(silence);
    events.close();
    document.body.classList.add('lost');
    state('lost', 'connection lost, trying again');
    // Whether the manager is away or the session is over, it says when it is asked.
    setTimeout(begin, again);
    again = Math.min(again * 2, AGAIN_MILLIS_MAX);
  };
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(lose, SILENCE_MILLIS);
    again = AGAIN_MILLIS;
    document.body.classList.remove('lost');
    state('live', 'live');
  };
  events.addEventListener('error', lose);
  events.addEventListener('restart', lose);
  events.addEventListener('beat', heard);
  events.addEventListener('end', () => {
    clearTimeout(silence);
    events.close();
    end();
  });
  events.addEventListener('overview', (event) => {
    heard();
    if (!event.data) return;
    const told = JSON.parse(event.data);
    known.sources = told.sources.map((source) => ({ ...source, span_millis: told.span_millis }));
    show();
  });
  silence = setTimeout(lose, SILENCE_MILLIS);
}

async function begin() {
  try {
    known.me = await ask('/api/me');
  } catch {
    document.body.classList.add('lost');
    state('lost', 'connection lost, trying again');
    setTimeout(begin, again);
    again = Math.min(again * 2, AGAIN_MILLIS_MAX);
    return;
  }
  known.ahead = Number(known.me.now_millis) - Date.now();
  document.querySelector('#who').textContent = `${known.me.name} at ${known.me.manager}`;
  follow();
}

const find = (name) => known.sources?.find((source) => source.name === name);

/** A list of the source, asked for again when the source's log or its receivers have moved on. */
function list(source, name) {
  const key = `${source.name} ${name}`;
  const mark = [source.revision, source.conflicts, source.dead_letters].join(' ');
  const entry = known.lists.get(key) ?? { mark: null, content: null, problem: null, asked: false };
  known.lists.set(key, entry);
  if (entry.mark !== mark && !entry.asked) {
    entry.asked = true;
    ask(at('sources', source.name, name)).then(
      (content) => { entry.content = name === 'history' ? joined(entry.content, content) : content; entry.problem = null; },
      (error) => { entry.problem = error.message; },
    ).finally(() => { entry.mark = mark; entry.asked = false; show(); });
  }
  return entry;
}

/** What was loaded of a history before, with what is newer. */
function joined(before, newest) {
  if (before === null) return newest;
  const last = newest.sets.at(-1);
  const overlap = last === undefined ? -1 : before.sets.findIndex((set) => set.revision === last.revision);
  if (overlap < 0) return newest;
  const sets = [...newest.sets, ...before.sets.slice(overlap + 1)];
  return { ...before, sets: sets.slice(0, SETS_MAX) };
}

/** What a source's tab shows. */
function content(source, tab) {
  if (tab === '') return null;
  const entry = list(source, tab);
  if (entry.problem !== null) return view.failed(entry.problem);
  if (entry.content === null) return view.loading();
  if (tab === 'conflicts') return view.conflicts(source, entry.content, known.busy, now());
  if (tab === 'dead-letters') return view.deadLetters(source, entry.content, known.busy, now());
  return view.history(source, entry.content, opened(source.name), now());
}

function opened(source) {
  if (!known.open.has(source)) known.open.set(source, new Map());
  return known.open.get(source);
}

function receiver(source, name) {
  const those = (source.receivers ?? []).filter((one) => one.name === name && !one.never);
  return those.sort((a, b) => b.seen_millis - a.seen_millis)[0];
}

function drawn() {
  const here = place();
  if (known.sources === null) return view.loading();
  if (here.view === 'overview') return view.overview(known.sources, now());
  const source = find(here.source);
  if (source === undefined) return view.failed(`There is no source ${here.source}.`);
  if (here.view === 'source') return view.sourceView(source, here.tab, content(source, here.tab), now());
  const one = receiver(source, here.receiver);
  if (one === undefined) return view.failed(`There is no receiver ${here.receiver} of ${here.source}.`);
  const key = `${source.name} ${one.name}`;
  const letters = known.letters.get(key);
  if (letters === undefined || (letters.mark !== one.dead_letters && !letters.loading)) askLetters(source.name, one.name, one.dead_letters);
  return view.receiverView(source, one, known.plans.get(key), known.letters.get(key), known.busy, now());
}

/** Draws what is known where the address says to be. */
function show() {
  const before = document.activeElement;
  const inside = before !== null && before !== document.body && main.contains(before);
  const fresh = document.createElement('main');
  fresh.id = 'main';
  fresh.tabIndex = -1;
  fresh.append(drawn());
  view.patch(main, fresh);
  // Where what had the focus is gone, it goes to the heading and not to the beginning of the page.
  if (inside && !main.contains(document.activeElement)) main.querySelector('h1')?.focus();
  const here = place();
  document.title = here.view === 'overview' ? 'deltabus' : `${here.receiver ?? here.source} – deltabus`;
}

let saying;
function say(text, kind = 'good') {
  const said = document.querySelector('#said');
  clearTimeout(saying);
  said.replaceChildren(view.make('p', { class: `banner ${kind}` }, view.words(text)));
  saying = setTimeout(() => said.replaceChildren(), SAID_MILLIS);
}

/** Asks whether that is meant. */
function sure(title, text, yes) {
  const dialog = document.querySelector('#ask');
  document.querySelector('#ask-title').textContent = title;
  document.querySelector('#ask-text').replaceChildren(...view.words(text));
  document.querySelector('#ask-yes').textContent = yes;
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}
document.querySelector('#ask-yes').addEventListener('click', () => document.querySelector('#ask').close('yes'));
document.querySelector('#ask-no').addEventListener('click', () => document.querySelector('#ask').close('no'));

/** Does something about a case, which can't be done twice meanwhile. */
async function about(key, doing) {
  if (known.busy.has(key)) return;
  known.busy.add(key);
  show();
  try {
    await doing();
  } catch (error) {
    say(error.message, 'bad');
  } finally {
    known.busy.delete(key);
    show();
  }
}

/** A list is out of date: it is asked for again. */
function stale(source) {
  for (const [key, entry] of known.lists) {
    if (key.startsWith(`${source} `)) entry.mark = null;
  }
}

function askLetters(source, name, mark) {
  const key = `${source} ${name}`;
  const before = known.letters.get(key);
  known.letters.set(key, { loading: before === undefined, ...before, mark });
  ask(at('receivers', source, name, 'dead-letters')).then(
    (answer) => known.letters.set(key, { ...answer, mark }),
    (error) => known.letters.set(key, { problem: error.message, mark }),
  ).finally(show);
}

async function loadSet(source, revision, setAt, from) {
  const of = opened(source);
  const before = of.get(revision);
  try {
    const told = await ask(`${at('sources', source, 'history', revision)}?at=${setAt}&from=${from}`);
    if (of.has(revision)) of.set(revision, { ...told, changes: [...(from > 0 ? before.changes : []), ...told.changes] });
  } catch (error) {
    of.set(revision, { problem: error.message });
  }
  show();
}

const actions = {
  async confirm({ source, held }) {
    if (!await sure('Let this delete go?', `${held}. Every receiver of \`${source}\` deletes these records, too.`, 'Let it go')) return;
    await about(`${source} held`, async () => {
      const { answer } = await ask(at('sources', source, 'confirm'), { held });
      say(answer);
    });
  },

  async decide({ source, id, decision }) {
    if (decision === 'drop' && !await sure('Drop this edit?', `Edit ${id} is forgotten; the source stays as it is.`, 'Drop it')) return;
    await about(`${source} ${id}`, async () => {
      const { answer, open } = await ask(at('sources', source, 'decide'), { id, decision });
      stale(source);
      say(`${id}: ${answer}`, open ? 'warn' : 'good');
    });
  },

  async settle({ source, receiver: name, id, decision }) {
    if (decision === 'drop' && !await sure('Drop this change?', `${id} is forgotten: the destination stays as it is.`, 'Drop it')) return;
    await about(`${source} ${id}`, async () => {
      const number = Number(id.split('/').at(-1));
      const { answer, offline } = await ask(at('receivers', source, name, 'dead-letters'), { numbers: [number], decision });
      if (offline) throw new Refused(`${name} isn’t there any more; nothing was done.`);
      const [outcome] = answer.outcomes ?? [];
      if (outcome?.outcome === 'refused') say(`${id}: refused again: ${outcome.reason}`, 'warn');
      else say(`${id}: ${{ applied: 'the destination has it now', dropped: 'dropped', unknown: 'it was settled before' }[outcome?.outcome] ?? 'done'}`);
      askLetters(source, name, null);
    });
  },

  async plan({ source, receiver: name }) {
    const key = `${source} ${name}`;
    known.plans.set(key, { loading: true });
    show();
    try {
      const revision = find(source)?.revision;
      known.plans.set(key, { ...await ask(at('receivers', source, name, 'plan')), asked_millis: now(), revision });
    } catch (error) {
      known.plans.set(key, { problem: error.message });
    }
    show();
  },

  async set({ source, revision, at: setAt }) {
    const of = opened(source);
    if (of.has(revision)) {
      of.delete(revision);
      show();
      return;
    }
    of.set(revision, {});
    show();
    await loadSet(source, revision, setAt, 0);
  },

  async 'more-changes'({ source, revision, at: setAt, from }) {
    await loadSet(source, revision, setAt, Number(from));
  },

  async older({ source }) {
    const entry = known.lists.get(`${source} history`);
    if (!entry?.content?.next) return;
    await about(`${source} older`, async () => {
      const { before, at: message } = entry.content.next;
      const older = await ask(`${at('sources', source, 'history')}?before=${before}&at=${message}`);
      const sets = [...entry.content.sets, ...older.sets];
      entry.content = sets.length >= SETS_MAX ? { ...older, sets, next: null } : { ...older, sets };
    });
  },

  skip() {
    main.focus();
  },

  async 'log-out'() {
    try {
      await ask('/api/logout', {});
      end();
    } catch (error) {
      say(error.message, 'bad');
    }
  },
};

document.addEventListener('click', (event) => {
  const button = event.target instanceof Element ? event.target.closest('[data-action]') : null;
  if (button === null || button.disabled) return;
  // Where to be is said by the address alone.
  if (button.dataset.action === 'skip') event.preventDefault();
  actions[button.dataset.action]?.({ ...button.dataset });
});

addEventListener('hashchange', () => {
  show();
  main.querySelector('h1')?.focus({ preventScroll: true });
  scrollTo(0, 0);
});

// Times that are told as how long ago.
setInterval(() => {
  for (const time of document.querySelectorAll('time[data-at]')) {
    const text = view.ago(Number(time.dataset.at), now());
    if (time.textContent !== text) time.textContent = text;
  }
}, 1000);

show();
begin();
