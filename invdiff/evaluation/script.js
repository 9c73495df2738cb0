"use strict";
const $ = (selector, within = document) => within.querySelector(selector);
const data = JSON.parse($("#data").textContent);
$("#data").textContent = ""; // megabytes that are decoded below
// The colour map magma of matplotlib at 25 places.
const MAGMA = `
  000004 050416 100b2d 1d1147 2c115f 3f0f72 51127c 601880 721f81 832681 932b80 a5317e b73779
  c73d73 d8456c e75263 f1605d f8745c fc8961 fd9b6b feb078 fec488 fed799 fdebac fcfdbf
`.trim().split(/\s+/).map(hex => [0, 2, 4].map(i => parseInt(hex.slice(i, i + 2), 16)));

// ------------------------------------------------------------------ numbers

class Plane {
  // Pictures (K, C, H, W), as integers: 0 is NaN, q > 0 is low + (q - 1) step.
  constructor({ shape, bits, low, step, data }) {
    const text = atob(data), bytes = new Uint8Array(text.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
    [this.count, this.channels, this.height, this.width] = shape;
    this.levels = bits === 16 ? new Uint16Array(bytes.buffer) : bytes;
    Object.assign(this, { low, step, high: low + step * (2 ** bits - 2), area: this.height * this.width });
  }
  at(index) {
    const q = this.levels[index];
    return q ? this.low + (q - 1) * this.step : NaN;
  }
  picture(k = 0) {
    const size = this.channels * this.area, values = new Float32Array(size);
    for (let i = 0; i < size; i++) values[i] = this.at(k * size + i);
    return { values, channels: this.channels, height: this.height, width: this.width };
  }
  pixel(row, column, channel, k = 0) {
    return this.at((k * this.channels + channel) * this.area + row * this.width + column);
  }
}

function moments(plane) {
  const size = plane.channels * plane.area, { channels, height, width } = plane;
  const mean = new Float32Array(size), std = new Float32Array(size);
  for (let i = 0; i < size; i++) {
    let sum = 0, squares = 0;
    for (let k = 0; k < plane.count; k++) sum += plane.at(k * size + i);
    mean[i] = sum / plane.count;
    for (let k = 0; k < plane.count; k++) squares += (plane.at(k * size + i) - sum / plane.count) ** 2;
    std[i] = Math.sqrt(squares / (plane.count - 1));
  }
  const of = values => ({ values, channels, height, width });
  return { mean: of(mean), std: overChannels(of(std)) };
}

function overChannels({ values, channels, height, width }) {
  const area = height * width, result = new Float32Array(area);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < channels; c++) result[i] += values[c * area + i] / channels;
  }
  return { values: result, channels: 1, height, width };
}

function median(sorted) {
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}

function interval(sorted, { place, factor }) { // between order statistics, or half-widths times what calibration found
  const low = sorted[place - 1], high = sorted[sorted.length - place], centre = median(sorted), { floor } = data.intervals;
  if (factor === null) return [low, high];
  return [centre - factor * Math.max(centre - low, floor), centre + factor * Math.max(high - centre, floor)];
}

function largest(values) {
  let found = 0;
  for (const value of values) if (value > found) found = value;
  return found;
}

function nice(span, parts) { // the step 1, 2 or 5 times a power of ten that cuts a span into about so many parts
  const raw = span / parts, power = 10 ** Math.floor(Math.log10(raw));
  return power * [1, 2, 5, 10].find(factor => factor * power >= raw * .999);
}

function ticks(low, high, parts) {
  const step = nice(high - low, parts), found = [];
  for (let n = Math.ceil(low / step - 1e-6); n * step <= high + step * 1e-6; n++) found.push(n * step);
  return found.map(value => [value, value.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)))]);
}

const fixed = value => Number.isFinite(value) ? (Math.round(value * 1e4) / 1e4 + 0).toFixed(4) : "\u2013";

// ------------------------------------------------------------------ drawing

