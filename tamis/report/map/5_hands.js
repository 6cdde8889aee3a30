// What people do: filter, hover, lasso, and the same by keyboard.
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
let held = null; // of a mouse button that is down: where it was last
let moved = 0; // pixels since it went down
let corner = null; // of the keyboard's rectangle: the row it began at

function filter() {
  const signal = rows.signals[Number(parts.signal.value)];
  const low = parts.low.value === "" ? -Infinity : Number(parts.low.value);
  const high = parts.high.value === "" ? Infinity : Number(parts.high.value);
  const bounded = signal && (low > -Infinity || high < Infinity);
  const { source, fate } = { source: parts.source.value, fate: parts.fate.value };
  for (let i = 0; i < rows.n; i++) {
    const inside = !bounded || (signal.values[i] >= low && signal.values[i] <= high);
    const here = source === "" || rows.groups.source.values[i] === Number(source);
    shownRow[i] = inside && here && (fate === "" || rows.kept[i] === Number(fate)) ? 1 : 0;
  }
  if (focused >= 0 && !shownRow[focused]) focused = -1;
  listed = PAGE;
  tellAll();
}

function inside(x, y, corners) {
  let odd = false;
  for (let a = 0, b = corners.length - 1; a < corners.length; b = a++) {
    const [ax, ay] = corners[a];
    const [bx, by] = corners[b];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) odd = !odd;
  }
  return odd;
}

function choose(corners) {
  for (let i = 0; i < rows.n; i++) {
    chosenRow[i] = shownRow[i] && inside(left(i), top_(i), corners) ? 1 : 0;
  }
  outline = [];
  listed = PAGE;
  tellAll();
}

function clear() {
  chosenRow.fill(0);
  outline = [];
  corner = null;
  focused = -1;
  tellAll();
}

function spot(event) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

const lassoing = () => parts.lasso.getAttribute("aria-pressed") === "true";

function down(event) {
  if (event.button !== 0) return;
  held = spot(event);
  moved = 0;
  canvas.setPointerCapture(event.pointerId);
  if (lassoing() || event.shiftKey) outline = [held];
}

function move(event) {
  const [x, y] = spot(event);
  if (!held) {
    const found = rowAt(x, y);
    if (found !== focused) focusOn(found);
  } else if (outline.length) {
    outline.push([x, y]);
    draw();
  } else {
    moved += Math.hypot(x - held[0], y - held[1]);
    view.dx += x - held[0];
    view.dy += y - held[1];
    held = [x, y];
    draw();
    tellRow();
  }
}

function up(event) {
  if (held && outline.length > 2) choose(outline);
  // A finger cannot point without a touch: a tap does what the mouse does over a dot.
  else if (held && event.pointerType !== "mouse" && moved < NEAR) focusOn(rowAt(...held));
  outline = [];
  held = null;
}

// The nearest shown row in a direction: what lies aside counts twice.
function step([across, along]) {
  const [x, y] = focused < 0 ? [view.width / 2, view.height / 2] : [left(focused), top_(focused)];
  let best = focused;
  let least = Infinity;
  for (let i = 0; i < rows.n; i++) {
    if (!shownRow[i] || i === focused) continue;
    const [a, b] = [left(i) - x, top_(i) - y];
    const ahead = a * across + b * along;
    const aside = Math.abs(a * along) + Math.abs(b * across);
    const far = ahead + 2 * aside;
    if ((focused < 0 || ahead > Math.max(0.01, aside / 2)) && Math.abs(far) < least) {
      [best, least] = [i, Math.abs(far)];
    }
  }
  if (best >= 0) focusOn(best);
}

function rectangle() {
  if (focused < 0) return;
  if (corner === null) {
    corner = focused;
    parts.count.textContent = "One corner is here: go to the opposite one and press R again.";
    return;
  }
  const [x0, x1] = [left(corner), left(focused)].sort((a, b) => a - b);
  const [y0, y1] = [top_(corner), top_(focused)].sort((a, b) => a - b);
  corner = null;
  choose([[x0 - 1, y0 - 1], [x1 + 1, y0 - 1], [x1 + 1, y1 + 1], [x0 - 1, y1 + 1]]);
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const does = {
    "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: reset,
    r: rectangle, R: rectangle, Escape: clear, Enter: toggle, " ": toggle,
  }[event.key];
  const arrow = ARROWS[event.key];
  if (!does && !arrow) return;
  event.preventDefault();
  if (arrow) step(arrow);
  else does();
  if (!arrow) tellRow();
}

function toggle() {
  if (focused < 0) return;
  chosenRow[focused] = 1 - chosenRow[focused];
  tellAll();
}

function reset() {
  home();
  draw();
  tellRow();
}
