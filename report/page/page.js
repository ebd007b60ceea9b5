// The page of a report: tabs, light and dark, and the rollouts to read.
//
// Every text of a model reaches the document as a text node: nothing here writes HTML. The data (report/page_data.py)
// holds one array a field of a rollout, all of one length, and each text once.
"use strict";

const FILTERS = ["arm", "seed", "step", "split", "flavour", "grade", "problem"];
const ROW = 44; // pixels of a row of the list
const byId = (id) => document.getElementById(id);

// --- small helpers

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== "") made.textContent = text;
  return made;
}

async function unpacked(base64) {
  const packed = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// --- highlighting

const KEYWORDS = new Set(
  ("False None True and as assert async await break class continue def del elif else except finally for from global " +
    "if import in is lambda nonlocal not or pass raise return try while with yield").split(" "),
);
const STRING = /[rRbBfFuU]{0,2}(?:"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?)/;
const TOKEN = new RegExp(`(?<c>#[^\\n]*)|(?<s>${STRING.source})|(?<n>\\b\\d[\\w.]*)|(?<w>[A-Za-z_]\\w*)`, "g");

// [[class, text]] of Python source; class "" for what needs no colour.
function pythonTokens(source) {
  const tokens = [];
  let end = 0;
  let before = "";
  for (const match of source.matchAll(TOKEN)) {
    const { c, s, n, w } = match.groups;
    let kind = c ? "c" : s ? "s" : n ? "n" : KEYWORDS.has(w) ? "k" : "";
    if (w && (before === "def" || before === "class")) kind = "d";
    if (match.index > end) tokens.push(["", source.slice(end, match.index)]);
    tokens.push([kind, match[0]]);
    end = match.index + match[0].length;
    before = w ?? "";
  }
  tokens.push(["", source.slice(end)]);
  return tokens;
}

// [[start, end]] of the definitions of the model's own evaluator in source without strings and comments: a def up to
// where its block ends, or a binding.
function ownEvaluators(source, name) {
  if (!/^\w+$/.test(name)) return [];
  const found = [];
  const begins = new RegExp(`^([ \\t]*)(?:async[ \\t]+)?(?:def[ \\t]+${name}\\b|(?:\\w+\\.)*${name}[ \\t]*=(?!=))`);
  let place = 0;
  let open = null; // {start, end, indent} of the block that is being read, without empty lines at its end
  for (const line of source.split(/(?<=\n)/)) {
    const indent = line.match(/^[ \t]*/)[0].length;
    if (open && line.trim() && indent <= open.indent) {
      found.push([open.start, open.end]);
      open = null;
    }
    if (!open && begins.test(line)) open = { start: place, indent };
    place += line.length;
    if (open && line.trim()) open.end = place;
  }
  if (open) found.push([open.start, open.end]);
  return found;
}

// Appends Python source with its colours to `parent`; the model's own evaluator stands in a box.
function showCode(parent, source, evaluator) {
  const block = parent.appendChild(element("span", "code"));
  const tokens = pythonTokens(source);
  // A definition within a string is none: strings and comments are blanked, line ends in them too.
  const bare = tokens.map(([kind, text]) => (kind === "s" || kind === "c" ? "x".repeat(text.length) : text)).join("");
  const own = ownEvaluators(bare, evaluator);
  let place = 0;
  let target = block;
  for (const [kind, text] of tokens) {
    for (let rest = text; rest; ) {
      const inside = own.find(([start, end]) => start <= place && place < end);
      const next = inside ? inside[1] : Math.min(...own.map(([start]) => start).filter((s) => s > place), Infinity);
      const part = rest.slice(0, next - place);
      if (!inside) target = block;
      else if (target === block || inside[0] === place) {
        target = block.appendChild(element("span", "own"));
        target.title = "the model's own evaluator";
      }
      target.append(kind ? element("span", kind, part) : part);
      place += part.length;
      rest = rest.slice(part.length);
    }
  }
}

// A text with its fenced programs highlighted; a fence that is not closed goes on to the end.
function shownText(text, evaluator) {
  const pre = element("pre", "text");
  let code = null;
  for (const line of text.split(/(?<=\n)/)) {
    if (line.trimStart().startsWith("```")) {
      if (code !== null) showCode(pre, code, evaluator);
      code = code === null ? "" : null;
      pre.append(line);
    } else if (code !== null) code += line;
    else pre.append(line);
  }
  if (code !== null) showCode(pre, code, evaluator);
  return pre;
}

// --- the rollouts

let data = null; // as report/page_data.py packs it
let shown = []; // indices of the rollouts that pass the filters
let at = -1; // index of the rollout that is read
let beside = -1; // index of the one kept beside it, -1 for none
let promptOpen = false;
const lower = new Map(); // text -> the same in lower case, made when it is first searched

function field(name, i) {
  if (name === "arm" || name === "seed") return String(data.runs[data.rows.run[i]][name]);
  const value = data.rows[name][i];
  return String(data.names[name] ? data.names[name][value] : value);
}

const promptOf = (i) => data.prompts[data.rows.prompt[i]] ?? { evaluator: "run_tests", text: "" };
const textOf = (i) => data.texts[data.rows.text[i]];
const linkOf = (i) => [data.runs[data.rows.run[i]].name, field("step", i), field("split", i), data.rows.place[i]].join("/");

function inLowerCase(text) {
  if (!lower.has(text)) lower.set(text, text.toLowerCase());
  return lower.get(text);
}

function wanted() {
  return FILTERS.map((name) => [name, byId(`f-${name}`).value]).filter(([, value]) => value !== "");
}

// Which rollouts the filters and the search leave; the one that is read stays where it is among them.
function applyFilters() {
  const filters = wanted();
  const words = byId("search").value.toLowerCase();
  const hit = new Map(); // text or prompt -> whether it holds the words
  const holds = (text) => {
    if (!hit.has(text)) hit.set(text, inLowerCase(text).includes(words));
    return hit.get(text);
  };
  shown = [];
  for (let i = 0; i < data.rows.run.length; i++) {
    if (!filters.every(([name, value]) => field(name, i) === value)) continue;
    if (words && !holds(textOf(i)) && !holds(promptOf(i).text)) continue;
    shown.push(i);
  }
  for (const name of FILTERS) byId(`f-${name}`).classList.toggle("set", byId(`f-${name}`).value !== "");
  byId("count").textContent = `${shown.length} of ${data.rows.run.length} shown.`;
  byId("strip").style.height = `${shown.length * ROW}px`;
}

// The rows of the list that are in view; the rest of the strip is empty.
function drawList() {
  const list = byId("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 5);
  const rows = [];
  for (let place = first; place < last; place++) {
    const i = shown[place];
    const row = element("div", i === at ? "row chosen" : "row");
    row.style.top = `${place * ROW}px`;
    row.setAttribute("role", "option");
    row.append(element("span", `grade ${field("grade", i)}`, field("grade", i)));
    row.append(` ${field("arm", i)} s${field("seed", i)}, step ${field("step", i)}, ${field("split", i)}`);
    row.append(element("br"), element("small", "", [field("flavour", i), field("problem", i)].filter(Boolean).join(" · ")));
    row.addEventListener("click", () => read(i));
    rows.push(row);
  }
  byId("strip").replaceChildren(...rows);
}

function scrollToChosen() {
  const list = byId("list");
  const top = shown.indexOf(at) * ROW;
  const below = top + ROW - list.scrollTop - list.clientHeight;
  const far = list.clientHeight / 2;
  if (top < list.scrollTop - far || below > far) list.scrollTop = top - far;
  else if (top < list.scrollTop) list.scrollTop = top;
  else if (below > 0) list.scrollTop += below;
}

function pane(i, kept) {
  const made = element("div", kept ? "pane kept" : "pane");
  const run = data.runs[data.rows.run[i]];
  made.append(element("h2", "", `${run.name}, step ${field("step", i)}, ${field("split", i)}`));

  // What the grader said, and what can be done with the rollout.
  const facts = made.appendChild(element("p", "facts"));
  facts.append(element("span", `grade ${field("grade", i)}`, field("grade", i)));
  const flags = data.flags.filter((_, bit) => data.rows.flags[i] & (1 << bit));
  const more = [field("flavour", i) && `flavour ${field("flavour", i)}`, flags.join(", ") || "no flag"];
  more.push(`reward ${data.rows.reward[i] ?? "-"}`);
  if (data.rows.advantage[i] !== null) more.push(`advantage ${data.rows.advantage[i]}`);
  more.push(field("reason", i), `problem ${field("problem", i)} `);
  facts.append(` · ${more.filter(Boolean).join(" · ")}`);
  const only = facts.appendChild(element("button", "", "only this problem"));
  only.addEventListener("click", () => {
    byId("f-problem").value = field("problem", i);
    refresh();
  });
  const keep = facts.appendChild(element("button", "", kept ? "close" : "keep beside"));
  keep.addEventListener("click", () => keepBeside(kept ? -1 : i));

  // The prompt once it is asked for, the completion.
  const prompt = promptOf(i);
  const details = made.appendChild(element("details"));
  details.append(element("summary", "", prompt.text ? "prompt" : "prompt: not stored by this run"));
  const fill = () => {
    if (details.open && details.children.length < 2) details.append(shownText(prompt.text, prompt.evaluator));
  };
  details.addEventListener("toggle", fill);
  details.open = promptOpen;
  fill();
  made.append(shownText(textOf(i), prompt.evaluator));
  return made;
}

// Marks the searched words in what is read, where the browser can.
function markFound(root) {
  if (!("highlights" in CSS)) return;
  const words = byId("search").value.toLowerCase();
  const ranges = [];
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); words && node; node = walker.nextNode()) {
    const text = node.data.toLowerCase();
    for (let from = text.indexOf(words); from >= 0; from = text.indexOf(words, from + words.length)) {
      const range = new Range();
      range.setStart(node, from);
      range.setEnd(node, Math.min(from + words.length, node.length));
      ranges.push(range);
    }
  }
  CSS.highlights.set("found", new Highlight(...ranges));
}

function drawPanes() {
  const panes = [];
  if (beside >= 0 && beside !== at) panes.push(pane(beside, true));
  if (at >= 0) panes.push(pane(at, false));
  byId("panes").replaceChildren(...panes);
  markFound(byId("panes"));
}

function read(i) {
  at = i;
  scrollToChosen();
  drawList();
  drawPanes();
  writeAddress();
}

function keepBeside(i) {
  beside = i;
  drawPanes();
  writeAddress();
}

function move(by) {
  if (!shown.length) return;
  const place = shown.indexOf(at);
  const next = place < 0 ? 0 : Math.max(0, Math.min(shown.length - 1, place + by));
  read(shown[next]);
}

function refresh() {
  applyFilters();
  read(shown.includes(at) || !shown.length ? at : shown[0]);
}

// --- the address: the tab, or the filters and the rollout that is read

function writeAddress() {
  const words = new URLSearchParams();
  if (at >= 0) words.set("at", linkOf(at));
  if (beside >= 0) words.set("beside", linkOf(beside));
  for (const [name, value] of wanted()) words.set(name, value);
  if (byId("search").value) words.set("search", byId("search").value);
  history.replaceState(null, "", `#${words}`);
}

function indexOf(link) {
  if (!link) return -1;
  for (let i = 0; i < data.rows.run.length; i++) if (linkOf(i) === link) return i;
  return -1;
}

function readAddress() {
  const hash = location.hash.slice(1);
  const tab = [...document.querySelectorAll("section")].find((section) => section.id === hash);
  if (hash === "rollouts" && at >= 0) {
    openTab(hash);
    read(at);
  } else if (data && (hash.includes("=") || hash === "rollouts")) {
    const words = new URLSearchParams(hash);
    for (const name of FILTERS) byId(`f-${name}`).value = words.get(name) ?? "";
    byId("search").value = words.get("search") ?? "";
    openTab("rollouts");
    applyFilters();
    beside = indexOf(words.get("beside"));
    const asked = indexOf(words.get("at"));
    read(asked >= 0 ? asked : (shown[0] ?? -1));
  } else openTab(tab ? tab.id : document.querySelector("section").id);
}

function openTab(id) {
  for (const section of document.querySelectorAll("section")) section.hidden = section.id !== id;
  for (const link of document.querySelectorAll("nav a")) link.classList.toggle("here", link.hash === `#${id}`);
}

// --- light and dark

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

function toggleTheme() {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  setTheme(theme);
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // Without storage the choice lasts as long as the page.
  }
}

