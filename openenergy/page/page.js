// Asks the button server every second what the plugs say, and shows it.
//
// A phone may sleep at any moment. What was under way is then given up, and asked for anew when
// the page is seen again; times are the server's, since the phone's clock may be wrong.
'use strict';

const POLL_MS = 1000;
const TROUBLE_MS = 3000;
const ANSWER_MS = 5000;
const CONFIRMATION_MS = 130_000; // longer than the server ever waits for a plug
const OUTCOME_MS = 5000;
const STALE_S = 60;
const PLOT_MS = 600_000;
const GAP_MS = 90_000; // no line is drawn over a longer time without readings
const OVERLAP_MS = 10_000; // plugs read by several machines do not agree on the time
const [WIDTH, HEIGHT] = [300, 60]; // of the plot's viewBox

const cards = new Map(); // plug's name: what shows it
const courses = new Map(); // plug's name: its power, [[ms since 1970, W], ...]
let underWay = new AbortController();
let nextPoll;
let troubleSince = null;

const element = (id) => document.getElementById(id);

// --- Asking ---

class Refusal extends Error {
  constructor(answer, reason) {
    super(reason ?? `status ${answer.status}`);
    this.status = answer.status;
    this.wantsToken = (answer.headers.get('WWW-Authenticate') ?? '').startsWith('Bearer');
    this.retryMs = Number(answer.headers.get('Retry-After')) * 1000 || TROUBLE_MS;
  }
}

async function ask(path, options) {
  const headers = {...options.headers};
  const token = sessionStorage.getItem('token');
  if (token !== null) {
    headers.Authorization = `Bearer ${token}`;
  }
  const answer = await fetch(path, {...options, headers});
  const content = await answer.json().catch(() => null);
  if (!answer.ok || content === null) {
    throw new Refusal(answer, content?.error);
  }
  return {content, now: Date.parse(answer.headers.get('Date'))};
}

function giveUpAfter(ms) {
  const controller = new AbortController();
  setTimeout(() => controller.abort(), ms);
  return controller;
}

async function poll() {
  clearTimeout(nextPoll);
  underWay.abort();
  const question = giveUpAfter(ANSWER_MS);
  underWay = question;
  if (document.hidden) {
    return;
  }
  let waitMs = POLL_MS;
  try {
    const plugs = await ask('plugs', question);
    const power = await ask(`plugs/power?since=${latestSample() - OVERLAP_MS}`, question);
    if (question !== underWay) {
      return; // a later poll took over
    }
    extendCourses(power.content, plugs.now);
    showPlugs(plugs.content, plugs.now);
  } catch (error) {
    if (question !== underWay) {
      return;
    }
    waitMs = showTrouble(error);
  }
  if (waitMs !== null) {
    nextPoll = setTimeout(poll, waitMs);
  }
}

async function press(card, value) {
  const number = ++card.presses;
  const isLatest = () => number === card.presses;
  showOutcome(card, `Switching ${onOrOff(value)}…`);
  try {
    const {content} = await ask(`plugs/${encodeURIComponent(card.name)}/relay`, {
      method: 'POST',
      headers: {'Content-Type': 'application/json'},
      body: JSON.stringify({value}),
      signal: giveUpAfter(CONFIRMATION_MS).signal,
    });
    if (isLatest()) {
      showOutcome(card, `Confirmed: it is ${onOrOff(content.relay)}.`);
      setTimeout(() => isLatest() && showOutcome(card, ''), OUTCOME_MS);
    }
  } catch (error) {
    if (isLatest()) {
      showOutcome(card, failure(error), true);
    }
  }
  poll();
}

function failure(error) {
  if (!(error instanceof Refusal)) {
    return 'No answer: nobody knows whether it has switched.';
  }
  return `${error.status === 504 ? 'Not confirmed' : 'Not switched'}: ${error.message}.`;
}

// --- Showing ---

const onOrOff = (relay) => (relay === 'close' ? 'on' : 'off');

const watts = (power) => `${power.toFixed(Math.abs(power) < 100 ? 1 : 0)}\u00a0W`;

function ago(seconds) {
  if (seconds < 3) {
    return 'just now';
  }
  const [unit, name] = [[86400, 'days'], [3600, 'h'], [60, 'min'], [1, 's']].find(
    ([length]) => seconds >= length,
  );
  return `${Math.floor(seconds / unit)}\u00a0${name} ago`;
}

function setText(node, text) {
  if (node.textContent !== text) { // what does not change is not read out again
    node.textContent = text;
  }
}

function showNotice(text, isAlarm = false) {
  setText(element('notice'), text);
  element('notice').classList.toggle('alarm', isAlarm);
}

function showOutcome(card, text, isAlarm = false) {
  setText(card.outcome, text);
  card.outcome.classList.toggle('alarm', isAlarm);
}

// Returns when to ask again in ms, null for never.
function showTrouble(error) {
  if (error.wantsToken) {
    const wasWrong = sessionStorage.getItem('token') !== null;
    sessionStorage.removeItem('token');
    showNotice(wasWrong ? 'That is not the token.' : 'The button server asks for its token.');
    element('login').hidden = false;
    element('token').focus();
    return null;
  }
  if (error.status === 401) { // a proxy asks for a login, and knows where
    location.reload();
    return null;
  }
  troubleSince ??= new Date().toLocaleTimeString();
  const reason = error instanceof Refusal ? error.message : 'no answer';
  showNotice(`No news from the button server since ${troubleSince}: ${reason}.`, true);
  return error.retryMs ?? TROUBLE_MS;
}

