"use strict";
// Plots, the structure and the tables of a report; everything that is shown stands in the element "data".
const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const sites = new Map(data.sites.map((site) => [site.name, site]));
const hosts = [...new Set(data.sites.map((site) => site.host))];
const PALETTE = ["#2463a8", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7a6fb0", "#8c8c8c"];
const COLORS = { pair: "#e69f00", missing: "#c0392b", O: "#d9463e", Si: "#8d99a6", other: "#6aa84f" };
const hostColor = (host) => PALETTE[hosts.indexOf(host) % PALETTE.length];

function layout(x, y, more) {
  const axis = { gridcolor: "#e8ecf0", zeroline: false, linecolor: "#9aa5b1", ticks: "outside", tickcolor: "#9aa5b1" };
  return {
    margin: { l: 60, r: 15, t: 15, b: 45 }, font: { family: "inherit", size: 12, color: "#1d2733" },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: hosts.length > 1,
    xaxis: { ...axis, title: { text: x } }, yaxis: { ...axis, title: { text: y } }, ...more,
  };
}
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] };

function drawHistogram() {
  const traces = hosts.map((host) => {
    const group = data.sites.filter((site) => site.host === host);
    return {
      type: "histogram", name: host, histfunc: "sum", marker: { color: hostColor(host), line: { color: "white", width: 1 } },
      x: group.map((site) => site[data.energy]), y: group.map((site) => site.equivalent),
    };
  });
  Plotly.newPlot("histogram", traces, layout(data.axes[data.energy], "sites", { barmode: "stack" }), CONFIG);
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

function drawParity() {
  const group = data.verified.filter((site) => sites.has(site.name));
  const mu = (site) => sites.get(site.name)[data.energy] - sites.get(site.name).difference_eV;
  const model = group.map((site) => site.difference_eV + mu(site));
  const dft = group.map((site) => site.dft_difference_eV + mu(site));
  const ends = [Math.min(...model, ...dft), Math.max(...model, ...dft)];
  const traces = [
    { type: "scatter", mode: "lines", x: ends, y: ends, line: { color: "#9aa5b1", width: 1, dash: "dash" }, hoverinfo: "skip" },
    {
      type: "scatter", mode: "markers", x: dft, y: model, customdata: group.map((site) => site.name),
      text: group.map((site) => `${site.name}<br>${site.picked_as}<br>error ${(1e3 * site.error_eV).toFixed(0)} meV`),
      marker: { size: 10, color: group.map((site) => hostColor(site.host)), line: { color: "white", width: 1 } },
      hovertemplate: "%{text}<extra></extra>",
    },
  ];
  const title = data.axes[data.energy];
  Plotly.newPlot("parity", traces, layout(`DFT: ${title}`, `model: ${title}`, { hovermode: "closest", showlegend: false }), CONFIG);
}

function neighbors(structure) {
  const atoms = structure.symbols.map((symbol, k) => ({
    elem: symbol, x: structure.xyz[3 * k], y: structure.xyz[3 * k + 1], z: structure.xyz[3 * k + 2], bonds: [], bondOrder: [],
    properties: { near: false, pair: structure.pair.includes(k) },
  }));
  const distance = (a, b) => Math.hypot(a.x - b.x, a.y - b.y, a.z - b.z);
  const [x, y, z] = structure.missing;
  atoms.forEach((a, i) => {
    a.properties.near = distance(a, { x, y, z }) < data.reach_A;
    atoms.forEach((b, j) => {
      if (i !== j && distance(a, b) < data.bond * (data.radii_A[a.elem] + data.radii_A[b.elem])) {
        a.bonds.push(j);
        a.bondOrder.push(1);
      }
    });
  });
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
  const atoms = neighbors(structure);
  model.addAtoms(atoms);
  model.setStyle({}, { line: { color: "#b8c2cc" } });
  model.setStyle({ predicate: (atom) => atom.properties.near }, {
    stick: { radius: 0.09, colorfunc: colorOf }, sphere: { scale: 0.22, colorfunc: colorOf },
  });
  model.setStyle({ predicate: (atom) => atom.properties.pair }, {
    stick: { radius: 0.13, colorfunc: colorOf }, sphere: { scale: 0.3, colorfunc: colorOf },
  });
  const [x, y, z] = structure.missing;
  viewer.addSphere({ center: { x, y, z }, radius: 0.6, color: COLORS.missing, opacity: 0.35 });
  addCell(data.cells[structure.cell]);
  viewer.zoomTo({ predicate: (atom) => atom.properties.near && Math.hypot(atom.x - x, atom.y - y, atom.z - z) < 5 });
  viewer.render();
}

function addCell(cell) {
  const corner = (n) => [0, 1, 2].map((k) => n[0] * cell[0][k] + n[1] * cell[1][k] + n[2] * cell[2][k]);
  const point = (n) => (([x, y, z]) => ({ x, y, z }))(corner(n));
  for (const axis of [0, 1, 2]) {
    for (const other of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
      const start = [...other];
      start.splice(axis, 0, 0);
      const end = [...other];
      end.splice(axis, 0, 1);
      viewer.addLine({ start: point(start), end: point(end), color: "#9aa5b1" });
    }
  }
}

// The surroundings of the vacancy seen along z, far atoms first: for browsers without WebGL.
function drawFlat(structure) {
  const atoms = neighbors(structure);
  const [x0, y0, z0] = structure.missing;
  const near = atoms.map((atom, k) => ({ atom, k })).filter(({ atom }) => atom.properties.near);
  const part = near.sort((a, b) => a.atom.z - b.atom.z).map(({ atom, k }) => {
    const shade = 0.35 + (0.65 * (atom.z - z0 + data.reach_A)) / (2 * data.reach_A);
    const lines = atom.bonds.filter((other) => atoms[other].properties.near && (atoms[other].z - atom.z || other - k) > 0).map((other) =>
      `<line x1="${atom.x - x0}" y1="${y0 - atom.y}" x2="${atoms[other].x - x0}" y2="${y0 - atoms[other].y}" stroke="#5d6b7a" stroke-width=".12" opacity="${shade}"/>`);
    const radius = (atom.properties.pair ? 0.4 : 0.3) * data.radii_A[atom.elem] + 0.1;
    return lines.join("") + `<circle cx="${atom.x - x0}" cy="${y0 - atom.y}" r="${radius}" fill="${colorOf(atom)}" stroke="white" stroke-width=".05" opacity="${shade}"/>`;
  });
  const r = data.reach_A + 0.5;
  element("structure").innerHTML = `<svg viewBox="${-r} ${-r} ${2 * r} ${2 * r}">${part.join("")}` +
    `<circle r=".6" fill="${COLORS.missing}" fill-opacity=".2" stroke="${COLORS.missing}" stroke-width=".05" stroke-dasharray=".2 .15"/></svg>` +
    '<p class="note hint">This browser has no WebGL: a flat picture of the surroundings, seen along z.</p>';
}

const draw = hasWebGL() ? draw3D : drawFlat;

function show(name) {
  const site = sites.get(name);
  shown = name;
  element("name").textContent = name;
  const facts = Object.keys(data.axes).map((key) => [data.axes[key], site[key]]);
  facts.push(["start", site.start]);
  element("facts").replaceChildren(...facts.flatMap(([title, value]) => {
    const [term, fact] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = title;
    fact.textContent = typeof value === "number" && !Number.isInteger(value) ? value.toFixed(3) : value ?? "–";
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
  else element("name").textContent = `${name}: its structure is in vacancies.extxyz`;
  document.querySelectorAll("tr[data-name]").forEach((row) => row.classList.toggle("shown", row.dataset.name === name));
  drawScatter();
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
if (data.verified.length) {
  drawParity();
  clickable.push("parity");
}
for (const id of clickable) element(id).on("plotly_click", ({ points }) => points[0].customdata && show(points[0].customdata));
document.querySelectorAll("tr[data-name]").forEach((row) => row.addEventListener("click", () => show(row.dataset.name)));
document.querySelectorAll("table[id]").forEach(makeSortable);
show(data.first);