function chosenTheme() {
  let stored = null;
  try {
    stored = localStorage.getItem("theme");
  } catch {
    // As above.
  }
  return stored ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

// --- keys

const KEYS = {
  j: () => move(1),
  ArrowDown: () => move(1),
  ArrowRight: () => move(1),
  k: () => move(-1),
  ArrowUp: () => move(-1),
  ArrowLeft: () => move(-1),
  s: () => keepBeside(beside === at ? -1 : at),
  p: () => {
    promptOpen = !promptOpen;
    drawPanes();
  },
  "/": () => byId("search").focus(),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select")) {
    if (event.key === "Escape" || (event.key === "Enter" && event.target.id === "search")) event.target.blur();
    return;
  }
  if (event.key === "t") return toggleTheme();
  if (byId("rollouts").hidden || !(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
}

// --- start

function makeFilters() {
  const numeric = (a, b) => a.localeCompare(b, "en", { numeric: true });
  for (const name of FILTERS) {
    const counts = new Map();
    for (let i = 0; i < data.rows.run.length; i++) {
      const value = field(name, i);
      if (value !== "") counts.set(value, (counts.get(value) ?? 0) + 1);
    }
    const select = element("select");
    select.id = `f-${name}`;
    select.append(new Option(name, ""));
    const values = name === "arm" ? [...new Set(data.runs.map((run) => run.arm))] : [...counts.keys()].sort(numeric);
    for (const value of values) if (counts.has(value)) select.append(new Option(`${value} (${counts.get(value)})`, value));
    select.addEventListener("change", refresh);
    byId("filters").insertBefore(select, byId("filters").lastElementChild);
  }
}

async function start() {
  setTheme(chosenTheme());
  byId("theme").addEventListener("click", toggleTheme);
  document.addEventListener("keydown", onKey);
  const base64 = byId("data").textContent;
  if (base64) {
    data = await unpacked(base64);
    byId("said").textContent = data.note;
    makeFilters();
    byId("search").addEventListener("input", refresh);
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("filters").addEventListener("reset", () => setTimeout(refresh));
    byId("list").addEventListener("scroll", drawList);
    addEventListener("resize", drawList);
  }
  addEventListener("hashchange", readAddress);
  readAddress();
  document.documentElement.dataset.ready = "yes";
}

start();
