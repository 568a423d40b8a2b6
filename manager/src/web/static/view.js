// How things look: elements made of what the manager told. Every text goes in as text, never as HTML.

const SVG = 'http://www.w3.org/2000/svg';

/** Makes an element: `make('p', { class: 'x' }, 'text', child, …)`. What is null or false is left out. */
export function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function draw(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(key, '');
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** Makes `old` look like `fresh` and touches only what differs, so that focus, selection and scrolling stay. */
export function patch(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of [...fresh.attributes]) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const keyed = new Map();
  for (const child of old.children) {
    const key = child.getAttribute('data-key');
    if (key !== null) keyed.set(key, child);
  }
  let at = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const key = wanted.nodeType === Node.ELEMENT_NODE ? wanted.getAttribute('data-key') : null;
    let found = key === null ? at : (keyed.get(key) ?? null);
    if (key === null && at !== null && at.nodeType === Node.ELEMENT_NODE && at.hasAttribute('data-key')) found = null;
    if (found !== null && found.nodeType === wanted.nodeType && found.nodeName === wanted.nodeName) {
      if (found === at) at = at.nextSibling;
      else old.insertBefore(found, at);
      if (found.nodeType === Node.ELEMENT_NODE) patch(found, wanted);
      else if (found.data !== wanted.data) found.data = wanted.data;
    } else {
      old.insertBefore(wanted, at);
    }
  }
  while (at !== null) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

const NUMBER = new Intl.NumberFormat('en');
const number = (value) => NUMBER.format(Number(value) || 0);

/** `1 record`, `2 records`. */
export const counted = (count, one) => `${number(count)} ${one}${Number(count) === 1 ? '' : 's'}`;

/** How long ago, for people. */
export function ago(millis, now) {
  if (!millis) return 'never';
  const seconds = Math.max(0, Math.round((now - millis) / 1000));
  if (seconds < 15) return 'now';
  if (seconds < 120) return `${seconds} s ago`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} days ago`;
}

const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });

function when(millis, now) {
  if (!millis) return 'never';
  const at = new Date(Number(millis));
  return make('time', { datetime: at.toISOString(), title: DATE.format(at), 'data-at': millis }, ago(millis, now));
}

/** A sentence, with what stands in backquotes as code. */
export function words(text) {
  return String(text).split(/`([^`]+)`/).map((part, i) => (i % 2 === 1 ? make('code', {}, part) : part));
}

/** A record's key, which comes in backquotes. */
const keyText = (key) => String(key ?? '').replace(/^`|`$/g, '');

const chip = (kind, ...text) => make('span', { class: `chip ${kind}` }, text);

function bytes(count) {
  const value = Number(count) || 0;
  if (value < 1e3) return `${value} B`;
  if (value < 1e6) return `${(value / 1e3).toFixed(1)} kB`;
  return `${(value / 1e6).toFixed(1)} MB`;
}

/** Changes of the last minutes as a line. */
function sparkline(line, span) {
  const values = (Array.isArray(line) ? line : []).map((value) => Number(value) || 0);
  const sum = values.reduce((a, b) => a + b, 0);
  const most = Math.max(1, ...values);
  const minutes = Math.round((values.length * span) / 60000);
  const width = 240;
  const height = 40;
  const points = values.map((value, i) => {
    const x = values.length > 1 ? (i * width) / (values.length - 1) : width;
    return `${x.toFixed(1)},${(height - 2 - (value / most) * (height - 6)).toFixed(1)}`;
  });
  const label = `${counted(sum, 'change')} in the last ${minutes} minutes`;
  return make('figure', { class: 'spark' },
    draw('svg', { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label },
      points.length > 1 && draw('polygon', { class: 'area', points: `0,${height} ${points.join(' ')} ${width},${height}` }),
      points.length > 1 && draw('polyline', { class: 'line', points: points.join(' ') })),
    make('figcaption', {}, `${counted(sum, 'change')} in ${minutes} min`));
}

/** The transmitter that speaks for a source: of several the one that was heard of last. */
export function transmitter(source) {
  return [...(source.transmitters ?? [])].sort((a, b) => b.seen_millis - a.seen_millis)[0] ?? null;
}

function transmitterState(source, now) {
  const active = transmitter(source);
  if (active === null || !active.seen_millis) return chip('muted', 'nobody has transmitted it yet');
  if (active.gone) return chip('bad', 'transmitter gone, last seen ', when(active.seen_millis, now));
  return chip('good', 'transmitting');
}

