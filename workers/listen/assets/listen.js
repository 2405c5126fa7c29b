// The list: utterances, recordings, speakers; search, pages, tabs and keys.
import { ask, byId, bytes, clock, counted, grouped, make, show, spell } from "./common.js";
import { Own } from "./own.js";
import { Player } from "./player.js";

const PAGE = 50;
const LOOK_EVERY_MS = 10000;
const state = { view: "utterances", offset: 0, total: 0, rows: [], filter: {}, version: 0, asked: 0 };
document.documentElement.classList.add("js");

const player = new Player(markRows, filterBy);
player.takes = document.body.dataset.canHear ? ["restored"] : [];
if (byId("record")) new Own(player);

async function lookAtArchive() {
  try {
    const told = await ask("/api/archive");
    player.takes = told.takes;
    show(byId("fault"), told.faults.join(" "));
    const facts = [["Utterances", grouped(told.num_utterances)], ["Recordings", grouped(told.num_recordings)],
      ["Speakers", grouped(told.num_speakers)], ["Speech", spell(told.duration_s)], ["On disk", bytes(told.size_bytes)]];
    byId("facts").replaceChildren(...facts.map(([name, value]) => make("div", {}, make("dt", { text: name }), make("dd", { text: value }))));
    byId("columns").textContent = "Columns: " + told.columns.join(", ");
    if (state.version && told.version !== state.version) await load(true);
    state.version = told.version;
  } catch (error) {
    show(byId("fault"), "The program behind this page does not answer: start `syllabary listen` again.");
  }
}

function query() {
  const values = { words: byId("words").value.trim(), where: byId("where").value.trim(), ...state.filter };
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value));
}

async function load(quietly = false) {
  const number = ++state.asked;
  if (!quietly) byId("rows").setAttribute("aria-busy", "true");
  const values = { ...query(), offset: state.offset, limit: PAGE };
  try {
    const found = state.view === "utterances" ? await ask("/api/utterances", values)
      : await ask("/api/groups", { ...values, by: state.view });
    if (number !== state.asked) return;
    state.rows = found.rows;
    state.total = found.total;
    byId("where").removeAttribute("aria-invalid");
    byId("count").textContent = counted(found.total, state.view.slice(0, -1));
    render();
  } catch (error) {
    if (number !== state.asked) return;
    byId("count").textContent = error.message;
    if (byId("where").value.trim()) byId("where").setAttribute("aria-invalid", "true");
  }
  byId("rows").removeAttribute("aria-busy");
}

const tail = (id) => String(id).split("/").pop() || String(id);
const queryOf = (row) => (state.view === "recordings" ? { recording: row.id } : { id: row.id });

function render() {
  byId("rows").replaceChildren(...state.rows.map((row) => make("li", {}, rowButton(row))));
  const pages = Math.max(Math.ceil(state.total / PAGE), 1);
  byId("pager").hidden = pages === 1;
  byId("pages").textContent = grouped(pages);
  byId("page").value = state.offset / PAGE + 1;
  byId("page").max = pages;
  byId("earlier").disabled = state.offset === 0;
  byId("later").disabled = state.offset + PAGE >= state.total;
  markRows();
}

function rowButton(row) {
  const less = { utterances: () => [row.text ? tail(row.id) : "", "speaker " + (row.speaker ?? "unknown"), "at " + clock(row.start_s)],
    recordings: () => [row.speaker ? "speaker " + row.speaker : "", counted(row.count, "utterance")],
    speakers: () => [counted(row.count, "utterance")] }[state.view]();
  const name = row.text || (row.id ?? "unknown");
  const button = make("button", { type: "button", className: "row", title: String(name) },
    make("span", { className: "mark", "aria-hidden": "true" }),
    make("span", { className: row.text ? "what words" : "what", text: state.view === "speakers" ? "Speaker " + name : row.text || tail(name) }),
    make("span", { className: "long", text: spell(row.duration_s) }),
    make("span", { className: "less", text: less.filter(Boolean).join(" · ") }),
    make("span", { className: "long", text: bytes(row.bytes) }));
  button.addEventListener("click", () => pick(row));
  return button;
}

