"use strict";
// The page of a service: it sends batches, and shows what was answered. Text from outside is set as text only.
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b3a400", "#7f7f7f"];
const at = id => document.getElementById(id);
const state = { token: "", about: null, rows: [], answers: [], picked: new Set(), sending: Promise.resolve() };
const percent = share => (100 * share).toFixed(1) + " %";
const said = image => [].concat(image.predicted);
const stream = () => at("stream").value;

function make(tag, content, attributes = {}) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  for (const part of [].concat(content ?? [])) element.append(part);
  return element;
}

async function call(path, options = {}) {
  const headers = state.token ? { Authorization: "Bearer " + state.token } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("the service does not answer: is it still running?");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  if (response.status === 401) at("access").hidden = false;
  throw new Error(told.error || "refused (" + response.status + ")");
}

function say(text) { at("said").textContent = text; }
function fault(error) { at("fault").textContent = error ? error.message : ""; if (error) say(""); }
function guarded(work) {
  return async event => {
    event?.preventDefault();
    fault(null);
    try { await work(event); } catch (error) { fault(error); }
  };
}

// ---- the service ----------------------------------------------------------------------------------------------
async function begin() {
  const about = state.about = await (await call("/v1/models")).json();
  at("access").hidden = true;
  const names = about.models.map(model => model.name);
  at("about").textContent = `${about.title} over ${names.length} model${names.length > 1 ? "s" : ""}: ${names.join(", ")}`;
  const limits = about.limits;
  at("limits").textContent = `PNG, JPEG, DICOM or npz (array "images"); up to ${limits.images} images and ` +
    `${limits.body_mib} MiB a batch. One batch is what you drop at once.`;
  await Promise.all([showSamples(about.samples), past()]);
}

async function showSamples(count) {
  at("sampling").hidden = !count;
  const buttons = await Promise.all([...Array(count).keys()].map(async number => {
    const image = await (await call("/v1/samples/" + number)).blob();
    const button = make("button", make("img", null, { src: URL.createObjectURL(image), alt: "" }),
      { type: "button", "aria-pressed": "false", "aria-label": "sample " + (number + 1) });
    button.addEventListener("click", () => pick(number, button.getAttribute("aria-pressed") !== "true"));
    button.image = new File([image], `sample-${number + 1}.png`, { type: "image/png" });
    return button;
  }));
  at("samples").replaceChildren(...buttons);
}

function pick(number, picked) {
  at("samples").children[number].setAttribute("aria-pressed", picked);
  picked ? state.picked.add(number) : state.picked.delete(number);
  at("send-samples").disabled = !state.picked.size;
  at("send-samples").textContent = state.picked.size ? `Send ${state.picked.size} picked` : "Send what is picked";
}

// ---- a batch --------------------------------------------------------------------------------------------------
function send(files) {
  state.sending = state.sending.then(guarded(async () => {
    if (!files.length) return;
    say(`sending ${files.length} file${files.length > 1 ? "s" : ""} …`);
    const body = new FormData();
    for (const file of files) body.append("images", file, file.name);
    const answer = await (await call("/v1/batches?stream=" + encodeURIComponent(stream()), { method: "POST", body })).json();
    state.answers.push(answer);
    at("csv").disabled = false;
    show(answer, files);
    await past();
    const counts = {};
    for (const image of answer.images) for (const name of said(image)) counts[name] = (counts[name] || 0) + 1;
    const told = Object.entries(counts).sort((a, b) => b[1] - a[1]).map(([name, n]) => `${name} (${n})`).join(", ") || "no finding";
    say(`Batch ${answer.batch} of ${answer.stream}: ${answer.images.length} images in ` +
      `${(1000 * answer.seconds.node).toFixed(0)} ms; predicted: ${told}.`);
  }));
  return state.sending;
}

function bar(share, colour) {
  const inner = make("i");
  inner.style.width = 100 * share + "%";
  if (colour) inner.style.background = colour;
  return make("span", inner, { class: "bar", "aria-hidden": "true" });
}