function receiverState(receiver, now) {
  if (receiver.revoked) return chip('bad', 'revoked');
  if (receiver.never) return chip('muted', receiver.seen_millis ? 'not receiving' : 'never seen');
  if (receiver.gone) return chip('bad', 'gone, last seen ', when(receiver.seen_millis, now));
  if (receiver.problem) return chip('bad', 'in trouble');
  if (receiver.behind > 0) return chip('warn', 'catching up');
  return chip('good', 'up to date');
}

const path = (...parts) => `#/${parts.map(encodeURIComponent).join('/')}`;

function facts(...pairs) {
  return make('dl', { class: 'facts' }, pairs.filter(Boolean).map(([name, value]) =>
    make('div', {}, make('dt', {}, name), make('dd', {}, value))));
}

function attention(source) {
  const chips = [];
  const held = transmitter(source)?.held;
  if (held) chips.push(make('a', { class: 'chip warn', href: path('source', source.name) }, 'delete held back'));
  if (source.conflicts > 0) {
    const open = source.open > 0 ? ` (${number(source.open)} open)` : '';
    chips.push(make('a', { class: 'chip warn', href: path('source', source.name, 'conflicts') }, counted(source.conflicts, 'conflict') + open));
  }
  if (source.dead_letters > 0) {
    chips.push(make('a', { class: 'chip warn', href: path('source', source.name, 'dead-letters') }, counted(source.dead_letters, 'dead letter')));
  }
  if (source.readable === false) chips.push(chip('bad', 'its log can’t be read'));
  return chips;
}

function receivers(source, now) {
  const all = source.receivers ?? [];
  if (all.length === 0) {
    return make('p', { class: 'empty' }, 'No receivers yet. ', make('code', {}, `deltabus enroll NAME --read ${source.name}`), ' lets one in.');
  }
  const row = (receiver) => make('tr', { 'data-key': `${receiver.participant}/${receiver.name}`, class: receiver.gone ? 'gone' : null },
    make('th', { scope: 'row' },
      receiver.never ? receiver.name : make('a', { href: path('source', source.name, 'receiver', receiver.name) }, receiver.name),
      receiver.reverse && make('span', { class: 'tag', title: 'sends edits back' }, '⇄ both ways')),
    make('td', { 'data-label': 'State' }, receiverState(receiver, now)),
    make('td', { 'data-label': 'Revision', class: 'num' }, receiver.never ? '–' : number(receiver.revision)),
    make('td', { 'data-label': 'Behind', class: 'num' }, receiver.never ? '–' : number(receiver.behind)),
    make('td', { 'data-label': 'To look at' }, notes(source, receiver)),
    make('td', { 'data-label': 'Seen' }, when(receiver.seen_millis, now)));
  return make('table', { class: 'rows' },
    make('caption', { class: 'hidden' }, `Receivers of ${source.name}`),
    make('thead', {}, make('tr', {}, ['Receiver', 'State', 'Revision', 'Behind', 'To look at', 'Seen'].map((head, i) =>
      make('th', { scope: 'col', class: i === 2 || i === 3 ? 'num' : null }, head)))),
    make('tbody', {}, all.map(row)));
}

function notes(source, receiver) {
  const parts = [];
  if (receiver.waiting > 0) parts.push(counted(receiver.waiting, 'edit') + ' waiting');
  if (receiver.drift > 0) parts.push(counted(receiver.drift, 'drifted record'));
  const text = parts.length > 0 ? make('span', {}, parts.join(', ')) : null;
  const letters = receiver.dead_letters > 0
    ? make('a', { class: 'chip warn', href: path('source', source.name, 'receiver', receiver.name) }, counted(receiver.dead_letters, 'dead letter'))
    : null;
  const problem = receiver.problem ? make('span', { class: 'problem' }, words(receiver.problem)) : null;
  return text || letters || problem ? make('div', { class: 'notes' }, letters, text, problem) : '–';
}

function head(source, now, level) {
  const active = transmitter(source);
  return [
    make('header', { class: 'card-head' },
      make('div', {},
        make(level, { tabindex: '-1' }, level === 'h1' ? source.name : make('a', { href: path('source', source.name) }, source.name)),
        make('p', { class: 'chips' }, transmitterState(source, now), attention(source))),
      sparkline(source.line, source.span_millis ?? 5000)),
    facts(['Revision', number(source.revision)], ['Records', number(source.records)],
      ['Changed', when(source.time_millis, now)], active?.waiting > 0 && ['Waiting to be published', counted(active.waiting, 'set')]),
    active?.problem && make('p', { class: 'banner bad' }, make('strong', {}, 'The transmitter is in trouble: '), words(active.problem)),
  ];
}

