// Shows what /status tells, and asks again every few seconds while somebody looks. Whatever comes from there is set as
// text and never as markup: a device may call itself anything.

const [REFRESH_SECONDS, ANSWER_SECONDS_MAX, WHY_SECONDS_MAX, TYPING_SECONDS] = [3, 15, 70, 0.3];
const [DEVICES_MAX, POINTS_MAX] = [200, 100];
// A page that was opened with its key in the address may not ask for what stands beside it in so many words.
const [STATUS, WHY] = ["status", "why"].map((path) => `${location.origin}${location.pathname}${path}`);
const SVG = "http://www.w3.org/2000/svg";

const find = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const clock = (date) => new Date(date).toLocaleTimeString();

const series = { changes: [], waiting: [], requests: [] };
const sort = { by: "state", reverse: false };
let [status, before, timer, asking, is_closed] = [null, null, null, null, false];

function span(seconds) {
  for (const [unit, length] of [["d", 86_400], ["h", 3_600], ["min", 60]]) {
    if (seconds >= length) return `${Math.floor(seconds / length)} ${unit}`;
  }
  return `${Math.max(0, Math.floor(seconds))} s`;
}

function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  for (; number >= 1_024 && place < units.length - 1; place++) number /= 1_024;
  return `${short.format(number)} ${units[place]}`;
}

const or = (value, text) => (value === null ? "not known" : text(value));
const since = (date) => (Date.parse(status.server.now) - Date.parse(date)) / 1_000;

// Nothing is touched that stays as it is: what is read aloud or selected must not jump.
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function show(element, is_shown) {
  if (element.hidden === is_shown) element.hidden = !is_shown;
}

function alert(text) {
  say(find("alert"), text);
  show(find("alert"), text !== "");
}

// Rows are kept by their key, and moved rather than made anew. A cell is [text, class, small text].
function fill(table, rows) {
  const body = table.tBodies[0];
  const labels = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  const old = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  rows.forEach(({ key, cells }, place) => {
    const row = old.get(key) ?? line(key, labels);
    old.delete(key);
    cells.forEach(([text, kind = "", more = ""], column) => {
      const cell = row.cells[column];
      const [large, small] = cell.firstChild.children;
      say(large, text);
      say(small, more);
      show(small, more !== "");
      if (large.className !== kind) large.className = kind;
    });
    if (body.rows[place] !== row) body.insertBefore(row, body.rows[place] ?? null);
  });
  old.forEach((row) => row.remove());
}

function line(key, labels) {
  const row = document.createElement("tr");
  row.dataset.key = key;
  row.setAttribute("role", "row");
  labels.forEach((label, column) => {
    const cell = document.createElement(column ? "td" : "th");
    cell.setAttribute("role", column ? "cell" : "rowheader");
    if (!column) cell.scope = "row";
    cell.dataset.label = label;
    const [both, large, small] = ["span", "span", "span"].map((name) => document.createElement(name));
    small.className = "small";
    small.hidden = true;
    both.append(large, small);
    cell.append(both);
    row.append(cell);
  });
  return row;
}

function numbers(table) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (!head.classList.contains("number")) return;
    for (const row of table.tBodies[0].rows) row.cells[column].classList.add("number");
  });
}

function entities() {
  const [all, table] = [status.entities, find("entities")];
  show(find("no-entities"), !all.length && status.source.looked !== null);
  show(table, all.length > 0);
  const rows = all.map((entity) => ({
    key: entity.name,
    cells: [
      [entity.name, entity.fault ? "bad" : "", entity.fault ? `✕ not served: ${entity.fault}` : entity.table],
      [or(entity.estimatedRows, (rows) => `about ${whole.format(rows)}`)],
      [or(entity.changesPerSecond, short.format)],
      [or(entity.tombstones, whole.format)],
      [or(entity.tableBytes, bytes)],
      [or(entity.indexBytes, bytes)],
    ],
  }));
  fill(table, rows);
  numbers(table);
}

// Words and signs say it; the colour only helps.
function state(device) {
  if (device.isFailing) return ["✕ failing", "bad", device.lastError?.code];
  if (device.upToDate === false) return ["▲ behind", "late"];
  if (device.waits) return ["● live", "good", "waits for news"];
  return device.upToDate ? ["✓ up to date", "good"] : ["? not known"];
}

function errors(device) {
  const counts = device.errors.map(({ status, times }) => `${times} × ${status}`);
  const last = device.lastError;
  if (!last) return ["none"];
  const who = `${last.byDevice ? "told by the device" : "answered"} ${span(since(last.heard))} ago`;
  return counts.length ? [counts.join(", "), "", `last: ${last.code}, ${who}`] : [last.code, "", who];
}

