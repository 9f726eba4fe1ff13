"use strict";
// The runs of a report under any prices. What it computes is what `tables.py` and `verdict.py` do.

const DATA = ["validation", "test"];
const AXES = {
  priced_seconds: "priced time (s)", total_seconds: "CPU + GPU time (s)", cpu_seconds: "CPU time (s)",
  gpu_seconds: "GPU time (s)", samples: "samples", flops: "floating-point operations", updates: "updates",
};
const LAST = 0.1; // of the budget: what a run ends with is a mean over it
const STEPS = 400; // of a line

const study = JSON.parse(document.getElementById("play-data").textContent);
const find = id => document.getElementById(id);
const mean = values => values.reduce((sum, x) => sum + x, 0) / values.length;
const escaped = text => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;"); // Plotly takes some tags

function seconds(x) {
  const [size, unit] = x < 1e-3 ? [1e6, "µs"] : x < 1 ? [1e3, "ms"] : [1, "s"];
  return `${Number((x * size).toPrecision(3))} ${unit}`;
}

/** The price list that the sliders stand for. */
function prices(place) {
  const list = {...place.prices, sample: 10 ** Number(find("play-sample").value)};
  const wanted = 10 ** Number(find("play-step").value);
  const scale = place.step_flops ? wanted / (list.flop * place.step_flops) : wanted;
  return {...list, flop: list.flop * scale, gradient_flop: list.gradient_flop * scale, step: wanted};
}

/** What a run had spent at each moment, on the axis that was chosen. */
function along(axis, run, list) {
  if (axis === "total_seconds") return run.cpu_seconds.map((x, i) => x + run.gpu_seconds[i]);
  if (axis !== "priced_seconds") return run[axis];
  return run.samples.map((n, i) => list.sample * n + list.flop * run.flops[i]
    + list.gradient_flop * run.gradient_flops[i] + list.update * run.updates[i]);
}

/** The mean over the last tenth of a budget; of the newest moment within it, where none falls into that tenth. */
function end(run, spent, budget, data) {
  const known = i => run[data][i] !== null && spent[i] <= budget * (1 + 1e-9);
  const late = run[data].filter((x, i) => known(i) && spent[i] >= (1 - LAST) * budget);
  if (late.length) return mean(late);
  for (let i = spent.length - 1; i >= 0; i--) if (known(i)) return run[data][i];
  return run[data].find(x => x !== null) ?? NaN;
}

/** The mean line over seeds, where a value holds until the next one; each moment a mean over the tenth before it. */
function line(optimizer, axis, list, budget, data, width = LAST) {
  const held = optimizer.runs.map(run => {
    const spent = along(axis, run, list), values = [];
    let i = -1, value = null;
    for (let k = 0; k <= STEPS; k++) {
      while (i + 1 < spent.length && spent[i + 1] <= budget * k / STEPS * (1 + 1e-9)) {
        i++;
        value = run[data][i] ?? value;
      }
      values.push(value);
    }
    return values;
  });
  const raw = [...Array(STEPS + 1).keys()].map(k => {
    const there = held.map(values => values[k]);
    return there.includes(null) ? null : mean(there);
  });
  const window = Math.max(1, Math.round(width * STEPS));
  return raw.map((_, k) => {
    const part = raw.slice(Math.max(0, k - window + 1), k + 1).filter(x => x !== null);
    return raw[k] === null ? null : mean(part);
  });
}