function show(answer, files) {
  at("result").hidden = false;
  for (const old of at("predictions").querySelectorAll("img")) URL.revokeObjectURL(old.src);
  const pictures = new Map(files.filter(file => /^image\//.test(file.type)).map(file => [file.name, file]));
  at("others").textContent = state.about.task === "multilabel" ? "each finding" : "next likely";
  const rows = answer.images.map(image => {
    const cell = make("td", image.name, { class: "name" });
    const file = pictures.get(image.name);
    if (file) cell.prepend(make("img", null, { src: URL.createObjectURL(file), alt: "" }));
    const several = Array.isArray(image.predicted);
    const others = Object.entries(image.probabilities).filter(([name]) => several || name !== image.predicted)
      .sort((a, b) => b[1] - a[1]).slice(0, several ? undefined : 2).map(([name, share]) => `${name} ${percent(share)}`).join(", ");
    return make("tr", [cell, make("td", make("strong", said(image).join(", ") || "no finding")),
      make("td", [bar(image.confidence), percent(image.confidence)]), make("td", others)]);
  });
  at("predictions").tBodies[0].replaceChildren(...rows);
  const warnings = answer.guard.fallback.map(reason => "The reference answered, not the merged model: " + reason + ".");
  warnings.push(...answer.notes.map(note => note + "."));
  if (answer.drift.alarm) warnings.push("This stream has changed: " + answer.drift.reasons.join("; ") + ".");
  at("warnings").replaceChildren(...warnings.map(text => make("p", text, { class: "alarm" })));
  at("leaning").replaceChildren(...leaning(answer));
}

function leaning(answer) {
  if (!answer.leaning) {
    const shares = Object.entries(state.about.coefficients).map(([name, share]) => `${name} ${percent(share)}`).join(", ");
    return [make("p", shares ? `One model for all batches, of: ${shares}.` : "This method does not merge for each batch.")];
  }
  const parts = ["encoder", "head"].map(part => {
    const rows = Object.entries(answer.leaning[part]).map(([name, share], index) => make("tr", [
      make("th", name, { scope: "row" }), make("td", [bar(share, COLOURS[index % COLOURS.length]), percent(share)])]));
    return make("table", [make("caption", part === "encoder" ? "encoder (what is seen)" : "head (what is concluded)"),
      make("tbody", rows)]);
  });
  const out = answer.leaning.left_out;
  const note = out.length ? [make("p", "Left out, as their outputs were not finite: " + out.join(", ") + ".", { class: "alarm" })] : [];
  return [make("div", parts, { class: "two" }), ...note];
}

// ---- the stream so far ----------------------------------------------------------------------------------------
async function past() {
  const name = stream();
  const found = await (await call("/v1/history?limit=500&stream=" + encodeURIComponent(name))).json();
  const begun = found.batches.map(row => row.batch).lastIndexOf(1);
  state.rows = found.batches.slice(Math.max(begun, 0));
  at("past").hidden = !state.rows.length;
  if (!state.rows.length) return;
  const last = state.rows[state.rows.length - 1];
  at("alarm").className = last.drift.length ? "alarm" : "quiet";
  at("alarm").textContent = last.drift.length ? "Drift alarm: " + last.drift.join("; ") + "."
    : `No drift alarm; ${state.rows.filter(row => row.fallback.length).length} of ${state.rows.length} batches were answered by the reference.`;
  const names = last.encoder ? Object.keys(last.encoder) : [];
  draw(names);
  table(names);
}

function draw(names) {
  at("areas").replaceChildren(...(names.length ? ["encoder", "head"].map(part => areas(part, names)) : []));
  at("legend").replaceChildren(...names.map((hospital, index) => {
    const swatch = make("span", null, { class: "swatch" });
    swatch.style.background = COLOURS[index % COLOURS.length];
    return make("li", [swatch, hospital]);
  }));
}

function drawn(tag, attributes, content) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (content) element.append(...[].concat(content));
  return element;
}

function areas(part, names) {
  const rows = state.rows.filter(row => row[part]), [left, width, height] = [34, Math.max(280, at("past").clientWidth), 150];
  const x = index => left + (rows.length > 1 ? index / (rows.length - 1) : 0) * (width - left - 8);
  const y = share => 8 + (1 - share) * height;
  const below = rows.map(() => 0), shapes = [];
  names.forEach((name, index) => {
    const low = [...below];
    rows.forEach((row, i) => { below[i] += row[part][name] ?? 0; });
    const points = (values, i) => `${x(i).toFixed(1)},${y(values[i]).toFixed(1)}`;
    const line = rows.length > 1 ? [...rows.keys()] : [0];
    let path = [...line.map(i => points(below, i)), ...line.reverse().map(i => points(low, i))].join(" ");
    if (rows.length === 1) path = [[left, below[0]], [width - 8, below[0]], [width - 8, low[0]], [left, low[0]]]
      .map(([px, share]) => `${px},${y(share).toFixed(1)}`).join(" ");
    shapes.push(drawn("polygon", { points: path, fill: COLOURS[index % COLOURS.length], stroke: "var(--ground)", "stroke-width": 1 }));
  });
  const alarm = rows.findIndex(row => row.drift.length);
  if (alarm >= 0) shapes.push(drawn("line", { class: "mark", x1: x(alarm), x2: x(alarm), y1: 8, y2: 8 + height }));
  for (const share of [0, 0.5, 1]) shapes.push(drawn("text", { x: left - 4, y: y(share) + 4, "text-anchor": "end" }, String(share)));
  shapes.push(drawn("text", { x: left, y: height + 26 }, "batch " + rows[0].batch));
  shapes.push(drawn("text", { x: width - 8, y: height + 26, "text-anchor": "end" }, "batch " + rows[rows.length - 1].batch));
  const last = rows[rows.length - 1][part];
  const told = names.map(name => `${name} ${percent(last[name] ?? 0)}`).join(", ");
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height + 32}`, role: "img",
    "aria-label": `Shares of the ${part} over ${rows.length} batches, stacked; in the last: ${told}` }, shapes);
  return make("figure", [make("figcaption", part), svg]);
}

function table(names) {
  const heads = ["batch", "images", "predicted", ...names.map(name => "encoder: " + name), ...names.map(name => "head: " + name), "entropy", "notes"];
  at("batches").tHead.replaceChildren(make("tr", heads.map(head => make("th", head, { scope: "col" }))));
  at("batches").tBodies[0].replaceChildren(...[...state.rows].reverse().slice(0, 100).map(row => make("tr", [
    String(row.batch), String(row.images), Object.entries(row.predicted).map(([name, n]) => `${name} (${n})`).join(", "),
    ...names.map(name => percent(row.encoder?.[name] ?? 0)), ...names.map(name => percent(row.head?.[name] ?? 0)),
    row.entropy.toFixed(3), [...row.fallback, ...row.drift].join("; ")].map(text => make("td", text)))));
}

// ---- files to keep --------------------------------------------------------------------------------------------
function cell(value) {
  let text = String(value ?? "");
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = "'" + text;  // no formula in a spreadsheet
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function predictionsCsv() {
  const { class_names: classes, models } = state.about, names = models.map(model => model.name);
  const heads = ["stream", "batch", "image", "predicted", "confidence", ...classes.map(name => "p " + name),
    ...names.map(name => "encoder " + name), ...names.map(name => "head " + name), "fallback", "drift", "models"];
  const rows = state.answers.flatMap(answer => answer.images.map(image => [answer.stream, answer.batch, image.name, said(image).join("; "),
    image.confidence, ...classes.map(name => image.probabilities[name]), ...names.map(name => answer.leaning?.encoder[name]),
    ...names.map(name => answer.leaning?.head[name]), answer.guard.fallback.join("; "), answer.drift.reasons.join("; "), answer.fingerprint]));
  return [heads, ...rows].map(row => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  const link = make("a", null, { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
  say(`${name} was made.`);
}

// ---- what people do -------------------------------------------------------------------------------------------
at("files").addEventListener("change", event => { const files = [...event.target.files]; event.target.value = ""; send(files); });
for (const kind of ["dragover", "dragleave", "drop"]) {
  at("drop").addEventListener(kind, event => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") send([...event.dataTransfer.files]);
  });
}
at("all").addEventListener("click", () => {
  const all = state.picked.size < at("samples").children.length;
  [...at("samples").children].forEach((_, number) => pick(number, all));
  at("all").textContent = all ? "Pick none" : "Pick all";
});
at("send-samples").addEventListener("click", () => send([...state.picked].sort((a, b) => a - b).map(number => at("samples").children[number].image)));
at("access").addEventListener("submit", guarded(async () => { state.token = at("token").value; await begin(); say("The token was taken."); }));
at("stream").addEventListener("change", guarded(async () => { if (at("stream").reportValidity()) await past(); }));
at("reset").addEventListener("click", guarded(async () => {
  await call(`/v1/streams/${encodeURIComponent(stream())}/reset`, { method: "POST" });
  say(`The stream ${stream()} begins anew with its next batch.`);
}));
at("csv").addEventListener("click", guarded(async () => download("predictions.csv", predictionsCsv())));
at("history").addEventListener("click", guarded(async () => {
  download("batches.csv", await (await call("/v1/history?format=csv&limit=10000&stream=" + encodeURIComponent(stream()))).text());
}));
addEventListener("resize", () => draw(Object.keys(state.rows.at(-1)?.encoder ?? {})));
guarded(begin)();