const orders = {
  device: (device) => device.device.toLowerCase(),
  behind: (device) => -(device.behindSeconds ?? Infinity),
  seen: (device) => device.lastSeen,
  requests: (device) => -device.requests,
};

function sorted(devices) {
  const order = orders[sort.by];
  const compare = (a, b) => (order(a) < order(b) ? -1 : order(a) > order(b) ? 1 : 0);
  // As they come they are worst first.
  const ordered = order ? [...devices].sort(compare) : [...devices];
  return sort.reverse ? ordered.reverse() : ordered;
}

function devices() {
  const [fleet, table] = [status.fleet, find("devices")];
  const counts = [
    [fleet.failing, "failing"],
    [fleet.behind, "behind"],
    [fleet.upToDate, "up to date"],
    [fleet.waiting, "waiting for news"],
  ];
  const parts = counts.map(([number, what]) => `${whole.format(number)} ${what}`);
  say(find("counts"), `${whole.format(fleet.known)} known: ${parts.join(", ")}.`);
  document.title = fleet.failing + fleet.behind ? `${parts[0]}, ${parts[1]} · Highwater` : "Highwater";
  show(find("no-devices"), !fleet.known);
  show(find("search"), fleet.known > 0);
  show(table, fleet.devices.length > 0);
  const rows = sorted(fleet.devices).map((device) => ({
    key: JSON.stringify([device.caller, device.device]),
    cells: [
      [device.device, "", [device.caller && `caller ${device.caller}`, device.version].filter(Boolean).join(", ")],
      state(device),
      [or(device.behindSeconds, (seconds) => (seconds ? span(seconds) : "–"))],
      [device.waits ? "now" : `${span(since(device.lastSeen))} ago`, "", `first seen ${span(since(device.firstSeen))} ago`],
      errors(device),
      [device.entities?.join(", ") ?? "all"],
      [whole.format(device.requests)],
    ],
  }));
  fill(table, rows);
  numbers(table);
  const more = fleet.matching > fleet.devices.length;
  const text = `The worst ${whole.format(fleet.devices.length)} of ${whole.format(fleet.matching)} are shown. Search finds the others.`;
  say(find("shown"), fleet.known && !fleet.matching ? "No device matches." : more ? text : "");
}

function source() {
  const { oldestWriter: writer, prepared, isStandby } = status.source;
  const who = writer?.pid && `pid ${writer.pid}, ${writer.application || "no application name"}, ${writer.user}, ${writer.state}`;
  const age = writer && `The oldest transaction that writes is ${span(since(writer.since))} old, since ${clock(writer.since)}`;
  const hidden = "which one, this server's role may not see, or it was prepared";
  const idle = isStandby ? "A standby. Who writes, only the primary knows." : "No transaction is writing.";
  say(find("writer"), writer ? `${age} (${who || hidden}).` : idle);
  const list = find("prepared");
  const lines = prepared.map((one) => `Prepared and not ended: ${one.gid}, by ${one.user} in ${one.database}, ${span(since(one.since))} ago`);
  while (list.children.length > lines.length) list.lastChild.remove();
  lines.forEach((text, place) => say(list.children[place] ?? list.appendChild(document.createElement("li")), text));
}

