// What stands around the canvas: legend, counts, the text of a row, the table of rows.
const PAGE = 25; // rows of the table at first, and with every press of the button
const parts = {};
for (const name of ["colour", "fate", "source", "signal", "low", "high", "lasso", "clear", "in", "out",
  "home", "tip", "count", "legend", "rows", "more", "caption", "value"]) {
  parts[name] = document.getElementById(`map-${name}`);
}
let listed = PAGE;

// Texts of rows are set as text, never as markup.
function element(tag, text, className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function option(value, text) {
  const made = element("option", text);
  made.value = value;
  return made;
}

function coloured() {
  const [kind, at] = parts.colour.value.split(":");
  return kind === "signal" ? rows.signals[Number(at)] : null;
}

function tellLegend() {
  parts.legend.replaceChildren(
    ...colours.entries.map((entry) => {
      const item = document.createElement("li");
      const swatch = element("span", "", "swatch");
      swatch.style.background = entry.colour;
      item.append(swatch, document.createTextNode(entry.name));
      return item;
    }),
  );
  parts.legend.classList.toggle("scale", Boolean(colours.scale));
}

function tellCount() {
  const shown = count((i) => shownRow[i]);
  const chosen = count((i) => shownRow[i] && chosenRow[i]);
  const of = ({ all, kept, dropped }) =>
    `${whole.format(all)} (${whole.format(kept)} kept, ${whole.format(dropped)} dropped)`;
  parts.count.textContent =
    `Shown: ${of(shown)} of ${whole.format(rows.n)} rows.` + (chosen.all ? ` Chosen: ${of(chosen)}.` : "");
  return chosen.all;
}

function tellRow() {
  parts.tip.hidden = focused < 0;
  if (focused < 0) return;
  const signal = coloured();
  const head = [nameOf("fate", focused), nameOf("source", focused), nameOf("reason", focused)];
  if (signal) head.push(`${signal.name} ${spelt(signal.values[focused])}`);
  parts.tip.replaceChildren(
    element("b", head.filter(Boolean).join(" · ")),
    element("span", rows.texts[focused] || rows.ids[focused]),
  );
  const x = Math.min(Math.max(left(focused) + 12, 4), Math.max(view.width - parts.tip.offsetWidth - 4, 4));
  const below = top_(focused) + 14;
  const fits = below + parts.tip.offsetHeight < view.height;
  parts.tip.style.left = `${x}px`;
  parts.tip.style.top = `${fits ? below : Math.max(top_(focused) - parts.tip.offsetHeight - 14, 4)}px`;
}

function tableRow(i, signal) {
  const made = document.createElement("tr");
  const find = element("button", rows.ids[i].slice(0, 12));
  find.type = "button";
  find.title = "Show on the map";
  find.addEventListener("click", () => focusOn(i));
  const name = document.createElement("th");
  name.scope = "row";
  name.append(find);
  made.append(
    name,
    element("td", nameOf("fate", i), nameOf("fate", i)),
    element("td", nameOf("source", i)),
    element("td", nameOf("reason", i)),
    element("td", signal ? spelt(signal.values[i]) : "", "n"),
    element("td", rows.texts[i], "text"),
  );
  return made;
}

function tellTable(chosen) {
  const signal = coloured();
  const found = [];
  for (let i = 0; i < rows.n; i++) if (shownRow[i] && (!chosen || chosenRow[i])) found.push(i);
  parts.rows.replaceChildren(...found.slice(0, listed).map((i) => tableRow(i, signal)));
  parts.value.textContent = signal ? signal.name : "";
  const some = Math.min(listed, found.length);
  parts.caption.textContent =
    `${chosen ? "Chosen" : "Shown"} rows: ${whole.format(some)} of ${whole.format(found.length)} listed`;
  parts.more.hidden = some === found.length;
}

function focusOn(i) {
  focused = i;
  draw();
  tellRow();
}

function tellAll() {
  draw();
  tellTable(tellCount());
  tellRow();
}
