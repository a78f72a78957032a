"use strict";
// Plots, the structure and the tables of a report; everything that is shown stands in the element "data".
const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const defects = new Map([...data.sites, ...data.pairs].map((defect) => [defect.name, defect]));
const hosts = [...new Set(data.sites.map((site) => site.host))];
const PALETTE = ["#2463a8", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7a6fb0", "#8c8c8c"];
const COLORS = { pair: "#e69f00", missing: "#c0392b", O: "#d9463e", Si: "#8d99a6", other: "#6aa84f" };
const hostColor = (host) => PALETTE[hosts.indexOf(host) % PALETTE.length];

function layout(x, y, more) {
  const axis = { gridcolor: "#e8ecf0", zeroline: false, automargin: true, linecolor: "#9aa5b1", ticks: "outside", tickcolor: "#9aa5b1" };
  return {
    margin: { l: 60, r: 15, t: 15, b: 45 }, font: { family: "system-ui, DejaVu Sans, sans-serif", size: 12, color: "#1d2733" },
    showlegend: hosts.length > 1,
    xaxis: { ...axis, title: { text: x } }, yaxis: { ...axis, title: { text: y } }, ...more,
  };
}
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] };

function drawHistogram() {
  const { edges, counts } = data.histogram;
  const most = Math.max(...edges.slice(1).map((_, k) => hosts.reduce((sum, host) => sum + counts[host][k], 0)));
  const traces = hosts.map((host) => ({
    type: "bar", name: host, x: edges.slice(1).map((edge, k) => (edge + edges[k]) / 2), y: counts[host], width: edges[1] - edges[0],
    marker: { color: hostColor(host), line: { color: "white", width: 1 } },
    hovertemplate: edges.slice(1).map((edge, k) => `${edges[k].toFixed(3)} to ${edge.toFixed(3)} eV: %{y}<extra></extra>`),
  }));
  const shape = layout(data.axes[data.energy], "sites", { barmode: "stack" });
  if (most < 6) shape.yaxis.dtick = 1; // or there are ticks at halves
  Plotly.newPlot("histogram", traces, shape, CONFIG);
}

let shown = null;

function marks(group, color) {
  return {
    color, opacity: 0.9,
    size: group.map((site) => (site.name === shown ? 15 : 9)),
    line: {
      color: group.map((site) => (site.name === shown ? "#1d2733" : Object.keys(site.doubts).length ? COLORS.missing : "white")),
      width: group.map((site) => (site.name === shown || Object.keys(site.doubts).length ? 2 : 1)),
    },
  };
}

function drawScatter() {
  const [x, y] = [element("x").value, element("y").value];
  const traces = hosts.map((host) => {
    const group = data.sites.filter((site) => site.host === host);
    return {
      type: "scatter", mode: "markers", name: host, customdata: group.map((site) => site.name), text: group.map((site) => site.name),
      x: group.map((site) => site[x]), y: group.map((site) => site[y]), marker: marks(group, hostColor(host)),
      hovertemplate: "%{text}<br>%{x:.3f}, %{y:.3f}<extra></extra>",
    };
  });
  Plotly.react("scatter", traces, layout(data.axes[x], data.axes[y], { hovermode: "closest" }), CONFIG);
}

function drawInteractions() {
  const traces = hosts.map((host) => {
    const group = data.pairs.filter((pair) => pair.host === host);
    return {
      type: "scatter", mode: "markers", name: host, customdata: group.map((pair) => pair.name), text: group.map((pair) => pair.name),
      x: group.map((pair) => pair.distance_A), y: group.map((pair) => pair.interaction_eV), marker: marks(group, hostColor(host)),
      hovertemplate: "%{text}<br>%{x:.2f} Å, %{y:.3f} eV<extra></extra>",
    };
  });
  const { distance_A, interaction_eV } = data.pair_axes;
  Plotly.react("interactions", traces, layout(distance_A, interaction_eV, { hovermode: "closest" }), CONFIG);
}

