// Which colour a row has. Colours are those of the page's style, so they follow dark and light.
const HUES = 10; // --c0 to --c9; the last stands for all other names
const STEPS = 12; // colours of a signal, from --s0 over --s1, --s2 to --s3
const NOTHING = 255; // a row without a value

function styled(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function colouring(mode) {
  const [kind, name] = [mode.slice(0, mode.indexOf(":")), mode.slice(mode.indexOf(":") + 1)];
  return kind === "signal" ? bySignal(rows.signals[Number(name)]) : byGroup(name);
}

function byGroup(name) {
  const { names, values } = rows.groups[name];
  if (name === "fate") return { of: values, entries: fateEntries() };
  const sizes = new Float64Array(names.length);
  for (let i = 0; i < rows.n; i++) sizes[values[i]]++;
  const order = [...names.keys()].sort((a, b) => sizes[b] - sizes[a] || a - b);
  const own = names.length > HUES ? HUES - 1 : names.length;
  const place = new Uint8Array(names.length).fill(own);
  order.slice(0, own).forEach((at, rank) => (place[at] = rank));
  const entries = order.slice(0, own).map((at, rank) => ({ name: names[at], colour: styled(`--c${rank}`) }));
  if (own < names.length) {
    entries.push({ name: `${names.length - own} others`, colour: styled(`--c${HUES - 1}`) });
  }
  return { of: values.map((v) => place[v] ?? NOTHING), entries };
}

function fateEntries() {
  return [
    { name: "dropped", colour: styled("--dropped") },
    { name: "kept", colour: styled("--kept") },
  ];
}

function bySignal(signal) {
  const known = signal.values.filter(Number.isFinite).sort();
  const low = known[Math.floor(0.02 * (known.length - 1))] ?? 0;
  const high = known[Math.ceil(0.98 * (known.length - 1))] ?? 1;
  const width = high - low || 1;
  const of = new Uint8Array(rows.n);
  for (let i = 0; i < rows.n; i++) {
    const at = Math.floor((STEPS * (signal.values[i] - low)) / width);
    of[i] = Number.isFinite(signal.values[i]) ? Math.min(Math.max(at, 0), STEPS - 1) : NOTHING;
  }
  const stops = ["--s0", "--s1", "--s2", "--s3"].map((n) => channels(styled(n)));
  const entries = Array.from({ length: STEPS }, (_, at) => ({
    name: at === 0 ? spelt(low) : at === STEPS - 1 ? spelt(high) : "",
    colour: between(stops, at / (STEPS - 1)),
  }));
  return { of, entries, scale: true };
}

function channels(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

function between(stops, share) {
  const at = Math.min(Math.floor(share * (stops.length - 1)), stops.length - 2);
  const rest = share * (stops.length - 1) - at;
  const mixed = stops[at].map((c, i) => Math.round(c + rest * (stops[at + 1][i] - c)));
  return `rgb(${mixed.join(" ")})`;
}