/** Everything that is shown of an environment. */
function read(place, axis, list) {
  const spent = new Map(place.optimizers.flatMap(o => o.runs.map(run => [run, along(axis, run, list)])));
  const budget = Math.min(...[...spent.values()].map(values => values[values.length - 1]));
  const ends = {};
  for (const data of DATA) {
    ends[data] = place.optimizers.map(o => ({
      name: o.name,
      bySeed: new Map(o.runs.map(run => [run.seed, end(run, spent.get(run), budget, data)])),
    }));
    for (const o of ends[data]) o.mean = mean([...o.bySeed.values()]);
  }
  const sign = place.metric.direction === "max" ? -1 : 1;
  const target = ends.validation.find(o => o.name === study.baseline)?.mean;
  const reached = {};
  for (const o of place.optimizers) {
    if (target === undefined) break;
    const values = line(o, axis, list, budget, "validation");
    const at = values.findIndex((x, k) => k >= LAST * STEPS && x !== null && sign * x <= sign * target + 1e-9);
    reached[o.name] = at < 0 ? null : at / STEPS;
  }
  return {budget, ends, reached, target, sign};
}

/** Which is best, by how much, and whether the seeds allow to say so. */
function sentence(place, data, found) {
  const {sign} = found, ends = [...found.ends[data]].sort((a, b) => sign * (a.mean - b.mean));
  const [best, next] = ends, more = sign > 0 ? "lower" : "higher";
  const opening = `On ${data}, ${best.name} ends ${sign > 0 ? "lowest" : "highest"}, with ${place.metric.title} `
    + `${best.mean.toPrecision(4)}`;
  if (!next) return `${opening}; there is nothing to compare it with.`;
  const common = [...best.bySeed.keys()].filter(seed => next.bySeed.has(seed));
  const gaps = common.map(seed => sign * (next.bySeed.get(seed) - best.bySeed.get(seed)));
  if (common.length < study.fewest)
    return `${opening}: ${(sign * (next.mean - best.mean)).toFixed(2)} ${more} than the next, ${next.name} (too few `
      + "seeds to say whether by more than chance).";
  const gap = mean(gaps), spread = Math.sqrt(gaps.reduce((sum, x) => sum + (x - gap) ** 2, 0) / (gaps.length - 1));
  const half = study.quantiles[Math.min(gaps.length, study.quantiles.length - 1)] * spread / Math.sqrt(gaps.length);
  const interval = `[${(gap - half).toFixed(2)}, ${(gap + half).toFixed(2)}]`;
  if (gap - half <= 0) return `${opening}: a tie with the next, ${next.name} (${gap.toFixed(2)} ${more} ${interval}).`;
  return `${opening}: ${gap.toFixed(2)} ${more} than the next, ${next.name} ${interval}.`;
}

/** How soon the others are where the baseline ends. */
function soonest(found) {
  const others = Object.entries(found.reached).filter(([name, at]) => name !== study.baseline && at !== null);
  if (found.target === undefined) return "";
  if (!others.length) return `No other one reaches ${study.baseline}'s final validation figure.`;
  others.sort((a, b) => a[1] - b[1]);
  const words = others.map(([name, at]) => `${name} after ${Math.round(100 * at)} %`);
  return `${study.baseline}'s final validation figure is reached by ${words.join(", ")} of the budget.`;
}