function showPlugs(plugs, now) {
  const names = new Set(plugs.map((plug) => plug.name));
  for (const card of cards.values()) {
    if (!names.has(card.name)) {
      card.item.remove();
      cards.delete(card.name);
    }
  }
  plugs.forEach((plug, position) => {
    if (!cards.has(plug.name)) {
      addCard(plug.name, position);
    }
    showPlug(cards.get(plug.name), plug, now);
  });
  const powers = plugs.filter((plug) => isNews(plug, now)).map((plug) => plug.power ?? 0);
  setText(element('total'), powers.length ? watts(powers.reduce((sum, power) => sum + power)) : '');
  element('login').hidden = true;
  troubleSince = null;
  showNotice(plugs.length ? '' : 'No plug has reported to the broker yet.');
}

function addCard(name, position) {
  const item = element('plug').content.firstElementChild.cloneNode(true);
  const part = (selector) => item.querySelector(selector);
  const card = {
    name,
    item,
    presses: 0,
    relay: part('.relay'),
    power: part('.power'),
    news: part('.news'),
    plot: part('figure'),
    line: part('.line'),
    area: part('.area'),
    caption: part('figcaption'),
    buttons: item.querySelectorAll('button'),
    outcome: part('.outcome'),
  };
  part('h2').textContent = name;
  part('h2').id = `name-${name}`;
  part('.buttons').setAttribute('aria-labelledby', `name-${name}`);
  for (const button of card.buttons) {
    button.addEventListener('click', () => press(card, button.value));
  }
  element('plugs').insertBefore(item, element('plugs').children[position] ?? null);
  cards.set(name, card);
}

const ageOf = (plug, now) => (plug.time === null ? Infinity : Math.max(0, now - plug.time) / 1000);

const isNews = (plug, now) => plug.online !== false && ageOf(plug, now) < STALE_S;

function showPlug(card, plug, now) {
  const isCurrent = isNews(plug, now);
  const relay = onOrOff(plug.relay);
  setText(card.relay, isCurrent ? `Is ${relay}` : `Was ${relay}`);
  setText(card.power, isCurrent && plug.power !== null ? watts(plug.power) : '');
  card.item.classList.toggle('alarm', !isCurrent);
  const read = plug.time === null ? 'never' : ago(ageOf(plug, now));
  if (plug.online === false) {
    setText(card.news, `Offline: it does not answer. Last read ${read}.`);
  } else {
    setText(card.news, isCurrent ? `Read ${read}.` : `No news of it. Last read ${read}.`);
  }
  for (const button of card.buttons) {
    button.setAttribute('aria-pressed', isCurrent && button.value === plug.relay);
  }
  plotPower(card, now);
}

// --- The course of the power ---

function latestSample() {
  const last = [...courses.values()].map((course) => course[course.length - 1][0]);
  return Math.max(0, ...last);
}

function extendCourses(news, now) {
  for (const [name, samples] of Object.entries(news)) {
    const known = courses.get(name) ?? [];
    const last = known.length ? known[known.length - 1][0] : 0;
    const course = [...known, ...samples.filter(([time]) => time > last)].filter(
      ([time]) => time > now - PLOT_MS,
    );
    if (course.length) {
      courses.set(name, course);
    } else {
      courses.delete(name);
    }
  }
}

function plotPower(card, now) {
  const course = courses.get(card.name) ?? [];
  card.plot.hidden = course.length === 0;
  if (card.plot.hidden) {
    return;
  }
  const powers = course.map(([, power]) => power);
  const [lowest, highest] = [Math.min(...powers), Math.max(...powers)];
  const [bottom, top] = [Math.min(0, lowest), Math.max(1, highest) * 1.05];
  const x = (time) => (WIDTH * (1 - (now - time) / PLOT_MS)).toFixed(1);
  const y = (power) => (HEIGHT * (top - power) / (top - bottom)).toFixed(1);
  const lines = withoutGaps(course).map((piece) => ({
    start: x(piece[0][0]),
    end: x(piece[piece.length - 1][0]),
    points: piece.map(([time, power]) => `${x(time)} ${y(power)}`).join('L'),
  }));
  const zero = y(0);
  card.line.setAttribute('d', lines.map(({points}) => `M${points}h0`).join(''));
  card.area.setAttribute(
    'd',
    lines.map(({start, end, points}) => `M${start} ${zero}L${points}L${end} ${zero}Z`).join(''),
  );
  setText(card.caption, `Last 10 minutes: ${watts(lowest)} to ${watts(highest)}`);
}

function withoutGaps(course) {
  const pieces = [];
  let previous = -Infinity;
  for (const sample of course) {
    if (sample[0] - previous > GAP_MS) {
      pieces.push([]);
    }
    pieces[pieces.length - 1].push(sample);
    previous = sample[0];
  }
  return pieces;
}

// --- Starting ---

showNotice('Loading…');

element('login').addEventListener('submit', (event) => {
  event.preventDefault();
  sessionStorage.setItem('token', element('token').value.trim());
  element('token').value = '';
  element('login').hidden = true;
  poll();
});
for (const event of ['pageshow', 'online']) {
  addEventListener(event, poll);
}
document.addEventListener('visibilitychange', poll);
