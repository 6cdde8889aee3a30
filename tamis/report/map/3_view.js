// Where rows lie on the canvas, how they are drawn, and which one is under the mouse.
const canvas = document.getElementById("map-canvas");
const PADDING = 24; // pixels around the rows at the start
const NEAR = 10; // pixels the mouse may be off
const view = { scale: 1, dx: 0, dy: 0, width: 0, height: 0 };
let colours = null;
let outline = []; // of the lasso or rectangle that is being drawn
const layers = 2 * count(() => true).kept > rows.n ? [1, 0] : [0, 1];
let dot = 3.5; // pixels: the radius of a kept row; smaller where many share little room
let grid = null; // cells of NEAR pixels -> shown rows; made when first asked for

const left = (i) => rows.x[i] * view.scale + view.dx;
const top_ = (i) => view.dy - rows.y[i] * view.scale;

function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

function home() {
  const [x0, x1] = extent(rows.x);
  const [y0, y1] = extent(rows.y);
  const across = (view.width - 2 * PADDING) / (x1 - x0 || 1);
  const down = (view.height - 2 * PADDING) / (y1 - y0 || 1);
  view.scale = Math.min(across, down);
  view.dx = view.width / 2 - ((x0 + x1) / 2) * view.scale;
  view.dy = view.height / 2 + ((y0 + y1) / 2) * view.scale;
}

function zoom(factor, x = view.width / 2, y = view.height / 2) {
  view.scale *= factor;
  view.dx = x + (view.dx - x) * factor;
  view.dy = y + (view.dy - y) * factor;
  draw();
}

function resize() {
  const box = canvas.getBoundingClientRect();
  if (!box.width || (box.width === view.width && box.height === view.height)) return;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(box.width * ratio);
  canvas.height = Math.round(box.height * ratio);
  view.width = box.width;
  view.height = box.height;
  dot = Math.min(3.5, Math.max(1.4, 0.22 * Math.sqrt((box.width * box.height) / rows.n)));
  home();
  draw();
}

function draw() {
  grid = null;
  const pen = canvas.getContext("2d");
  const ratio = window.devicePixelRatio || 1;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, view.width, view.height);
  // Kept rows are large and dropped ones small: the two differ without colour too. The rarer lie
  // above, or the others would hide them.
  for (const kept of layers) {
    colours.entries.forEach((entry, at) => drawRows(pen, kept, at, entry.colour));
    drawRows(pen, kept, NOTHING, styled("--line"));
  }
  ring(pen, styled("--ink"), 1, (i) => chosenRow[i]);
  ring(pen, styled("--focus"), 3, (i) => i === focused);
  drawOutline(pen);
}

function drawRows(pen, kept, at, colour) {
  const radius = kept ? dot : 0.63 * dot;
  pen.fillStyle = colour;
  pen.globalAlpha = kept ? 0.9 : 0.55;
  pen.beginPath();
  for (let i = 0; i < rows.n; i++) {
    if (shownRow[i] && rows.kept[i] === kept && colours.of[i] === at) {
      pen.moveTo(left(i) + radius, top_(i));
      pen.arc(left(i), top_(i), radius, 0, 2 * Math.PI);
    }
  }
  pen.fill();
  pen.globalAlpha = 1;
}

function ring(pen, colour, width, test) {
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.beginPath();
  for (let i = 0; i < rows.n; i++) {
    if (shownRow[i] && test(i)) {
      pen.moveTo(left(i) + 5.5, top_(i));
      pen.arc(left(i), top_(i), 5.5, 0, 2 * Math.PI);
    }
  }
  pen.stroke();
}

function drawOutline(pen) {
  if (outline.length < 2) return;
  pen.strokeStyle = styled("--focus");
  pen.lineWidth = 1.5;
  pen.beginPath();
  outline.forEach(([x, y], at) => (at ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.closePath();
  pen.stroke();
}

function cells() {
  const found = new Map();
  for (let i = 0; i < rows.n; i++) {
    if (!shownRow[i]) continue;
    const key = `${Math.floor(left(i) / NEAR)},${Math.floor(top_(i) / NEAR)}`;
    if (!found.has(key)) found.set(key, []);
    found.get(key).push(i);
  }
  return found;
}

// The nearest shown row within NEAR pixels, on ties those that lie above; or -1.
function rowAt(x, y) {
  grid ??= cells();
  let best = -1;
  let least = NEAR;
  for (let a = -1; a <= 1; a++) {
    for (let b = -1; b <= 1; b++) {
      for (const i of grid.get(`${Math.floor(x / NEAR) + a},${Math.floor(y / NEAR) + b}`) ?? []) {
        const far = Math.hypot(left(i) - x, top_(i) - y);
        if (far < least || (far === least && best >= 0 && rows.kept[i] === layers[1])) {
          [best, least] = [i, far];
        }
      }
    }
  }
  return best;
}
