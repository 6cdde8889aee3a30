// Fill the choices in, listen, draw for the first time.
function recolour() {
  colours = colouring(parts.colour.value);
  tellLegend();
  tellAll();
}

function fill() {
  const names = { fate: "kept or dropped", source: "source", cluster: "cluster", reason: "reason" };
  for (const [name, text] of Object.entries(names)) {
    if (rows.groups[name].names.length > 1) parts.colour.append(option(`group:${name}`, text));
  }
  rows.signals.forEach((signal, at) => {
    parts.colour.append(option(`signal:${at}`, signal.name));
    parts.signal.append(option(String(at), signal.name));
  });
  rows.groups.source.names.forEach((name, at) => parts.source.append(option(String(at), name)));
}

function bounds() {
  const signal = rows.signals[Number(parts.signal.value)];
  const chosen = parts.signal.value !== "" && signal;
  const [low, high] = chosen ? extent(signal.values.filter(Number.isFinite)) : [NaN, NaN];
  for (const [input, value] of [[parts.low, low], [parts.high, high]]) {
    input.value = "";
    input.disabled = !chosen;
    input.placeholder = chosen ? spelt(value) : "";
  }
  filter();
}

function listen() {
  for (const name of ["fate", "source"]) parts[name].addEventListener("change", filter);
  for (const name of ["low", "high"]) parts[name].addEventListener("input", filter);
  parts.signal.addEventListener("change", bounds);
  parts.colour.addEventListener("change", recolour);
  parts.clear.addEventListener("click", clear);
  parts.in.addEventListener("click", () => zoom(1.4));
  parts.out.addEventListener("click", () => zoom(1 / 1.4));
  parts.home.addEventListener("click", reset);
  parts.lasso.addEventListener("click", () => {
    parts.lasso.setAttribute("aria-pressed", String(!lassoing()));
    canvas.classList.toggle("lasso", lassoing()); // a finger then draws and does not scroll
  });
  parts.more.addEventListener("click", () => {
    listed += PAGE;
    tellTable(tellCount());
  });
  canvas.addEventListener("pointerdown", down);
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse" && !held) focusOn(-1);
  });
  canvas.addEventListener("keydown", key);
  canvas.addEventListener("wheel", wheel, { passive: false });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  new ResizeObserver(resize).observe(canvas);
}

// With a key held, so that the page still scrolls over the map.
function wheel(event) {
  if (!event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 300), ...spot(event));
  tellRow();
}

document.getElementById("map-tool").hidden = false;
fill();
colours = colouring(parts.colour.value);
resize();
bounds();
recolour();
listen();