function pick(row) {
  if (state.view === "speakers") {
    filterBy({ speaker: row.id ?? "" });
    return;
  }
  const wanted = queryOf(row);
  if (player.key() === new URLSearchParams(wanted).toString()) player.toggle();
  else {
    player.open(wanted, true);
    if (window.matchMedia("(max-width: 56rem)").matches) byId("hear").scrollIntoView();
  }
}

function markRows() {
  [...byId("rows").children].forEach((item, place) => {
    const button = item.firstChild;
    const current = state.view !== "speakers" && player.key() === new URLSearchParams(queryOf(state.rows[place])).toString();
    if (current) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
    button.classList.toggle("is-playing", current && player.playing);
  });
}

function filterBy(filter) {
  state.filter = filter;
  chooseTab("archive");
  chooseView("utterances");
}

function renderChips() {
  byId("chips").replaceChildren(...Object.entries(state.filter).map(([name, value]) => make("button", {
    type: "button", text: name + " " + value + "  ×", "aria-label": "Show all, not only " + name + " " + value,
    onclick: () => filterBy({}) })));
}

function chooseView(view) {
  state.view = view;
  state.offset = 0;
  state.rows = [];
  byId("rows").replaceChildren();
  document.querySelectorAll("[data-view]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.view === view)));
  renderChips();
  load();
}

function chooseTab(name) {
  for (const one of ["archive", "own"]) {
    byId("tab-" + one).setAttribute("aria-selected", String(one === name));
    byId(one).hidden = one !== name;
  }
}

function turn(offset) {
  const last = Math.max(Math.ceil(state.total / PAGE) - 1, 0) * PAGE;
  state.offset = Math.min(Math.max(offset, 0), last);
  return load();
}

async function next(direction) {
  const at = [...byId("rows").children].findIndex((item) => item.firstChild.hasAttribute("aria-current"));
  let place = at < 0 ? (direction > 0 ? 0 : -1) : at + direction;
  if (place < 0 && state.offset > 0) {
    await turn(state.offset - PAGE);
    place = state.rows.length - 1;
  } else if (place >= state.rows.length && state.offset + PAGE < state.total) {
    await turn(state.offset + PAGE);
    place = 0;
  }
  const item = byId("rows").children[place];
  if (!item || state.view === "speakers") return;
  pick(state.rows[place]);
  item.firstChild.focus({ preventScroll: true });
  item.scrollIntoView({ block: "nearest" });
}

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const target = event.target;
  if (target.matches("input")) {
    if (event.key === "Escape") target.blur();
    return;
  }
  const isOther = target.closest("summary, a, button:not(.row, .play)");
  if (event.key === " " && isOther) return;
  const action = {
    "/": () => { chooseTab("archive"); byId("words").focus(); },
    " ": () => player.toggle(),
    ArrowLeft: () => player.step(-1, event.shiftKey),
    ArrowRight: () => player.step(1, event.shiftKey),
    ArrowUp: () => next(-1),
    ArrowDown: () => next(1),
    o: () => player.swap(),
    Escape: () => player.stop(),
  }[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

document.addEventListener("keydown", onKey);
// A button would take the key again when it is let go.
document.addEventListener("keyup", (event) => {
  if (event.key === " " && event.target.closest && event.target.closest(".row, .play")) event.preventDefault();
});
let typing = 0;
for (const id of ["words", "where"]) {
  byId(id).addEventListener("input", () => {
    window.clearTimeout(typing);
    typing = window.setTimeout(() => turn(0), 200);
  });
}
byId("search").addEventListener("submit", (event) => { event.preventDefault(); turn(0); });
document.querySelectorAll("[data-view]").forEach((button) => button.addEventListener("click", () => chooseView(button.dataset.view)));
for (const one of ["archive", "own"]) byId("tab-" + one).addEventListener("click", () => chooseTab(one));
byId("earlier").addEventListener("click", () => turn(state.offset - PAGE));
byId("later").addEventListener("click", () => turn(state.offset + PAGE));
byId("page").addEventListener("change", () => turn((Math.round(Number(byId("page").value)) - 1) * PAGE || 0));
window.setInterval(() => { if (!document.hidden) lookAtArchive(); }, LOOK_EVERY_MS);
document.addEventListener("visibilitychange", () => { if (!document.hidden) lookAtArchive(); });

await lookAtArchive();
await load();
const asked = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
if (asked.id || asked.recording) player.open(asked, false);
