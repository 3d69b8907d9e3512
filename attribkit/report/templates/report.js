"use strict";

(() => {
  const byId = (id) => document.getElementById(id);
  if (!byId("image-0")) return;
  if (!("DecompressionStream" in window)) {
    byId("explorer").replaceChildren("The images need a newer browser: Chrome 80, Firefox 113, Safari 16.4 or later.");
    byId("explorer").hidden = false;
    return;
  }
  const index = JSON.parse(byId("index").textContent);
  const colours = bytes(index.colours); // of values from -1 to 1
  const SIDE = 256; // pixels, longer side of a drawn map
  const NEIGHBOURS = 5; // pictures of the filmstrip on each side of the current one
  const KEPT = 24; // images whose data stay decoded
  const SVG = "http://www.w3.org/2000/svg";
  const state = { image: 0, model: "", rank: 0, method: index.methods[0], opacity: 75, sideBySide: true, boxes: true };
  const records = new Map(); // decoded images, the most recent last
  let sortedBy = -1;  // column of the scores that the images are sorted by; -1: as in the data
  let order = index.images.map((_, i) => i); // the images in the order in which they are visited
  let cards = [];
  let drawn = 0; // number of the current drawing; an older one stops

  // --- data -----------------------------------------------------------------------------------------------------

  function bytes(base64) {
    const text = atob(base64);
    const result = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) result[i] = text.charCodeAt(i);
    return result;
  }

  function record(number) {
    const found = records.get(number) ?? JSON.parse(byId(`image-${number}`).textContent);
    records.delete(number);
    records.set(number, found);
    if (records.size > KEPT) records.delete(records.keys().next().value);
    return found;
  }

  async function inflate(compressed) {
    const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function values(map) {
    if (map.values) return map.values;
    const codes = await inflate(bytes(map.data));
    if (map.differences) {
      for (let i = 0; i < codes.length; i++) if (i % map.columns) codes[i] = codes[i] + codes[i - 1];
    }
    const levels = map.signed ? new Int8Array(codes.buffer) : codes;
    map.values = Float32Array.from(levels, (level) => level * map.scale);
    return map.values;
  }

  // The two grid cells around each position along an axis, and the weight of the second; null outside the extent.
  function weights(count, cells, [start, end]) {
    return Array.from({ length: count }, (_, i) => {
      const fraction = ((i + 0.5) / count - start) / (end - start);
      if (fraction < 0 || fraction > 1) return null;
      const position = Math.min(Math.max(fraction * cells - 0.5, 0), cells - 1);
      const low = Math.min(Math.floor(position), Math.max(cells - 2, 0));
      return [low, Math.min(low + 1, cells - 1), position - low];
    });
  }

  function resized(map, grid, rows, columns) {
    const [vertical, horizontal] = map.extent ?? [[0, 1], [0, 1]];
    const down = weights(rows, map.rows, vertical);
    const across = weights(columns, map.columns, horizontal);
    const result = new Float32Array(rows * columns);
    for (let y = 0; y < rows; y++) {
      if (!down[y]) continue;
      const [top, bottom, v] = down[y];
      for (let x = 0; x < columns; x++) {
        if (!across[x]) continue;
        const [left, right, u] = across[x];
        const above = grid[top * map.columns + left] * (1 - u) + grid[top * map.columns + right] * u;
        const below = grid[bottom * map.columns + left] * (1 - u) + grid[bottom * map.columns + right] * u;
        result[y * columns + x] = above * (1 - v) + below * v;
      }
    }
    return result;
  }

  function colourOf(value) {
    const start = 3 * Math.round(127.5 + 127.5 * value);
    return colours.subarray(start, start + 3);
  }

  function paint(canvas, map, heatmap) {
    const context = canvas.getContext("2d");
    const picture = context.createImageData(canvas.width, canvas.height);
    for (let i = 0; i < heatmap.length; i++) {
      const value = map.shown ? Math.min(Math.max(heatmap[i] / map.shown, -1), 1) : 0;
      picture.data.set(colourOf(value), 4 * i);
      picture.data[4 * i + 3] = Math.round(255 * Math.sqrt(Math.abs(value)));
    }
    context.putImageData(picture, 0, 0);
  }

  // --- elements -------------------------------------------------------------------------------------------------

  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  function option(text, value) {
    return make("option", { textContent: text, value });
  }

  function short(value) {
    const magnitude = Math.abs(value);
    if (magnitude && (magnitude < 1e-3 || magnitude >= 1e5)) return value.toExponential(2);
    return String(Number(value.toPrecision(3)));
  }

  function boxesOf(view) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 100 100");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("class", "boxes");
    for (const kind of ["edge", "line"]) {
      for (const [left, top, right, bottom] of view.boxes) {
        const rect = document.createElementNS(SVG, "rect");
        const sides = { x: left, y: top, width: right - left, height: bottom - top };
        for (const [name, side] of Object.entries(sides)) rect.setAttribute(name, 100 * side);
        rect.setAttribute("class", kind);
        svg.append(rect);
      }
    }
    return svg;
  }

  function base(image, view, description) {
    if (view.picture !== null) {
      return make("img", { className: "base", src: image.pictures[view.picture], alt: description });
    }
    const [height, width] = view.size;
    const blank = make("canvas", { className: "blank", width, height });
    blank.setAttribute("role", "img");
    blank.setAttribute("aria-label", description);
    return blank;
  }

  function frameOf(image, view, description) {
    const frame = make("div", { className: "frame" }, base(image, view, description));
    const cross = make("span", { className: "cross", hidden: true });
    return { frame, cross };
  }

  function photograph(image, view) {
    const { frame, cross } = frameOf(image, view, image.name);
    frame.append(boxesOf(view), cross);
    const caption = make("figcaption", {}, make("span", { className: "name", textContent: "photograph" }));
    return { figure: make("figure", { className: "card" }, frame, caption), frame, cross };
  }

  function colourBar(map) {
    const bar = make("canvas", { width: 128, height: 1 });
    const context = bar.getContext("2d");
    for (let x = 0; x < 128; x++) {
      const fraction = x / 127;
      context.fillStyle = `rgb(${colourOf(map.signed ? 2 * fraction - 1 : fraction).join(", ")})`;
      context.fillRect(x, 0, 1, 1);
    }
    bar.setAttribute("aria-hidden", "true");
    const low = map.signed ? short(-map.shown) : "0";
    return make("span", { className: "scale" }, low, bar, short(map.shown));
  }

  function card(image, view, method) {
    const name = make("button", { type: "button", className: "name", textContent: method });
    name.addEventListener("click", () => change({ method, sideBySide: !state.sideBySide }));
    const caption = make("figcaption", {}, name);
    const figure = make("figure", { className: "card map" });
    figure.dataset.method = method;
    if (method === state.method && state.sideBySide) figure.setAttribute("aria-current", "true");
    const map = view.maps[method];
    if (!map) {
      const reason = view.problems[method] ?? "This method has no map of the image.";
      const missing = make("div", { className: "missing", textContent: reason });
      missing.style.aspectRatio = `${view.size[1]} / ${view.size[0]}`;
      figure.append(make("div", { className: "frame" }, missing), caption);
      return { figure };
    }
    const { frame, cross } = frameOf(image, view, `Map of ${method} for ${image.name}, ${view.target}`);
    const [height, width] = view.size;
    const factor = SIDE / Math.max(height, width);
    const canvas = make("canvas", { width: Math.max(1, Math.round(width * factor)), height: Math.max(1, Math.round(height * factor)) });
    canvas.className = "overlay";
    canvas.setAttribute("aria-hidden", "true");
    frame.append(canvas, boxesOf(view), cross);
    const value = make("output", { className: "value", textContent: range(map) });
    caption.append(colourBar(map), value);
    figure.append(frame, caption);
    return { figure, frame, cross, canvas, map, value };
  }

  function range(map) {
    return `range ${short(map.least)} to ${short(map.most)}`;
  }

  // --- drawing --------------------------------------------------------------------------------------------------

  function models() {
    return [...new Set(record(state.image).views.map((view) => view.model))];
  }

  function currentView() {
    const { views } = record(state.image);
    const ofModel = views.filter((view) => view.model === state.model);
    return { ofModel, view: ofModel[Math.min(state.rank, ofModel.length - 1)] };
  }

  async function fill(made, number) {
    const grid = await values(made.map);
    if (number !== drawn) return;
    made.heatmap = resized(made.map, grid, made.canvas.height, made.canvas.width);
    paint(made.canvas, made.map, made.heatmap);
  }

  function show() {
    const number = ++drawn;
    const image = record(state.image);
    if (!models().includes(state.model)) state.model = models()[0];
    const { ofModel, view } = currentView();
    fillSelect("model", models(), models().indexOf(state.model));
    fillSelect("class", ofModel.map((each) => [each.target, each.facts].filter(Boolean).join(", ")), ofModel.indexOf(view));
    byId("image").selectedIndex = order.indexOf(state.image);
    byId("method").value = state.method;
    byId("method-control").hidden = index.methods.length < 2;
    byId("boxes-control").hidden = !image.views.some((each) => each.boxes.length);
    byId("side-by-side").checked = state.sideBySide;
    byId("boxes").checked = state.boxes;
    showStatus(image, view);
    const methods = state.sideBySide ? index.methods : [state.method];
    cards = [photograph(image, view), ...methods.map((method) => card(image, view, method))];
    byId("stage").classList.toggle("single", !state.sideBySide);
    byId("stage").replaceChildren(...cards.map((each) => each.figure));
    for (const each of cards) if (each.frame) listen(each);
    showOpacity();
    for (const svg of document.querySelectorAll("#stage .boxes")) svg.style.display = state.boxes ? "" : "none";
    showScores(view);
    showFilmstrip();
    const filled = Promise.all(cards.filter((each) => each.map).map((each) => fill(each, number)));
    filled.then(() => { if (number === drawn) document.body.dataset.drawn = String(number); });
  }

  function showStatus(image, view) {
    const facts = [view.model, view.target, view.facts].filter(Boolean).join(" · ");
    byId("status").replaceChildren(make("b", { textContent: image.name }), facts ? ` · ${facts}` : "");
  }

  function fillSelect(id, texts, selected) {
    byId(id).replaceChildren(...texts.map((text, i) => option(text || "unnamed", String(i))));
    byId(id).selectedIndex = selected;
    byId(`${id}-control`).hidden = texts.length < 2;
  }

  function showOpacity() {
    byId("opacity").value = state.opacity;
    byId("opacity-value").textContent = `${state.opacity}%`;
    for (const each of cards) if (each.canvas) each.canvas.style.opacity = state.opacity / 100;
  }

  function showScores(view) {
    const place = byId("scores-of-image");
    place.hidden = !index.columns.length;
    if (place.hidden) return;
    const head = make("tr", {}, ...["method", ...index.columns].map((text) => make("th", { scope: "col", textContent: text })));
    const rows = index.methods.filter((method) => view.scores[method]).map((method) => {
      const cells = view.scores[method].map((value) => make("td", { textContent: value === null ? "-" : short(value) }));
      const row = make("tr", {}, make("th", { scope: "row", textContent: method }), ...cells);
      if (method === state.method) row.setAttribute("aria-current", "true");
      row.addEventListener("click", () => change({ method }));
      return row;
    });
    const caption = make("caption", { textContent: "Scores of this image" });
    place.replaceChildren(make("table", {}, caption, make("thead", {}, head), make("tbody", {}, ...rows)));
  }

  function showFilmstrip() {
    const place = order.indexOf(state.image);
    const from = Math.max(0, Math.min(place - NEIGHBOURS, order.length - 2 * NEIGHBOURS - 1));
    const strip = byId("filmstrip");
    strip.hidden = order.length < 2;
    const hadFocus = strip.contains(document.activeElement);
    const buttons = [];
    for (const i of order.slice(from, from + 2 * NEIGHBOURS + 1)) {
      const button = make("button", { type: "button", title: index.images[i] });
      const source = record(i).pictures[0];
      if (source) button.append(make("img", { src: source, alt: index.images[i] }));
      else button.textContent = String(i + 1);
      if (i === state.image) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => change({ image: i }));
      buttons.push(button);
    }
    strip.replaceChildren(...buttons);
    record(state.image);
    if (hadFocus) buttons[place - from].focus({ preventScroll: true });
  }

  function listen(made) {
    made.frame.addEventListener("pointermove", (event) => {
      const bounds = made.frame.getBoundingClientRect();
      point((event.clientX - bounds.left) / bounds.width, (event.clientY - bounds.top) / bounds.height);
    });
    made.frame.addEventListener("pointerleave", leave);
  }

  function point(x, y) {
    for (const each of cards) {
      if (!each.cross) continue;
      each.cross.hidden = false;
      each.cross.style.left = `${100 * x}%`;
      each.cross.style.top = `${100 * y}%`;
      if (each.heatmap) each.value.textContent = `${valueAt(each, x, y)} here`;
    }
  }

  function valueAt({ map, canvas, heatmap }, x, y) {
    const inside = (fraction, count) => Math.min(Math.max(Math.floor(fraction * count), 0), count - 1);
    const value = heatmap[inside(y, canvas.height) * canvas.width + inside(x, canvas.width)];
    const limit = map.scale * (map.signed ? 127 : 255) * 0.9999;
    if (value >= limit && map.most > 1.01 * limit) return `at least ${short(value)}`;
    if (value <= -limit && map.least < -1.01 * limit) return `at most ${short(value)}`;
    return short(value);
  }

  function leave() {
    for (const each of cards) {
      if (each.cross) each.cross.hidden = true;
      if (each.value) each.value.textContent = range(each.map);
    }
  }

  // --- input ----------------------------------------------------------------------------------------------------

  function change(part) {
    Object.assign(state, part);
    if (sortedBy >= 0 && ("method" in part || "model" in part)) orderImages();
    show();
  }

  const cycle = (number, step, count) => (number + step + count) % count;

  function step(direction) {
    change({ image: order[cycle(order.indexOf(state.image), direction, order.length)] });
  }

  function stepMethod(direction) {
    change({ method: index.methods[cycle(index.methods.indexOf(state.method), direction, index.methods.length)] });
  }

  // Sort the images by a score of the current method and model, the largest first; images without it come last.
  function sort(column) {
    sortedBy = column;
    orderImages();
    change({ image: order[0] });
  }

  function orderImages() {
    const scores = index.images.map((_, i) => sortedBy < 0 ? -i : scoreOf(i, sortedBy) ?? -Infinity);
    order = index.images.map((_, i) => i).sort((a, b) => scores[b] - scores[a] || a - b);
    fillImages();
  }

  function scoreOf(number, column) {
    const { views } = JSON.parse(byId(`image-${number}`).textContent);
    return views.find((view) => view.model === state.model)?.scores[state.method]?.[column];
  }

  function fillImages() {
    const texts = order.map((i) => index.images.length > 1 ? `${i + 1}. ${index.images[i]}` : index.images[i]);
    byId("image").replaceChildren(...texts.map((text, place) => option(text, String(order[place]))));
  }

  function setOpacity(value) {
    state.opacity = Math.min(Math.max(value, 0), 100);
    showOpacity();
  }

  function stepModel() {
    change({ model: models()[cycle(models().indexOf(state.model), 1, models().length)], rank: 0 });
  }

  const KEYS = {
    ArrowLeft: () => step(-1),
    ArrowRight: () => step(1),
    m: () => stepMethod(1),
    M: () => stepMethod(-1),
    c: () => change({ rank: cycle(state.rank, 1, currentView().ofModel.length) }),
    d: stepModel,
    s: () => change({ sideBySide: !state.sideBySide }),
    b: () => change({ boxes: !state.boxes }),
    "+": () => setOpacity(state.opacity + 5),
    "=": () => setOpacity(state.opacity + 5),
    "-": () => setOpacity(state.opacity - 5),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || !Object.hasOwn(KEYS, event.key)) return;
    const { target } = event;
    const arrows = event.key.startsWith("Arrow");
    if (target.closest("select, textarea, input[type=text]") || (arrows && target.closest("input, .scroll, pre"))) return;
    event.preventDefault();
    KEYS[event.key]();
  });

  fillImages();
  byId("order").replaceChildren(option("as in the data", "-1"), ...index.columns.map((name, i) => option(`${name} of the method`, String(i))));
  byId("order-control").hidden = !index.columns.length || index.images.length < 2;
  byId("order").addEventListener("change", (event) => sort(Number(event.target.value)));
  byId("method").replaceChildren(...index.methods.map((name) => option(name, name)));
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("image").addEventListener("change", (event) => change({ image: Number(event.target.value) }));
  byId("model").addEventListener("change", (event) => change({ model: models()[event.target.selectedIndex], rank: 0 }));
  byId("class").addEventListener("change", (event) => change({ rank: event.target.selectedIndex }));
  byId("method").addEventListener("change", (event) => change({ method: event.target.value }));
  byId("opacity").addEventListener("input", (event) => setOpacity(Number(event.target.value)));
  byId("side-by-side").addEventListener("change", (event) => change({ sideBySide: event.target.checked }));
  byId("boxes").addEventListener("change", (event) => change({ boxes: event.target.checked }));

  state.sideBySide = index.methods.length > 1;
  byId("explorer").hidden = false;
  show();
})();