function heldBanner(source) {
  const active = transmitter(source);
  if (!active?.held) return null;
  return make('section', { class: 'banner warn', 'aria-label': 'A delete that is held back' },
    make('div', {},
      make('strong', {}, 'A delete is held back'),
      make('p', {}, words(active.held)),
      make('p', { class: 'hint' }, 'If the source is as it should be, let it go. If not, put the source right, and this is forgotten.')),
    make('button', { type: 'button', class: 'danger', 'data-action': 'confirm', 'data-source': source.name, 'data-held': active.held }, 'Let it go …'));
}

/** All sources. */
export function overview(all, now) {
  if (all.length === 0) {
    return make('div', {}, make('h1', { tabindex: '-1' }, 'Sources'), make('p', { class: 'empty' }, 'No sources yet. ',
      make('code', {}, 'deltabus enroll NAME --publish SOURCE'), ' lets in whoever transmits one.'));
  }
  return make('div', {},
    make('h1', { tabindex: '-1', class: 'hidden' }, 'Sources'),
    all.map((source) => make('article', { class: 'card', 'data-key': source.name, 'aria-label': `Source ${source.name}` },
      head(source, now, 'h2'), heldBanner(source), receivers(source, now))));
}

const TABS = [['', 'Receivers'], ['conflicts', 'Conflicts'], ['dead-letters', 'Dead letters'], ['history', 'History']];

/** One source, with one of its tabs. */
export function sourceView(source, tab, content, now) {
  const count = { conflicts: source.conflicts, 'dead-letters': source.dead_letters };
  return make('div', {},
    make('nav', { 'aria-label': 'Where you are', class: 'crumbs' }, make('a', { href: '#/' }, 'Sources'), ' / ', source.name),
    make('article', { class: 'card' },
      head(source, now, 'h1'),
      heldBanner(source),
      make('nav', { class: 'tabs', 'aria-label': `Parts of ${source.name}` }, TABS.map(([name, title]) =>
        make('a', { href: path(...['source', source.name, name].filter(Boolean)), 'aria-current': tab === name ? 'page' : null },
          title, count[name] > 0 && make('span', { class: 'count' }, number(count[name]))))),
      tab === '' ? receivers(source, now) : content));
}

export const loading = () => make('p', { class: 'empty', role: 'status' }, 'Loading …');
export const failed = (problem) => make('p', { class: 'banner bad', role: 'alert' }, words(problem));

/** Fields with their values, under these heads; a head that is null has no column. */
function fieldTable(fields, heads, more) {
  const sides = ['before', 'after'].map((side, i) => [side, heads[i]]).filter(([, head]) => head !== null);
  const cell = (field) => ([side, head]) => make('td', { class: side, 'data-label': head },
    field[side] ?? make('span', { class: 'absent' }, '(absent)'));
  return make('table', { class: 'diff' },
    make('thead', {}, make('tr', {}, ['Field', ...sides.map(([, head]) => head)].map((head) => make('th', { scope: 'col' }, head)))),
    make('tbody', {}, (Array.isArray(fields) ? fields : []).map((field) => make('tr', {},
      make('th', { scope: 'row' }, field.name), sides.map(cell(field))))),
    more > 0 && make('tfoot', {}, make('tr', {}, make('td', { colspan: 3 }, `and ${counted(more, 'more field')}`))));
}

const KINDS = { insert: ['added', '+'], update: ['changed', '~'], delete: ['removed', '−'] };

function change(item) {
  const [word, sign] = KINDS[item.change] ?? ['changed', '~'];
  return make('li', { class: `change ${word}` },
    make('p', { class: 'record' }, make('span', { class: 'sign', 'aria-label': word }, sign), ' ',
      make('span', { class: 'muted' }, item.collection), ' ', make('code', {}, keyText(item.key))),
    fieldTable(item.fields, [item.change === 'insert' ? null : 'Before', item.change === 'delete' ? null : 'After'], item.more_fields));
}

const choice = (source, id, decision, text, busy, kind) => make('button', {
  type: 'button', class: kind, 'data-action': 'decide', 'data-source': source, 'data-id': id, 'data-decision': decision,
  disabled: busy.has(`${source} ${id}`),
}, text);

