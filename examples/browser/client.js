// Keeps the rows of a Highwater server in IndexedDB, by the JSON form, and tells when they have changed. The rules
// are those of docs/protocol.md. The server has to allow the page's origin: highwater-server serve --cors-origin.

const [PAGE_ROWS_MAX, WAIT_SECONDS] = [5_000, 50];
const PAUSES_SECONDS = [1, 2, 5, 15, 60];

const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1_000));

const result = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

// Rows stand under [entity, generation, key]; those of generation 1 take the place of 0 when the pull has ended.
const rowsOf = (entity, generation) => IDBKeyRange.bound([entity, generation], [entity, generation, []]);

// A number that JavaScript would change stays the text that it came as, such as 45.00 or an integer above 2^53.
const exactly = (_, value, { source } = {}) =>
  typeof value === "number" && source !== undefined && String(value) !== source ? source : value;

export function open(name) {
  const request = indexedDB.open(name, 1);
  request.onupgradeneeded = () => ["rows", "sync_helper"].forEach((table) => request.result.createObjectStore(table));
  return result(request);
}

export function rows(store, entity) {
  return result(store.transaction("rows").objectStore("rows").getAll(rowsOf(entity, 0)));
}

// Follows the server without end, with one tab at a time as the writer. Ends with an error that does not pass.
export function follow(store, server, { token, changed = () => {} } = {}) {
  return navigator.locks.request(`highwater ${store.name}`, async () => {
    for (let wait = 0; ; wait = WAIT_SECONDS) {
      if (!(await pull(store, server, token, wait, changed))) await sleep(1);
    }
  });
}

// Brings the store to one snapshot of the database, page by page, and tells whether anything came.
async function pull(store, server, token, wait, changed) {
  for (let came = false; ; wait = 0) {
    const helper = (await result(store.transaction("sync_helper").objectStore("sync_helper").get(0))) ?? { anew: [] };
    const { page, source, reason } = await ask(server, helper.cursor, wait, token);
    if (page && helper.source && helper.source !== source) throw new Error(`${server} serves another database`);
    await apply(store, helper, page, source, reason);
    came ||= !page || page.changes.length > 0;
    // In the middle of a pull an order may be there whose lines are still to come.
    if (came && page && !page.more) await changed();
    if (page && !page.more) return came;
  }
}

async function ask(server, since, wait, token) {
  for (let attempt = 0; ; attempt++) {
    let pause = PAUSES_SECONDS[Math.min(attempt, PAUSES_SECONDS.length - 1)];
    const query = new URLSearchParams({ limit: PAGE_ROWS_MAX, ...(since && { since }), ...(wait && { wait }) });
    const headers = token ? { authorization: `Bearer ${token}` } : {};
    try {
      const answer = await fetch(`${server}/changes?${query}`, { headers, cache: "no-store" });
      // A body that was cut is an error here, or is no JSON text: nothing of it is kept.
      const body = JSON.parse(await answer.text(), exactly);
      if (answer.ok) return { page: body, source: answer.headers.get("highwater-source") };
      if (["resync_required", "invalid_since"].includes(body.code)) return { reason: body.reason };
      if (answer.status < 500 && answer.status !== 429) throw Object.assign(new Error(body.detail), { lasts: true });
      pause = Number(answer.headers.get("retry-after")) || pause;
    } catch (error) {
      if (error.lasts) throw error;
    }
    await sleep(pause * (1 + Math.random() / 2)); // many pages must not return in one moment
  }
}

// The rows and the cursor stand or fall together: all of it is one transaction.
function apply(store, helper, page, source, why) {
  const transaction = store.transaction(["rows", "sync_helper"], "readwrite");
  const table = transaction.objectStore("rows");
  if (why === "scope_changed") table.clear(); // what may no longer be seen must not stay
  const anew = new Set(why === "scope_changed" ? [] : helper.anew);
  for (const { entity, key, deleted, row, changedDate, reason } of page?.changes ?? []) {
    const place = [entity, anew.has(entity) ? 1 : 0, JSON.stringify(key)];
    if (reason === "reset") table.delete(rowsOf(entity, 1)) && anew.add(entity);
    else if (deleted) table.delete(place);
    else table.put({ ...row, changedDate }, place);
  }
  for (const entity of page && !page.more ? anew : []) {
    table.delete(rowsOf(entity, 0));
    table.openCursor(rowsOf(entity, 1)).onsuccess = ({ target: { result: row } }) => {
      if (row) table.put(row.value, [entity, 0, row.key[2]]) && row.delete() && row.continue();
    };
  }
  const stands = page ? { cursor: page.next, source, lastSyncDate: page.lastSyncDate } : { source: helper.source };
  transaction.objectStore("sync_helper").put({ ...stands, anew: page && !page.more ? [] : [...anew] }, 0);
  return new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onabort = () => reject(transaction.error);
  });
}