function drawVerified() {
  const group = data.verified.filter((site) => defects.has(site.name));
  const model = group.map((site) => defects.get(site.name)[data.energy]);
  const dft = group.map((site, k) => model[k] - site.error_eV);
  const ends = (values) => [Math.min(...values), Math.max(...values)];
  const draw = (id, x, y, guide, titles) => Plotly.newPlot(id, [
    { type: "scatter", mode: "lines", ...guide, line: { color: "#9aa5b1", width: 1, dash: "dash" }, hoverinfo: "skip" },
    {
      type: "scatter", mode: "markers", x, y, customdata: group.map((site) => site.name),
      text: group.map((site) => `${site.name}<br>${site.picked_as}<br>error ${(1e3 * site.error_eV).toFixed(0)} meV`),
      marker: { size: 10, color: group.map((site) => hostColor(site.host)), line: { color: "white", width: 1 } },
      hovertemplate: "%{text}<extra></extra>",
    },
  ], layout(...titles, { hovermode: "closest", showlegend: false }), CONFIG);
  const [title, both, doubt] = [data.axes[data.energy], ends([...model, ...dft]), group.map((site) => site.extrapolation)];
  draw("parity", dft, model, { x: both, y: both }, [`DFT: ${title}`, `model: ${title}`]);
  draw("errors", doubt, group.map((site) => 1e3 * site.error_eV), { x: ends(doubt), y: [0, 0] }, [data.axes.extrapolation, "error (meV)"]);
}

// Atoms as 3Dmol.js wants them, with the place of the missing ones at the origin.
function bonded(structure) {
  const atoms = structure.symbols.map((symbol, k) => {
    const [x, y, z] = structure.xyz.slice(3 * k, 3 * k + 3);
    const properties = { near: Math.hypot(x, y, z) < data.reach_A, pair: structure.pair.includes(k) };
    return { elem: symbol, x, y, z, bonds: [], bondOrder: [], properties };
  });
  atoms.forEach((a) => atoms.forEach((b, j) => {
    const distance = Math.hypot(a.x - b.x, a.y - b.y, a.z - b.z);
    if (a !== b && distance < data.bond * (data.radii_A[a.elem] + data.radii_A[b.elem])) {
      a.bonds.push(j);
      a.bondOrder.push(1);
    }
  }));
  return atoms;
}

const colorOf = (atom) => (atom.properties.pair ? COLORS.pair : COLORS[atom.elem] || COLORS.other);

function hasWebGL() {
  const canvas = document.createElement("canvas");
  return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
}

let viewer = null;

function draw3D(structure) {
  viewer = viewer || $3Dmol.createViewer(element("structure"), { backgroundColor: "white" });
  viewer.clear();
  const model = viewer.addModel();
  model.addAtoms(bonded(structure));
  const balls = (radius, scale) => ({ stick: { radius, colorfunc: colorOf }, sphere: { scale, colorfunc: colorOf } });
  model.setStyle({}, { line: { color: "#b8c2cc" } });
  model.setStyle({ predicate: (atom) => atom.properties.near }, balls(0.09, 0.22));
  model.setStyle({ predicate: (atom) => atom.properties.pair }, balls(0.13, 0.3));
  for (const [x, y, z] of structure.missing) viewer.addSphere({ center: { x, y, z }, radius: 0.6, color: COLORS.missing, opacity: 0.4 });
  drawCell(structure.cell);
  viewer.setView([0, 0, 0, 0, 0, 0, 0, 1]);
  viewer.zoomTo({ predicate: (atom) => Math.hypot(atom.x, atom.y, atom.z) < 5 });
  viewer.center({ predicate: (atom) => atom.properties.pair });
  viewer.render();
}

function drawCell(cell) {
  const corner = (n) => {
    const [x, y, z] = [0, 1, 2].map((k) => n.reduce((sum, m, row) => sum + (m - 0.5) * cell[row][k], 0));
    return { x, y, z };
  };
  for (const axis of [0, 1, 2]) {
    for (const others of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
      viewer.addLine({ start: corner(others.toSpliced(axis, 0, 0)), end: corner(others.toSpliced(axis, 0, 1)), color: "#9aa5b1" });
    }
  }
}