/** Conflicts that wait. */
export function conflicts(source, list, busy, now) {
  if (list.cases.length === 0) return make('p', { class: 'empty' }, 'No conflicts: nobody disagrees.');
  const shown = [...list.cases].sort((a, b) => Number(b.open) - Number(a.open));
  return make('div', {}, incomplete(list),
    make('ol', { class: 'cases' }, shown.map((item) => make('li', { 'data-key': item.id, class: 'case', 'aria-label': `Conflict ${item.id}` },
      make('p', { class: 'record' }, make('strong', {}, item.id), ' ', make('span', { class: 'muted' }, item.collection), ' ',
        make('code', {}, keyText(item.key)), ' ', item.open ? chip('warn', 'open') : chip('muted', `${item.stands === 'edit' ? 'the edit' : 'the source'} stands`)),
      make('p', { class: 'muted' }, 'edited by ', make('strong', {}, item.receiver), ` (reverse set ${number(item.reverse_set)}), found `,
        when(item.time_millis, now), ` in revision ${number(item.revision)}`),
      sides(source.name, item, busy)))));
}

function sides(source, item, busy) {
  const keep = choice(source, item.id, 'source', item.edit_deletes ? 'Keep the record' : item.source_deleted ? 'Delete it again' : 'Take the source’s', busy);
  const take = choice(source, item.id, 'edit', item.edit_deletes ? 'Delete it' : item.source_deleted ? 'Keep the edit' : 'Take the edit', busy);
  if (item.field === null || item.field === undefined) {
    const text = item.source_deleted
      ? `The source had deleted the record, and ${item.receiver} edited it: it came back with the edit.`
      : `${item.receiver} deleted the record, but the source had changed it: it stays.`;
    return make('div', {}, make('p', {}, text), make('div', { class: 'buttons' }, keep, take));
  }
  const side = (title, value, stands, button) => make('div', { class: stands ? 'side stands' : 'side' },
    make('p', { class: 'side-title' }, title, stands && chip('good', 'stands')), make('p', { class: 'value' }, value), button);
  return make('div', {},
    make('p', {}, 'Field ', make('strong', {}, item.field), ': both started from ', make('span', { class: 'value' }, item.base)),
    make('div', { class: 'sides' },
      side('The source has', item.source, item.stands === 'source', keep),
      side(`${item.receiver} wanted`, item.edit, item.stands === 'edit', take)));
}

const incomplete = (list) => [
  list.complete === false && make('p', { class: 'hint' }, 'The log is long, and only its newer part was looked at: there may be more.'),
  list.more > 0 && make('p', { class: 'hint' }, `The newest are shown; ${number(list.more)} more wait behind them.`),
];

/** Edits that the source refused, and where receivers have dead letters of their own. */
export function deadLetters(source, list, busy, now) {
  const elsewhere = (source.receivers ?? []).filter((receiver) => receiver.dead_letters > 0);
  const links = elsewhere.length > 0 && make('p', { class: 'banner' }, make('span', {}, 'Refused by destinations: ',
    elsewhere.map((receiver, i) => [i > 0 && ', ', make('a', { href: path('source', source.name, 'receiver', receiver.name) },
      `${receiver.name} (${number(receiver.dead_letters)})`)])));
  if (list.cases.length === 0) return make('div', {}, links, make('p', { class: 'empty' }, 'No edits that the source refused.'));
  return make('div', {}, links, incomplete(list),
    make('ol', { class: 'cases' }, list.cases.map((item) => make('li', { 'data-key': item.id, class: 'case', 'aria-label': `Dead letter ${item.id}` },
      make('p', { class: 'record' }, make('strong', {}, item.id), ' ', make('span', { class: 'muted' }, item.collection), ' ', make('code', {}, keyText(item.key))),
      make('p', { class: 'muted' }, 'an edit of ', make('strong', {}, item.receiver), `, refused by the source in revision ${number(item.revision)}, `, when(item.time_millis, now)),
      make('p', { class: 'problem' }, words(item.reason)),
      fieldTable(item.fields, ['Before the edit', 'Wanted']),
      make('div', { class: 'buttons' }, choice(source.name, item.id, 'retry', 'Try again', busy), choice(source.name, item.id, 'drop', 'Drop …', busy, 'danger'))))));
}