function node(name, attributes = {}, ...children) {
  const svg = ["svg", "line", "rect", "circle", "path", "text"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function paint(canvas, picture, window = [0, 1], colours = null) {
  const { values, channels, height, width } = picture, area = height * width, colour = channels >= 3;
  const [low, high] = window, image = new ImageData(width, height), out = image.data;
  for (let i = 0; i < area; i++) {
    if (Number.isNaN(values[i])) continue; // transparent: the hatching shows
    for (let c = 0; c < 3; c++) {
      const v = 255 * (values[colour ? c * area + i : i] - low) / (high - low);
      out[4 * i + c] = colours ? colours[3 * Math.round(Math.min(Math.max(v, 0), 255)) + c] : v;
    }
    out[4 * i + 3] = 255;
  }
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function thumbnail(canvas, picture) {
  const whole = node("canvas"), side = 128, scale = Math.min(1, side / Math.min(picture.width, picture.height));
  paint(whole, picture);
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  canvas.getContext("2d").drawImage(whole, 0, 0, canvas.width, canvas.height);
  canvas.parentElement.classList.toggle("coarse", picture.width < 64);
}

const magma = new Uint8ClampedArray(768).map((_, i) => {
  const place = Math.floor(i / 3) / 255 * (MAGMA.length - 1), below = Math.min(Math.floor(place), MAGMA.length - 2);
  return MAGMA[below][i % 3] + (place - below) * (MAGMA[below + 1][i % 3] - MAGMA[below][i % 3]);
});

// ------------------------------------------------------------------ the images and what is chosen

const images = data.images.map(({ name, noise, ...planes }) => {
  const image = { name, noise };
  for (const [key, plane] of Object.entries(planes)) {
    image[key] = new Plane(plane);
    plane.data = null;
  }
  return image;
});
for (const image of images) {
  Object.defineProperty(image, "moments", {
    configurable: true,
    get() {
      const value = moments(image.samples);
      Object.defineProperty(image, "moments", { value });
      return value;
    },
  });
}
const { samples: { count, channels, height, width } } = images[0];
const chosen = { image: 0, sample: 0, row: height >> 1, column: width >> 1 };
const image = () => images[chosen.image];
if (count > 1) { // begin where the samples differ most
  const { values } = images[0].moments.std, most = values.indexOf(largest(values));
  if (most > 0) [chosen.row, chosen.column] = [Math.floor(most / width), most % width];
}

const SOURCES = {
  measurement: { label: "measurement", get: () => image().measurement?.picture() },
  baseline: { label: "baseline", get: () => image().baseline.picture() },
  mean: { label: "mean of the samples", get: () => image().moments.mean },
  sample: { label: "the sample shown", get: () => image().samples.picture(chosen.sample) },
  truth: { label: "truth", get: () => image().truth?.picture() },
};
const [outer, inner] = data.intervals.bands; // the levels that these samples have, the wider first
const known = Object.keys(SOURCES).filter(key => !["measurement", "truth"].includes(key) || images[0][key]);
const sameShape = plane => plane && plane.height === height && plane.width === width;
const measuredHere = data.scene && sameShape(images[0].measurement); // y has a value for each pixel

function show() {
  const { moments: { mean, std } } = image();
  $("#noise").textContent = image().noise;
  showComparison();
  showSample();
  showSpread(mean, std);
  showScores();
  showPixel();
}

function showComparison() {
  const stage = $("#compare .stage"), y = image().measurement, low = y?.low, high = y?.high;
  let caption = "";
  for (const [side, tag] of [["before", ".tag.l"], ["after", ".tag.r"]]) {
    const key = $("#" + side).value, other = key === "measurement" && !data.scene;
    paint($("." + side, stage), SOURCES[key].get(), other ? [low, high] : [0, 1]);
    $(tag, stage).textContent = key === "sample" ? `sample ${chosen.sample + 1}` : key;
    if (other) {
      caption = "The measurement is no picture of the scene: "
        + `shown from ${low.toFixed(2)} (black) to ${high.toFixed(2)} (white).`;
    } else if (key === "measurement" && !sameShape(y)) {
      caption = `The measurement is ${y.height} x ${y.width}, drawn to fill the frame.`;
    }
  }
  stage.setAttribute("aria-label", `Image ${image().name}: ${$(".tag.l").textContent} and ${$(".tag.r").textContent}`);
  $("#geometry").textContent = caption;
}

function showSample() {
  paint($("#samples canvas"), SOURCES.sample.get());
  $("#which").textContent = `${chosen.sample + 1} of ${count}`;
  $("#samples .stage").setAttribute("aria-label", `Sample ${chosen.sample + 1} of ${count}`);
  const radios = document.querySelectorAll("#choices input");
  if (radios.length) radios[chosen.sample].checked = true;
}

let needle = () => {};
function showSpread(mean, std) {
  if (count === 1) return;
  const top = largest(std.values) || 1, parts = ticks(0, top, 4);
  let values = std;
  if ($("#error").checked) {
    const truth = image().truth.picture();
    values = overChannels({ ...mean, values: mean.values.map((value, i) => Math.abs(value - truth.values[i])) });
  }
  paint($("#spread canvas"), values, [0, top], magma);
  const over = largest(values.values) > top * 1.001;
  if (top - parts.at(-1)[0] < .12 * top) parts.pop();
  parts.push([top, (over ? "\u2265 " : "") + top.toPrecision(2)]);
  $("#spread .ticks").replaceChildren(...parts.map(([value, label]) => {
    const tick = node("span", value === top ? { class: "end" } : {}, label);
    tick.style.left = `${100 * value / top}%`;
    return tick;
  }));
  $("#spread-head").textContent = $("#error").checked ? "Error of the mean" : "Standard deviation";
  $("#spread .stage").setAttribute("aria-label", `${$("#spread-head").textContent}, from 0 to ${top.toPrecision(2)}`);
  needle = () => {
    const here = values.values[chosen.row * width + chosen.column];
    $(".needle").style.left = `${100 * Math.min(here / top, 1)}%`;
    $("#here").textContent = `${fixed(here)} at the pixel`
      + `${channels > 1 ? " (mean of the channels)" : ""}, on the [0,1] scale`;
  };
  needle();
}

// ------------------------------------------------------------------ the pixel

function readPixel(channel) {
  const { row, column } = chosen, pixel = plane => sameShape(plane) ? plane.pixel(row, column, channel) : NaN;
  const values = Array.from({ length: count }, (_, k) => image().samples.pixel(row, column, channel, k));
  const sorted = Float64Array.from(values).sort(), mean = values.reduce((a, b) => a + b) / count;
  const std = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (count - 1));
  const y = image().measurement;
  return {
    values, mean, std, median: median(sorted), outer: outer && interval(sorted, outer), inner: inner && interval(sorted, inner),
    measured: measuredHere && channel < y.channels ? pixel(y) : NaN,
    baseline: pixel(image().baseline), truth: pixel(image().truth),
  };
}

function showPixel() {
  const { row, column } = chosen, readings = Array.from({ length: channels }, (_, c) => readPixel(c));
  for (const frame of document.querySelectorAll(".frame")) {
    const x = `${100 * (column + .5) / width}%`, y = `${100 * (row + .5) / height}%`, pick = $(".pick", frame).style;
    [pick.left, pick.top, pick.width, pick.height] = [x, y, `${100 / width}%`, `${100 / height}%`];
    $(".top i", frame).style.left = x;
    $(".left i", frame).style.top = y;
  }
  $("#row").value = row;
  $("#column").value = column;
  needle();
  tabulate(readings);
  plot(readings);
  const [reading] = readings, ends = outer ? `, ${outer.name} from ${reading.outer.map(fixed).join(" to ")}` : "";
  $("#spoken").textContent = `Row ${row}, column ${column}: median ${fixed(reading.median)}${ends}`;
}

function channelName(c) {
  return channels === 3 ? ["red", "green", "blue"][c] : channels === 1 ? "" : `channel ${c}`;
}

function tabulate(readings) {
  const range = ([low, high]) => [node("span", {}, fixed(low)), " ", node("span", {}, `to ${fixed(high)}`)];
  const one = key => reading => [fixed(reading[key])];
  const rows = [["median", one("median"), "chief median"]];
  if (inner) rows.push([`${inner.name} interval`, r => range(r.inner), "inner"]);
  if (outer) rows.push([`${outer.name} interval`, r => range(r.outer), "outer"]);
  if (count > 1) rows.push(["mean", one("mean"), "mean"], ["standard deviation", one("std"), "std"]);
  rows.push([`sample ${chosen.sample + 1}`, reading => [fixed(reading.values[chosen.sample])], "now"]);
  if (measuredHere) rows.push(["measured", one("measured"), "measured"]);
  rows.push(["baseline", one("baseline"), "baseline"]);
  if (image().truth) rows.push(["truth", one("truth"), "truth"]);
  const body = rows.map(([label, cells, kind]) => node("tr", { class: kind },
    node("th", { scope: "row" }, label), ...readings.map(reading => node("td", {}, ...cells(reading)))));
  const head = node("thead", {}, node("tr", {}, node("th", {}, "on [0,1]"),
    ...readings.map((_, c) => node("th", { scope: "col" }, channelName(c)))));
  $("#reading").replaceChildren(head, node("tbody", {}, ...body));
}

const MARKS = { // each is drawn around (x, y)
  outer: (x, y, [low, high] = [x - 10, x + 10]) => node("line", { class: "outer", x1: low, x2: high, y1: y, y2: y }),
  inner: (x, y, [low, high] = [x - 10, x + 10]) =>
    node("rect", { class: "inner", x: low, y: y - 4, width: Math.max(high - low, 1), height: 8 }),
  median: (x, y) => node("line", { class: "median", x1: x, x2: x, y1: y - 4, y2: y + 4 }),
  dot: (x, y, now = false) => node("circle", { class: now ? "dot now" : "dot", cx: x, cy: y, r: 4 }),
  truth: (x, y) => node("path", { class: "truth", d: `M${x} ${y - 6}l5 6l-5 6l-5 -6z` }),
  measured: (x, y) => node("path", { class: "measured", d: `M${x - 4} ${y - 4}l8 8m0 -8l-8 8` }),
};

function plot(readings) {
  const svg = $("#plot"), full = svg.clientWidth || 400, edge = 12;
  const lane = channels === 1 ? 78 : 62, bottom = lane * channels + 4;
  let [low, high] = [0, 1];
  const all = readings.flatMap(r => [...r.values, ...(r.outer ?? []), r.truth, r.measured].filter(Number.isFinite));
  if (all.length) {
    const [least, most] = [Math.min(...all), Math.max(...all)], margin = Math.max(.05 * (most - least), .0005);
    if ($("#zoom").checked) [low, high] = [least - margin, most + margin];
    else [low, high] = [Math.min(0, least), Math.max(1, most)];
  }
  const at = value => edge + (full - 2 * edge) * (value - low) / (high - low), parts = [];
  for (const [value, label] of ticks(low, high, 5)) {
    const place = at(value), text = node("text", { x: place, y: bottom + 17, "text-anchor": "middle" }, label);
    parts.push(node("line", { class: "axis", x1: place, x2: place, y1: 0, y2: bottom + 5 }), text);
  }
  parts.push(node("line", { class: "axis", x1: 0, x2: full, y1: bottom, y2: bottom }));
  readings.forEach((reading, c) => {
    const y = c * lane + (channels > 1 ? 26 : 22), dots = y + 24;
    if (channels > 1) parts.push(node("text", { x: 0, y: y - 13 }, channelName(c)));
    if (count > 1 && Number.isFinite(reading.median)) {
      if (outer) parts.push(MARKS.outer(0, y, reading.outer.map(at)));
      if (inner) parts.push(MARKS.inner(0, y, reading.inner.map(at)));
      parts.push(MARKS.median(at(reading.median), y));
    }
    const last = ([, k]) => k === chosen.sample; // over the others
    const order = reading.values.map((value, k) => [value, k]).sort((a, b) => last(a) - last(b));
    for (const [value, k] of order) {
      if (Number.isFinite(value)) parts.push(MARKS.dot(at(value), dots, k === chosen.sample));
    }
    if (Number.isFinite(reading.measured)) parts.push(MARKS.measured(at(reading.measured), dots));
    if (Number.isFinite(reading.truth)) parts.push(MARKS.truth(at(reading.truth), y));
  });
  svg.setAttribute("viewBox", `0 0 ${full} ${bottom + 22}`);
  svg.setAttribute("height", bottom + 22);
  svg.setAttribute("aria-label", $("#spoken").textContent);
  svg.replaceChildren(...parts);
}

// ------------------------------------------------------------------ metrics

function showScores() {
  const rows = Object.entries(data.metrics);
  if (!rows.length) return;
  const digits = { PSNR: 2, SSIM: 3, LPIPS: 3, misfit: 2 };
  const found = rows.flatMap(([, values]) => Object.keys(values)); // estimates may have different metrics
  const names = [...new Set([...Object.keys(digits), ...found])].filter(name => found.includes(name));
  if (!names.length) return;
  const text = (value, name) => typeof value === "number" ? value.toFixed(digits[name] ?? 3) : String(value ?? "\u2013");
  const average = values => values.length && values.every(value => typeof value === "number")
    ? values.reduce((a, b) => a + b) / values.length : "\u2013";
  const titles = { baseline: "baseline, no prior", sample: "one sample", mean: "mean of samples" };
  const table = (title, cell) => node("table", {},
    node("thead", {}, node("tr", {}, node("th", {}, title), ...names.map(name => node("th", { scope: "col" }, name)))),
    node("tbody", {}, ...rows.map(([estimate, values], i) => node("tr", i === rows.length - 1 ? { class: "chief" } : {},
      node("th", { scope: "row" }, titles[estimate] ?? estimate),
      ...names.map(name => node("td", {}, text(cell(values[name] ?? []), name)))))));
  const lengths = rows.flatMap(([, values]) => Object.values(values).map(list => list.length));
  const total = Math.max(...lengths), tables = [table("this image", values => values[chosen.image])];
  if (total > 1) tables.push(table(`average of ${total} images`, average));
  $("#scores").replaceChildren(...tables);
  const hints = { PSNR: "PSNR in dB, higher is better", SSIM: "SSIM, higher is better", LPIPS: "LPIPS, lower is better",
    misfit: "misfit ||y - A x||\u00b2 / (m sigma\u00b2), 1 for an x that explains y" };
  $("#legend-scores").textContent = names.map(name => hints[name]).filter(Boolean).join("; ") + ".";
}

// ------------------------------------------------------------------ controls

function pickPixel(row, column) {
  if (!Number.isFinite(row) || !Number.isFinite(column)) return;
  chosen.row = Math.min(Math.max(Math.round(row), 0), height - 1);
  chosen.column = Math.min(Math.max(Math.round(column), 0), width - 1);
  showPixel();
}

function pickSample(k) {
  chosen.sample = (k + count) % count;
  showSample();
  if ([$("#before").value, $("#after").value].includes("sample")) showComparison();
  showPixel();
}

let playing = 0;
function play(on) {
  clearInterval(playing);
  playing = on ? setInterval(() => pickSample(chosen.sample + 1), 400) : 0;
  $("#play").setAttribute("aria-pressed", String(on));
  $("#play").textContent = on ? "Stop" : "Flip";
}

function setCut(percent) {
  const value = Math.min(Math.max(percent, 0), 100);
  $("#cut").value = value;
  $("#cut").setAttribute("aria-valuetext", `${Math.round(value)} %`);
  $("#compare .stage").style.setProperty("--cut", `${value}%`);
}

function wire() {
  for (const stage of document.querySelectorAll(".stage")) {
    stage.addEventListener("click", event => {
      if (event.target.closest(".cut")) return;
      const box = stage.getBoundingClientRect();
      const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      pickPixel(Math.floor(y * height), Math.floor(x * width));
    });
    stage.addEventListener("keydown", event => {
      const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!move || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      pickPixel(chosen.row + move[0] * (event.shiftKey ? 10 : 1), chosen.column + move[1] * (event.shiftKey ? 10 : 1));
    });
  }
  const handle = $(".cut"), stage = $("#compare .stage");
  handle.addEventListener("pointerdown", event => handle.setPointerCapture(event.pointerId));
  handle.addEventListener("pointermove", event => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    const box = stage.getBoundingClientRect();
    setCut(100 * (event.clientX - box.left) / box.width);
  });
  $("#cut").addEventListener("input", event => setCut(Number(event.target.value)));
  for (const side of ["before", "after"]) $("#" + side).addEventListener("change", showComparison);
  for (const field of ["row", "column"]) {
    $("#" + field).addEventListener("change", () => pickPixel($("#row").valueAsNumber, $("#column").valueAsNumber));
  }
  $("#zoom").addEventListener("change", showPixel);
  $("#error").addEventListener("change", () => showSpread(image().moments.mean, image().moments.std));
  $("#previous").addEventListener("click", () => pickSample(chosen.sample - 1));
  $("#next").addEventListener("click", () => pickSample(chosen.sample + 1));
  $("#play").addEventListener("click", () => play(!playing));
  document.addEventListener("keydown", event => {
    if (event.target.matches("select, input[type=number]") || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === ",") pickSample(chosen.sample - 1);
    if (event.key === ".") pickSample(chosen.sample + 1);
  });
  new ResizeObserver(showPixel).observe($("#plot").parentElement);
}

// Radio buttons whose labels are pictures; the group has the arrow keys that radio buttons have.
function strip(fieldset, name, pictures, onChange) {
  fieldset.append(...pictures.map(({ label, picture, title }, index) => {
    const radio = node("input", { type: "radio", name, value: index, class: "unseen", "aria-label": title });
    const item = node("label", { title }, radio, node("canvas"), ...(label ? [node("bdi", {}, label)] : []));
    radio.checked = index === 0;
    radio.addEventListener("change", () => onChange(index));
    thumbnail($("canvas", item), picture);
    return item;
  }));
}

function sampleStrip() {
  const pictures = Array.from({ length: count }, (_, k) => {
    return { picture: image().samples.picture(k), title: `sample ${k + 1}` };
  });
  $("#choices").replaceChildren($("#choices legend"));
  strip($("#choices"), "sample", pictures, pickSample);
}

function rulers() {
  const whole = length => ticks(0, Math.max(length - 1, 1), 6)
    .filter(([value]) => Number.isInteger(value) && value < length);
  const labels = (length, side) => whole(length).map(([value, label]) => {
    const mark = node("span", {}, label);
    mark.style[side] = `${100 * (value + .5) / length}%`;
    return mark;
  });
  for (const frame of document.querySelectorAll(".frame")) {
    $(".top", frame).replaceChildren(...labels(width, "left"), node("i"));
    $(".left", frame).replaceChildren(...labels(height, "top"), node("i"));
    frame.classList.toggle("coarse", width <= 512);
    $(".stage", frame).style.aspectRatio = `${width} / ${height}`;
    frame.style.maxWidth = `calc(30px + ${Math.min(78 * width / height, 100)}vh)`;
  }
}

function start() {
  $("#title").textContent = data.title;
  const fact = (label, value, id) => node("div", {}, node("dt", {}, label), node("dd", id ? { id } : {}, value));
  $("#facts").append(...Object.entries(data.facts).map(([label, value]) => fact(label, value)));
  $("#facts").children[3].before(fact("noise", "", "noise"));
  $("#notes").append(...data.notes.map(line => node("li", {}, line)));
  $("#notes").hidden = !data.notes.length;
  const first = { before: data.scene ? known[0] : "baseline", after: count > 1 ? "mean" : "sample" };
  for (const side of ["before", "after"]) {
    $("#" + side).append(...known.map(key => node("option", { value: key }, SOURCES[key].label)));
    $("#" + side).value = first[side];
  }
  for (const control of ["#previous", "#next", "#play", "#choices"]) $(control).hidden = count === 1;
  for (const part of ["#spread .frame", "#spread .scale"]) $(part).hidden = count === 1;
  $("#single").hidden = count > 1;
  $("#against").hidden = count === 1 || !images[0].truth;
  $("#metrics").hidden = !Object.keys(data.metrics).length;
  $("#config").hidden = !data.config;
  $(".reading").classList.toggle("colour", channels > 1);
  $("#config pre").textContent = data.config;
  $(".ramp").style.background = `linear-gradient(to right, ${MAGMA.map(colour => `rgb(${colour})`).join(", ")})`;
  const legend = { dot: "sample", ...(inner && { inner: `${inner.name} interval` }), ...(outer && { outer: `${outer.name} interval` }) };
  if (count > 1) legend.median = "median";
  $("#level").textContent = data.intervals.label;
  $("#level").title = data.intervals.note;
  $("#level-note").textContent = data.intervals.note;
  $("#level").hidden = $("#level-note").hidden = !outer;
  if (measuredHere) legend.measured = "measured";
  if (images[0].truth) legend.truth = "truth";
  $("#legend").append(...Object.entries(legend).map(([key, label]) => {
    const svg = node("svg", { viewBox: "0 0 22 12" }, MARKS[key](11, 6));
    return node("span", {}, svg, label);
  }));
  $("#images").hidden = images.length === 1;
  const pictures = images.map(({ name, samples }) => ({ picture: samples.picture(), label: name, title: name }));
  strip($("#images"), "image", pictures, index => {
    chosen.image = index;
    sampleStrip();
    show();
  });
  rulers();
  setCut(50);
  sampleStrip();
  wire();
  show();
}
start();