function draw() {
  const place = study.environments[Number(find("play-environment").value)];
  const axis = find("play-axis").value, list = prices(place), found = read(place, axis, list);
  const seeds = find("play-seeds").checked, traces = [];
  place.optimizers.forEach(o => DATA.forEach((data, row) => {
    const axes = {xaxis: "x", yaxis: row ? "y2" : "y"};
    const look = {color: o.colour, dash: o.dash, width: 2};
    if (seeds) {
      for (const run of o.runs) {
        const spent = along(axis, run, list);
        traces.push({
          ...axes, x: spent, y: run[data], mode: "lines", line: {...look, width: 0.6}, opacity: 0.5,
          showlegend: false, legendgroup: o.name, hoverinfo: "skip",
        });
      }
    }
    const y = line(o, axis, list, found.budget, data, 0.04);
    traces.push({
      ...axes, x: y.map((_, k) => found.budget * k / STEPS), y, mode: "lines", line: look, name: escaped(o.name),
      legendgroup: o.name, showlegend: row === 0,
    });
  }));
  const shown = data => {
    const values = found.ends[data].flatMap(o => [...o.bySeed.values()]).filter(Number.isFinite);
    const low = Math.min(...values), high = Math.max(...values), room = high - low || 1;
    return found.sign > 0 ? [low - 0.3 * room, high + 0.8 * room] : [low - 0.8 * room, high + 0.3 * room];
  };
  const title = data => ({text: escaped(`${data} ${place.metric.title}`)});
  Plotly.react("play-figure", traces, {
    height: 760, margin: {l: 70, r: 20, t: 20, b: 60}, hovermode: "x unified", legend: {orientation: "h", y: -0.1},
    xaxis: {title: {text: AXES[axis]}, range: [0, found.budget], anchor: "y2"},
    yaxis: {title: title("validation"), range: shown("validation"), domain: [0.53, 1]},
    yaxis2: {title: title("test"), range: shown("test"), domain: [0, 0.47]},
  }, {responsive: true, displaylogo: false});
  const priced = axis === "priced_seconds";
  const step = place.step_flops ? `${seconds(list.step)} a training step` : `${list.step.toPrecision(2)} times the list's `
    + "price of the network's work";
  find("play-sample-now").textContent = seconds(list.sample);
  find("play-step-now").textContent = place.step_flops ? seconds(list.step) : `× ${list.step.toPrecision(2)}`;
  find("play-prices").style.opacity = priced ? 1 : 0.4;
  find("play-verdict").textContent = (priced ? `At ${seconds(list.sample)} a render and ${step}, with `
    + `${seconds(found.budget)} for each run: ` : `With ${Number(found.budget.toPrecision(4))} ${AXES[axis]} for each run: `)
    + `${DATA.map(data => sentence(place, data, found)).join(" ")} ${soonest(found)}`;
  const table = find("play-table");
  table.replaceChildren();
  const row = (cells, kind) => {
    const line = document.createElement("tr");
    for (const text of cells) line.appendChild(document.createElement(kind)).textContent = text;
    table.appendChild(line);
  };
  row(["optimizer", "seeds", ...DATA.map(data => `${data} ${place.metric.title}`), "share until the baseline's end"], "th");
  const order = [...found.ends.validation].sort((a, b) => found.sign * (a.mean - b.mean));
  for (const o of order) {
    const test = found.ends.test.find(other => other.name === o.name), at = found.reached[o.name];
    row([o.name, String(o.bySeed.size), o.mean.toPrecision(4), test.mean.toPrecision(4),
      at === undefined ? "-" : at === null ? "never" : at.toFixed(2)], "td");
  }
}

/** Put the controls where the environment's own prices are. */
function reset() {
  const place = study.environments[Number(find("play-environment").value)];
  const used = name => place.optimizers.every(o => o.runs.every(run => along(name, run, place.prices).at(-1) > 0));
  find("play-axis").replaceChildren();
  for (const [name, title] of Object.entries(AXES)) if (used(name)) find("play-axis").add(new Option(title, name));
  find("play-axis").value = used(place.axis) ? place.axis : "updates";
  find("play-sample").value = Math.log10(place.prices.sample);
  const step = find("play-step");
  [step.min, step.max] = place.step_flops ? [-4, 1.3] : [-2, 3];
  step.value = place.step_flops ? Math.log10(place.prices.flop * place.step_flops) : 0;
  find("play-step-name").textContent = place.step_flops ? "a training step costs" : "the network's work costs";
  draw();
}

study.environments.forEach((place, i) => find("play-environment").add(new Option(place.label, i)));
for (const id of ["play-sample", "play-step"]) {
  find(id).addEventListener("input", () => {
    find("play-axis").value = "priced_seconds";
    draw();
  });
}
for (const id of ["play-axis", "play-seeds"]) find(id).addEventListener("change", draw);
find("play-environment").addEventListener("change", reset);
reset();