/** Sets, the newest first. */
export function history(source, list, open, now) {
  const rows = list.sets.map((set) => {
    const key = String(set.revision);
    const detail = open.get(key);
    const origin = set.foundation ? [chip('muted', 'the log begins here')] : [
      ...(set.edited_by ?? []).map((receiver) => chip('plain', `edits of ${receiver}`)),
      ...(set.decides ?? []).map((id) => chip('plain', `decides ${id}`)),
      set.cases > 0 && chip('warn', counted(set.cases, 'case')),
      set.schemas > 0 && chip('plain', 'fields changed'),
    ];
    if (!set.foundation && origin.every((part) => part === false)) origin.push(chip('muted', 'the source itself'));
    return make('li', { 'data-key': `${key} ${set.foundation ? 'f' : ''}`, class: 'set' },
      make('div', { class: 'set-head' },
        make('strong', { class: 'num' }, number(set.revision)),
        when(set.time_millis, now),
        set.foundation ? make('span', {}, counted(set.records, 'record')) : make('span', { class: 'deltas' },
          make('span', { class: 'plus' }, `+${number(set.inserts)}`), ' ', make('span', { class: 'tilde' }, `~${number(set.updates)}`), ' ',
          make('span', { class: 'minus' }, `−${number(set.deletes)}`), ' ', make('span', { class: 'muted' }, bytes(set.bytes))),
        make('span', { class: 'chips' }, origin),
        !set.foundation && make('button', {
          type: 'button', class: 'quiet', 'data-action': 'set', 'data-source': source.name, 'data-revision': key, 'data-at': set.at,
          'aria-expanded': detail !== undefined, 'aria-label': `Changes of revision ${key}`,
        }, detail === undefined ? 'Show' : 'Hide')),
      detail !== undefined && setDetail(source, key, set.at, detail));
  });
  return make('div', {}, make('ol', { class: 'sets' }, rows),
    list.next && make('p', { class: 'buttons' }, make('button', { type: 'button', 'data-action': 'older', 'data-source': source.name }, 'Older')),
    !list.next && make('p', { class: 'hint' }, list.begins ? 'That is all the log has.' : 'The log has nothing older.'));
}

function setDetail(source, revision, at, detail) {
  if (detail.problem) return failed(detail.problem);
  if (!detail.changes) return loading();
  return make('div', { class: 'detail' },
    detail.changes.length === 0 ? make('p', { class: 'hint' }, 'It changes no record.') : make('ol', { class: 'changes' }, detail.changes.map(change)),
    detail.next !== null && detail.next !== undefined && make('p', { class: 'buttons' }, make('button', {
      type: 'button', 'data-action': 'more-changes', 'data-source': source.name, 'data-revision': revision, 'data-at': at, 'data-from': detail.next,
    }, `More (${number(detail.changes.length)} of ${number(detail.all)})`)),
    make('p', { class: 'hint' }, 'digest ', make('code', {}, detail.digest)));
}

/** One receiver: how it stands, its plan and its dead letters. */
export function receiverView(source, receiver, plan, letters, busy, now) {
  return make('div', {},
    make('nav', { 'aria-label': 'Where you are', class: 'crumbs' }, make('a', { href: '#/' }, 'Sources'), ' / ',
      make('a', { href: path('source', source.name) }, source.name), ' / ', receiver.name),
    make('article', { class: 'card' },
      make('h1', { tabindex: '-1' }, receiver.name),
      make('p', { class: 'chips' }, receiverState(receiver, now), receiver.reverse && chip('plain', '⇄ both ways')),
      facts(['Revision', number(receiver.revision)], ['Behind', receiver.behind > 0 ? counted(receiver.behind, 'revision') : 'nothing'], ['Records', number(receiver.records)],
        ['Seen', when(receiver.seen_millis, now)], receiver.participant !== receiver.name && ['Participant', receiver.participant],
        receiver.waiting > 0 && ['Edits waiting', number(receiver.waiting)], receiver.drift > 0 && ['Drift', counted(receiver.drift, 'record')]),
      receiver.problem && make('p', { class: 'banner bad' }, words(receiver.problem)),
      make('section', { 'aria-labelledby': 'plan-title' },
        make('div', { class: 'section-head' }, make('h2', { id: 'plan-title' }, 'Plan'),
          make('button', { type: 'button', 'data-action': 'plan', 'data-source': source.name, 'data-receiver': receiver.name, disabled: plan?.loading === true },
            plan ? 'Ask again' : 'What would change?')),
        planned(source, receiver, plan, now)),
      make('section', { 'aria-labelledby': 'letters-title' },
        make('h2', { id: 'letters-title' }, 'Dead letters'),
        receiverLetters(source, receiver, letters, busy, now))));
}

