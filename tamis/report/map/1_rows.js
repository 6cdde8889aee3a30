// The rows as they came with the page, unpacked once, and what is shown and chosen of them.
const packed = JSON.parse(document.getElementById("map-data").textContent);

function buffer(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes.buffer;
}

const floats = (text) => new Float32Array(buffer(text));
const shorts = (text) => new Uint16Array(buffer(text));

const rows = {
  x: floats(packed.x),
  y: floats(packed.y),
  kept: shorts(packed.kept),
  groups: {},
  signals: packed.signals.map((s) => ({ name: s.name, values: floats(s.values) })),
  ids: packed.ids,
  texts: packed.texts,
};
rows.n = rows.x.length;
for (const [name, group] of Object.entries(packed.groups)) {
  rows.groups[name] = { names: group.names, values: shorts(group.values) };
}
rows.groups.fate = { names: ["dropped", "kept"], values: rows.kept };

const shownRow = new Uint8Array(rows.n).fill(1); // passes the filter
const chosenRow = new Uint8Array(rows.n); // lies in the lasso
let focused = -1; // the row the keyboard or the mouse is at

function count(test) {
  let all = 0;
  let kept = 0;
  for (let i = 0; i < rows.n; i++) {
    if (test(i)) {
      all++;
      kept += rows.kept[i];
    }
  }
  return { all, kept, dropped: all - kept };
}

function nameOf(group, i) {
  const { names, values } = rows.groups[group];
  return names[values[i]] ?? "";
}

const whole = new Intl.NumberFormat("en");
function spelt(value) {
  if (!Number.isFinite(value)) return "none";
  return Math.abs(value) >= 1e6 || (value && Math.abs(value) < 1e-3)
    ? value.toExponential(2)
    : String(Number(value.toPrecision(4)));
}