function draw(id, unit) {
  const [figure, points] = [find(id), series[id]];
  const caption = figure.firstElementChild;
  const strong = caption.querySelector("strong") ?? caption.appendChild(document.createElement("strong"));
  const last = points.at(-1);
  say(strong, last === null || last === undefined ? "–" : short.format(last));
  let svg = figure.querySelector("svg");
  if (!svg) {
    svg = figure.appendChild(document.createElementNS(SVG, "svg"));
    svg.append(document.createElementNS(SVG, "polygon"), document.createElementNS(SVG, "polyline"));
    svg.setAttribute("viewBox", `0 0 ${POINTS_MAX - 1} 40`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
  }
  const most = Math.max(1, ...points.filter((point) => point !== null));
  const begin = POINTS_MAX - points.length;
  const places = points.flatMap((point, place) => (point === null ? [] : [`${begin + place},${(39 - (point / most) * 37).toFixed(1)}`]));
  const [area, curve] = svg.children;
  curve.setAttribute("points", places.join(" "));
  const [first, end] = [places[0], places.at(-1)].map((place) => place?.split(",")[0]);
  area.setAttribute("points", places.length > 1 ? `${first},40 ${places.join(" ")} ${end},40` : "");
  svg.setAttribute("aria-label", `${unit}, the last minutes: now ${strong.textContent}, at most ${short.format(most)}`);
}

function note() {
  const { server, entities } = status;
  const rates = entities.map((entity) => entity.changesPerSecond).filter((rate) => rate !== null);
  const passed = before && (Date.parse(server.now) - Date.parse(before.now)) / 1_000;
  // A server that was started anew counts from 0.
  const is_same = before && before.started === server.started;
  const asked = before && Math.max(0, server.requests - before.requests) / passed;
  const points = {
    changes: rates.length ? rates.reduce((sum, rate) => sum + rate, 0) : null,
    waiting: server.waiting,
    requests: passed > 0.5 && is_same !== false ? asked : null,
  };
  for (const [id, point] of Object.entries(points)) {
    series[id].push(point);
    if (series[id].length > POINTS_MAX) series[id].shift();
  }
  before = server;
}

function render() {
  const { server, source: { looked, hasFailed } } = status;
  say(find("server"), `version ${server.version}, running for ${span(since(server.started))}`);
  say(find("looked"), `As of ${clock(server.now)}. It refreshes by itself every ${REFRESH_SECONDS} seconds while it can be seen.`);
  const of_then = looked ? ` What is said of it and of entities is of ${clock(looked)}.` : "";
  alert(hasFailed ? `The server cannot ask Postgres at the moment.${of_then}` : "");
  draw("changes", "Changes a second");
  draw("waiting", "Callers who wait");
  draw("requests", "Requests a second");
  source();
  entities();
  devices();
  offer();
}

function failed(error) {
  const then = before ? ` What is shown is of ${clock(before.now)}.` : "";
  alert(error.told ? `${error.told}${then}` : `The server cannot be reached.${then} It is tried again every ${REFRESH_SECONDS} seconds.`);
}

async function ask() {
  const query = new URLSearchParams({ limit: DEVICES_MAX });
  const search = find("text").value.trim();
  if (search) query.set("search", search);
  const answer = await fetch(`${STATUS}?${query}`, {
    cache: "no-store",
    signal: AbortSignal.any([asking.signal, AbortSignal.timeout(ANSWER_SECONDS_MAX * 1_000)]),
  });
  if (answer.ok) return answer.json();
  const problem = await answer.json().catch(() => ({}));
  is_closed = answer.status === 401 || answer.status === 403;
  const told = { 401: "The key was refused. Load the page again to give another.", 403: `The key was refused: ${problem.detail}.` };
  throw Object.assign(new Error(), { told: told[answer.status] ?? `The server answers with ${answer.status}: ${problem.detail ?? "no reason"}.` });
}

async function refresh(is_typing = false) {
  clearTimeout(timer);
  asking?.abort();
  const mine = (asking = new AbortController());
  try {
    status = await ask();
    if (mine.signal.aborted) return;
    if (!is_typing || !before) note();
    render();
  } catch (error) {
    if (mine.signal.aborted) return;
    failed(error);
  }
  // Who was refused would be asked for a password again and again.
  if (!document.hidden && !is_closed) timer = setTimeout(refresh, REFRESH_SECONDS * 1_000);
}

function order({ target }) {
  const by = target.dataset?.sort;
  if (!by) return;
  Object.assign(sort, { by, reverse: sort.by === by && !sort.reverse });
  for (const button of find("devices").querySelectorAll("[data-sort]")) {
    const head = button.closest("th");
    if (button.dataset.sort === by) head.setAttribute("aria-sort", sort.reverse ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  if (status) devices();
}

// The choice stays where it was, as long as there is such an entity.
function offer() {
  const [select, names] = [find("why-entity"), status.entities.map((entity) => entity.name)];
  show(find("why"), names.length > 0 && status.fleet.known > 0);
  const shown = [...select.options].map((option) => option.value);
  if (JSON.stringify(shown) === JSON.stringify(names)) return;
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => new Option(name)));
  if (names.includes(chosen)) select.value = chosen;
}

async function why(event) {
  event.preventDefault();
  const query = new URLSearchParams(["device", "entity", "key"].map((name) => [name, find(`why-${name}`).value.trim()]));
  if (find("why-caller").value) query.set("caller", find("why-caller").value);
  const answer = find("answer");
  say(answer, "It is looked up.");
  try {
    const response = await fetch(`${WHY}?${query}`, { cache: "no-store", signal: AbortSignal.timeout(WHY_SECONDS_MAX * 1_000) });
    const { what, remedy, detail } = await response.json();
    say(answer, response.ok ? `${what}\n→ ${remedy}` : `There is no answer: ${detail}.`);
  } catch {
    say(answer, "There is no answer: the server cannot be reached, or took too long.");
  }
}

find("ask").addEventListener("submit", why);
find("devices").tHead.addEventListener("click", order);
find("search").addEventListener("submit", (event) => event.preventDefault());
find("text").addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(refresh, TYPING_SECONDS * 1_000, true);
});
document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (!document.hidden && !is_closed) refresh();
});
refresh();