function offline(receiver, answer, now, command) {
  return make('p', { class: 'banner' }, make('span', {}, `${receiver.name} can’t be asked: it was last seen `, when(answer.seen_millis, now), '. Where it runs: ', make('code', {}, command)));
}

function planned(source, receiver, plan, now) {
  if (!plan) return make('p', { class: 'hint' }, 'The running receiver works out what receiving would change at its destination now, and writes nothing.');
  if (plan.loading) return loading();
  if (plan.problem) return failed(plan.problem);
  if (plan.offline) return offline(receiver, plan, now, 'deltabus plan');
  const answer = plan.answer ?? {};
  const total = (answer.inserts ?? 0) + (answer.updates ?? 0) + (answer.deletes ?? 0);
  const collections = Array.isArray(answer.collections) ? answer.collections : [];
  const said = [];
  if (answer.edits > 0) said.push(`${counted(answer.edits, 'edit')} made there would be sent back.`);
  if (answer.drift > 0) said.push(`${counted(answer.drift, 'record')} there differ from the source, and would stand.`);
  if (answer.dead_letters > 0) said.push(`${counted(answer.dead_letters, 'dead letter')} would come up.`);
  for (const unread of Array.isArray(answer.unread) ? answer.unread : []) said.push(`Can’t be read, and would stand as it is: ${unread}`);
  const moved = plan.revision !== source.revision ? '; the source has changed since' : '';
  return make('div', { role: 'status' },
    make('p', { class: 'hint' }, 'Found out ', when(plan.asked_millis, now), moved),
    total + collections.length === 0
      ? make('p', { class: 'plan-sum' }, `Nothing would change: it is at revision ${number(answer.revision)}.`)
      : make('p', { class: 'plan-sum' }, `To come to revision ${number(answer.revision)}: `, make('span', { class: 'plus' }, `+${number(answer.inserts)}`), ' ',
        make('span', { class: 'tilde' }, `~${number(answer.updates)}`), ' ', make('span', { class: 'minus' }, `−${number(answer.deletes)}`)),
    said.map((line) => make('p', {}, line)),
    collections.map((line) => make('p', {}, words(line))),
    make('ol', { class: 'changes' }, (Array.isArray(answer.changes) ? answer.changes : []).map(change)),
    answer.more > 0 && make('p', { class: 'hint' }, `and ${counted(answer.more, 'more change')}`));
}

function receiverLetters(source, receiver, letters, busy, now) {
  if (!letters || letters.loading) return loading();
  if (letters.problem) return failed(letters.problem);
  if (letters.offline) return offline(receiver, letters, now, `deltabus dead-letters ${source.name}`);
  const list = Array.isArray(letters.answer?.letters) ? letters.answer.letters : [];
  if (list.length === 0) return make('p', { class: 'empty' }, 'Its destination refused nothing.');
  const button = (item, decision, text, kind) => make('button', {
    type: 'button', class: kind, 'data-action': 'settle', 'data-source': source.name, 'data-receiver': receiver.name, 'data-id': item.id,
    'data-decision': decision, disabled: busy.has(`${source.name} ${item.id}`),
  }, text);
  return make('div', {},
    letters.answer.location && make('p', { class: 'muted' }, 'at ', make('code', {}, letters.answer.location)),
    make('ol', { class: 'cases' }, list.map((item) => make('li', { 'data-key': item.id, class: 'case', 'aria-label': `Dead letter ${item.id}` },
      make('p', { class: 'record' }, make('strong', {}, item.id), ' ', make('span', { class: 'muted' }, item.collection), ' ', make('code', {}, keyText(item.key))),
      make('p', { class: 'muted' }, `refused at revision ${number(item.revision)}, `, when(item.time_millis, now), item.attempts > 1 && `, ${number(item.attempts)} times`),
      make('p', { class: 'problem' }, words(item.reason)),
      fieldTable(item.fields, ['It holds', 'The source has']),
      make('div', { class: 'buttons' }, button(item, 'retry', 'Try again'), button(item, 'drop', 'Drop …', 'danger'))))),
    letters.answer.more > 0 && make('p', { class: 'hint' }, `and ${counted(letters.answer.more, 'more dead letter')}`));
}