// The same surroundings, seen from the same side, far atoms first: for browsers without WebGL.
function drawFlat(structure) {
  const atoms = bonded(structure);
  const shade = (z) => 0.35 + (0.65 * (z + data.reach_A)) / (2 * data.reach_A);
  const parts = [];
  for (const atom of atoms.filter((a) => a.properties.near)) {
    const radius = (atom.properties.pair ? 0.4 : 0.3) * data.radii_A[atom.elem] + 0.1;
    parts.push([atom.z, `<circle cx="${atom.x}" cy="${-atom.y}" r="${radius}" fill="${colorOf(atom)}" stroke="white" stroke-width=".05" opacity="${shade(atom.z)}"/>`]);
    for (const other of atom.bonds.map((k) => atoms[k]).filter((b) => b.properties.near)) {
      const z = Math.min(atom.z, other.z) - 0.01;
      parts.push([z, `<line x1="${atom.x}" y1="${-atom.y}" x2="${(atom.x + other.x) / 2}" y2="${-(atom.y + other.y) / 2}" stroke="${colorOf(atom)}" stroke-width=".16" opacity="${shade(z)}"/>`]);
    }
  }
  const r = data.reach_A + 0.5;
  const drawn = parts.sort((a, b) => a[0] - b[0]).map((part) => part[1]).join("");
  const missing = structure.missing.map(([x, y]) => `<circle cx="${x}" cy="${-y}" r=".6" fill="${COLORS.missing}" fill-opacity=".2" stroke="${COLORS.missing}" stroke-width=".05" stroke-dasharray=".2 .15"/>`);
  element("structure").innerHTML = `<svg viewBox="${-r} ${-r} ${2 * r} ${2 * r}">${drawn}${missing.join("")}</svg>` +
    '<p class="note hint">This browser has no WebGL: a flat picture of the same surroundings.</p>';
}

const draw = hasWebGL() ? draw3D : drawFlat;

function show(name) {
  const site = defects.get(name);
  shown = name;
  element("name").textContent = name;
  const titles = site.sites ? data.pair_axes : data.axes;
  const facts = Object.keys(titles).map((key) => [titles[key], site[key]]);
  facts.push(["start", site.start]);
  element("facts").replaceChildren(...facts.flatMap(([title, value]) => {
    const [term, fact] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = title;
    fact.textContent = typeof value === "number" && !Number.isInteger(value) ? value.toFixed(3).replace("-", "−") : value ?? "–";
    return [term, fact];
  }));
  element("reasons").replaceChildren(...Object.values(site.doubts).map((reason) => {
    const item = document.createElement("li");
    item.textContent = reason;
    return item;
  }));
  const structure = data.structures[name];
  element("structure").style.visibility = structure ? "visible" : "hidden";
  if (structure) draw(structure);
  else element("name").textContent = `${name}: its structure is in ${site.sites ? "pairs" : "vacancies"}.extxyz`;
  document.querySelectorAll("tr[data-name]").forEach((row) => row.classList.toggle("shown", row.dataset.name === name));
  drawScatter();
  if (data.pairs.length) drawInteractions();
}

function makeSortable(table) {
  table.classList.add("sortable");
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    let direction = -1;
    head.addEventListener("click", () => {
      direction = -direction;
      const value = (row) => row.cells[column].textContent;
      const order = (a, b) => direction * value(a).localeCompare(value(b), "en", { numeric: true });
      const numbers = (a, b) => direction * (parseFloat(value(a).replace("−", "-")) - parseFloat(value(b).replace("−", "-")));
      const rows = [...table.tBodies[0].rows];
      const numeric = rows.every((row) => !Number.isNaN(parseFloat(value(row).replace("−", "-"))));
      table.tBodies[0].append(...rows.sort(numeric ? numbers : order));
    });
  });
}

for (const [id, chosen] of [["x", "pair_A"], ["y", data.energy]]) {
  element(id).append(...Object.entries(data.axes).map(([key, title]) => new Option(title, key, false, key === chosen)));
  element(id).addEventListener("change", drawScatter);
}
drawHistogram();
drawScatter();
const clickable = ["scatter"];
if (data.pairs.length) {
  drawInteractions();
  clickable.push("interactions");
}
if (data.verified.length) {
  drawVerified();
  clickable.push("parity", "errors");
}
for (const id of clickable) element(id).on("plotly_click", ({ points }) => points[0].customdata && show(points[0].customdata));
document.querySelectorAll("tr[data-name]").forEach((row) => row.addEventListener("click", () => show(row.dataset.name)));
document.querySelectorAll("table[id]").forEach(makeSortable);
show(data.first);
