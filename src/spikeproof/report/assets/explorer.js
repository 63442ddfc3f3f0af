"use strict";
// Shows the data of a report: tables, curves, maps and pictures that can be filtered, sorted and saved.
// Everything from the data becomes text (textContent, attributes of elements made here), never markup.
(() => {
  const D = JSON.parse(document.getElementById("data").textContent);
  const R = D.rows;
  const $ = (id) => document.getElementById(id);
  const COLOURS = [0, 1, 2, 3, 4, 5].map((i) => `var(--line-${i})`);
  const MOST_LINES = 6; // as many as there are colours
  const MOST_BANDS = 3;
  const PAGE_ROWS = 50;
  const dash = "\u2013";
  const own = (table, key) => (Object.hasOwn(table, key) ? table[key] : undefined); // links may name anything

  // --- words ---

  const EXPLAINED = {
    "clean %": "Clean accuracy: share of test examples that the model classifies correctly without an attack.",
    "robust %": "Robust accuracy: share of test examples that the model still classifies correctly after the attacks that ran. An upper bound.",
    "certified %": "Certified accuracy: share of examples proved robust. A lower bound of the robust accuracy.",
    "verdict": "Supported: no check was raised and the attacks searched as much as a standard suite. Preliminary (~): they searched less. Doubtful (?): they may have been too weak. Withheld: the evaluation is wrong, and the number is not shown.",
    "ties %": "Share of clean examples on which two or more classes share the largest logit; a tie counts as an error.",
    "silent %": "Share of clean examples for which no output neuron spikes.",
    "spikes": "Mean number of spikes in the whole network per example, up to the decision.",
    "time steps": "Decision time: mean number of time steps until the decision; all of them without early exit.",
    "energy, nJ": "Energy of the synaptic operations of a clean inference, where the study analysed spikes.",
    "attack": "A recipe with its threat. The worst case is the minimum over all attacks, example by example.",
    "n": "Number of test examples.",
    "seeds": "Number of trainings of the same architecture, each under another seed.",
    "mean over seeds": "Mean over the trainings of one architecture under several seeds, on the examples that all of them share.",
    "interval": "95 % interval for another training on other examples: what a claim about the architecture needs.",
    "trainings only": "95 % interval for another training on these examples (Student's t over seeds).",
    "lowest to highest": "The lowest and the highest accuracy of a single training.",
    "holds across seeds": "The interval for other trainings and other examples excludes zero, and the p-value is at most 5 % after Holm's correction for all rows.",
    "same sign": "Number of seeds whose own difference has the sign of the mean.",
    "loss": "Training loss of the last epoch, its mean over the examples.",
    "validation %": "Share of the validation part that is classified correctly after the last epoch.",
    "s per epoch": "Mean time of one epoch on the clock, in seconds.",
    "processor s per epoch": "Mean processor time of one epoch, in seconds: the cost of a learning rule or a defence, whatever else the machine did.",
    "epochs": "Passes of the training over its examples.",
    "parameters": "Trained numbers of the network.",
    "dataset": "The data set that the examples come from.",
    "encoder": "The part that turns an example into spikes or currents over time.",
    "network": "The layers over time between encoder and decoder.",
    "neuron": "The equation of one time step of a neuron; relu stands for the unit of an ANN.",
    "decoder": "The part that turns the activity of the output layer over time into logits.",
    "surrogate": "The function whose derivative stands in for that of the spike.",
    "rule": "The learning rule: how the weights were trained.",
    "seed": "The number from which the weights, the order of examples and the randomness of attacks follow.",
    "model": "What maps inputs to logits: encoder, network and decoder in one.",
    "budget": "A threat, the set of inputs that an attacker may choose from around each clean one, with its size epsilon.",
    "epsilon": "The size of a budget: how far an attacked example may be from the clean one, as the threat measures it.",
    "worst case": "The minimum over all attacks of the study, example by example; an upper bound.",
    "95 % interval": "Where the share would lie on other test examples: a Wilson interval for their limited number, which does not cover other trainings.",
    "Pareto front": "The models that no other one is at least as good as in both measures and better in one.",
    "confusion matrix": "How often examples of each class get each answer.",
    "tie": "Two or more classes share the largest logit; a tie counts as an error.",
    "warnings": "Number of reasons that the audit gives against a number; its part of the page tells them.",
    "cell": "The smallest unit of a study that is computed and stored; these are the first digits of its address.",
    "pair": "Two architectures that differ in one part.",
    "difference, points": "Mean of the first less that of the second, in percentage points.",
    "p": "P-value of no difference over trainings and examples, corrected for all pairs (Holm).",
    "overfitting": "First epoch at which a watch found catastrophic overfitting: the model withstands single steps and no stronger attack.",
  };
  const VERDICTS = { doubtful: "?", preliminary: "~", withheld: "\u2715", supported: "\u2713" };

  const percent = (share) => (share === null || share === undefined ? dash : (100 * share).toFixed(1));
  const interval = (low, high) => `[${percent(low)}, ${percent(high)}]`;
  const number = (value, digits = 1) => (value === null || value === undefined ? dash : value.toFixed(digits));
  const budgetText = (b) => `${D.budgets[b][0]} ${D.budgets[b][2]}`;
  const text = (i) => D.texts[i];

  // --- elements ---

  function el(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (value === true) made.setAttribute(key, "");
      else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  function term(words) {
    return own(EXPLAINED, words) ? el("abbr", { title: EXPLAINED[words] }, words) : words;
  }

  // --- rows of the data ---

  const rows = R.model.map((model, i) => ({
    i, model, budget: R.budget[i], attack: text(R.attack[i]), accuracy: R.accuracy[i], low: R.low[i],
    high: R.high[i], n: R.n[i], verdict: text(R.verdict[i]), certified: R.certified[i],
    certifiedLow: R.certifiedLow[i], certifiedHigh: R.certifiedHigh[i], exit: R.exit[i],
    warnings: R.warnings[i], missing: R.missing[i], cell: R.cell[i],
  }));
  const worst = rows.filter((row) => row.attack === D.worst);
  const worstOf = new Map(worst.map((row) => [`${row.budget}-${row.model}`, row]));
  const attacks = [...new Set(rows.map((row) => row.attack))];
  const verdicts = [...new Set(worst.map((row) => row.verdict))];
  const threats = [...new Set(D.budgets.map((budget) => budget[0]))];
  const valuesOf = D.axes.map((_, k) => [...new Set(D.models.map((model) => model.axes[k]))]);

  function command(cell) {
    const known = own(D.cells, cell);
    return known ? D.commands[known[3]] : "";
  }

  function described(row) {
    const model = D.models[row.model];
    const lines = [`${model.name}`, `${row.attack}, ${budgetText(row.budget)}`];
    if (row.accuracy === null) lines.push("withheld: the evaluation is wrong, and the number is not shown");
    else lines.push(`robust accuracy ${percent(row.accuracy)} % ${interval(row.low, row.high)}, n = ${row.n}`);
    if (row.certified !== null) lines.push(`certified ${percent(row.certified)} % ${interval(row.certifiedLow, row.certifiedHigh)}`);
    if (row.verdict) lines.push(`verdict: ${row.verdict}`);
    for (const i of row.warnings.slice(0, 2)) lines.push(`\u26a0 ${text(i)}`);
    if (row.missing.length) lines.push(`without ${row.missing.map(text).join(", ")}`);
    if (command(row.cell)) lines.push(`$ ${command(row.cell)}`);
    return lines.join("\n");
  }

  // --- state, which lives in the link ---

  const first = D.first ?? Math.max(0, D.budgets.length - 1);
  const parts = D.seeds.length ? D.axes.filter((axis) => axis !== "seed").concat("seed") : D.axes; // seeds are averaged
  const DEFAULTS = {
    view: "table", budget: String(first), sort: "", hide: "", off: "", attack: D.worst, verdict: "", scale: "linear",
    means: D.seeds.length ? "yes" : "", across: parts[0], down: parts[1] ?? parts[0], x: "clean", y: "robust", model: "0", row: "",
    cell: "", find: "", more: "",
  };
  let state = { ...DEFAULTS };

  function fromHash() {
    const hash = location.hash;
    if (hash.startsWith("#?")) {
      const found = new URLSearchParams(hash.slice(2));
      state = { ...DEFAULTS };
      for (const key of Object.keys(DEFAULTS)) if (found.has(key)) state[key] = found.get(key);
      return true;
    }
    const named = hash.match(/^#(worst|row|cell)-(.+)$/);
    if (!named) return false;
    const [, kind, place] = named;
    const numbered = kind === "worst" ? worstOf.get(place) : kind === "row" ? rows[Number(place)]
      : rows.find((row) => row.cell === place && row.attack !== D.worst);
    state = { ...state, row: numbered ? String(numbered.i) : "", cell: numbered ? "" : place };
    return true;
  }

  function hashOf(changes = {}) {
    const next = { ...state, ...changes };
    const said = new URLSearchParams();
    for (const [key, value] of Object.entries(next)) if (value !== DEFAULTS[key]) said.set(key, value);
    return `#?${said}`;
  }

  function go(changes, keep = "") {
    state = { ...state, ...changes };
    history.replaceState(null, "", hashOf());
    draw(keep);
  }

  const budget = () => Math.min(Math.max(0, Math.trunc(Number(state.budget)) || 0), Math.max(0, D.budgets.length - 1));
  const off = () => new Set(state.off ? state.off.split("\u0001") : []);
  const hidden = () => new Set(state.hide ? state.hide.split("\u0001") : []);
  const joined = (set) => [...set].join("\u0001");

  function shownModels() {
    const dropped = off();
    const words = state.find.toLowerCase();
    return D.models.map((model, i) => i).filter((i) => {
      const model = D.models[i];
      if (words && !model.name.toLowerCase().includes(words)) return false;
      if (model.axes.some((value, k) => dropped.has(`${k}=${valuesOf[k].indexOf(value)}`))) return false;
      return !state.verdict || worst.some((row) => row.model === i && row.budget === budget() && row.verdict === state.verdict);
    });
  }

  // --- architectures: models that differ only in the seed of their training ---

  const nameWithoutSeed = (i) => D.models[i].axes.filter((_, k) => D.axes[k] !== "seed").join(" \u00b7 ") || "all trainings";
  const averaged = () => D.seeds.length > 0 && state.means === "yes";

  // The shown models: each by itself, or those of one architecture together.
  function groupsOf(models) {
    if (!averaged()) return models.map((i) => ({ name: D.models[i].name, models: [i] }));
    const found = new Map();
    for (const i of models) {
      const name = nameWithoutSeed(i);
      if (!found.has(name)) found.set(name, { name, models: [] });
      found.get(name).models.push(i);
    }
    return [...found.values()];
  }

  // The mean, the lowest and the highest of numbers; null where one is missing or withheld.
  function spreadOf(values) {
    if (!values.length || values.some((value) => value === null || value === undefined || !Number.isFinite(value))) return null;
    return { mean: values.reduce((a, b) => a + b, 0) / values.length, low: Math.min(...values), high: Math.max(...values) };
  }

  // Where the means of an architecture stand, and what is said of one of them.
  const seedsLink = (each, b) => hashOf({ view: "seeds", budget: String(b), find: each.name, row: "", cell: "", more: "" });

  function averagedWords(each, [b, mean, low, high, mark, tLow, tHigh, least, most]) {
    const lines = [each.name, `mean over ${each.trainings} trainings, ${budgetText(b)}`,
      `robust accuracy ${percent(mean)} % ${interval(low, high)} for another training on other examples, n = ${each.n}`,
      `trainings from ${percent(least)} to ${percent(most)} %, ${interval(tLow, tHigh)} for another one on these examples`];
    if (mark) lines.push(`verdict: ${mark}`);
    const one = worst.find((row) => row.budget === b && nameWithoutSeed(row.model) === each.name);
    if (one && command(one.cell)) lines.push(`$ ${command(one.cell)}`);
    return lines.join("\n");
  }

  // --- saving ---

  function csv(table) {
    const safe = (value) => {
      const said = value === null || value === undefined ? "" : String(value);
      const harmless = typeof value === "string" && /^[=+\-@]/.test(said) ? `'${said}` : said;
      return /[",\r\n]/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless;
    };
    return [table.head, ...table.body].map((line) => line.map(safe).join(",")).join("\n") + "\n";
  }

  function save(table, name) {
    const place = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
    const link = el("a", { href: place, download: `${name}.csv` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(place), 1000);
  }

  // --- tables ---

  let current = { head: [], body: [] };

  function link(row, words) {
    return el("a", { href: `#row-${row.i}`, "data-row": row.i }, words);
  }

  function judged(row) {
    if (!row) return [dash];
    if (row.accuracy === null) return [el("a", { href: `#row-${row.i}`, "data-row": row.i, class: "mark" }, "withheld")];
    const mark = VERDICTS[row.verdict];
    const signs = [mark && row.verdict !== "supported" ? el("span", { class: "mark" }, mark) : null];
    if (row.missing.length) signs.push(el("span", { class: "mark" }, ` without ${row.missing.map(text).join(", ")}`));
    return [link(row, percent(row.accuracy)), ...signs, el("small", {}, interval(row.low, row.high)),
      row.certified === null ? null : el("small", {}, `proved ${percent(row.certified)}`)];
  }

  function sorted(list, columns) {
    const [name, way] = state.sort.split("\u0001");
    const column = columns.find((each) => each.name === name);
    if (!column) return list;
    const sign = way === "down" ? -1 : 1;
    return [...list].sort((a, b) => {
      const [one, two] = [column.value(a), column.value(b)];
      if (one === two) return 0;
      if (one === null || one === undefined) return 1;
      if (two === null || two === undefined) return -1;
      return sign * (typeof one === "string" ? one.localeCompare(two, "en", { numeric: true }) : one - two);
    });
  }

  // The words of a view with their meanings, which a title alone would tell to the pointer only.
  const TERMS = {
    curves: ["robust %", "worst case", "epsilon", "95 % interval", "verdict", "certified %"],
    map: ["robust %", "worst case", "budget", "verdict"],
    scatter: ["clean %", "robust %", "certified %", "spikes", "energy, nJ", "time steps", "Pareto front", "verdict"],
    confusion: ["confusion matrix", "worst case", "tie"],
    seeds: ["model", "budget", "seeds", "n", "mean over seeds", "interval", "trainings only", "lowest to highest", "pair", "difference, points", "p", "same sign", "holds across seeds"],
  };

  function wordsOfView() {
    const names = TERMS[state.view] ?? [...current.head, ...(state.view === "table" ? ["robust %", "worst case", "95 % interval", "verdict"] : [])];
    const known = [...new Set(names)].filter((name) => own(EXPLAINED, name));
    if (!known.length) return null;
    const made = el("details", { class: "words" }, el("summary", { "data-key": "words" }, "Words of this view"),
      el("dl", {}, ...known.flatMap((name) => [el("dt", {}, name), el("dd", {}, EXPLAINED[name])])));
    made.open = wordsOpen;
    made.addEventListener("toggle", () => { wordsOpen = made.open; });
    return made;
  }

  let wordsOpen = false;

  function table(caption, list, columns) {
    const gone = hidden();
    const shown = columns.filter((column) => !gone.has(column.name));
    const ordered = sorted(list, columns);
    const most = PAGE_ROWS + (Number(state.more) || 0);
    current = { head: shown.map((c) => c.name), body: ordered.map((each) => shown.map((c) => c.value(each))) };
    const [by, way] = state.sort.split("\u0001");
    const head = shown.map((column) => {
      const here = column.name === by;
      const press = () => go({ sort: `${column.name}\u0001${here && way === "down" ? "up" : here ? "down" : column.down ? "down" : "up"}` }, `sort-${column.name}`);
      return el("th", { scope: "col", class: column.number ? "n" : null, "aria-sort": here ? (way === "down" ? "descending" : "ascending") : "none" },
        el("button", { type: "button", "data-key": `sort-${column.name}`, title: column.title ?? own(EXPLAINED, column.name), onclick: press },
          column.name, here ? (way === "down" ? " \u25be" : " \u25b4") : ""));
    });
    const body = ordered.slice(0, most).map((each) => el("tr", {}, ...shown.map((column) => {
      const cell = el("td", { class: column.bar ? "accuracy" : column.number ? "n" : null }, ...[].concat(column.show ? column.show(each) : String(column.value(each) ?? dash)).filter((x) => x !== null));
      if (column.bar) cell.style.setProperty("--share", `${100 * (column.value(each) ?? 0)}%`);
      return cell;
    })));
    const menu = el("details", {}, el("summary", {}, "Columns"), el("div", {}, ...columns.map((column) => el("label", {},
      el("input", { type: "checkbox", "data-key": `columns=${column.name}`, checked: !gone.has(column.name), onchange: (event) => {
        const next = hidden();
        if (event.target.checked) next.delete(column.name); else next.add(column.name);
        go({ hide: joined(next) }, `columns=${column.name}`);
      } }), column.name))));
    menu.open = keepOpen.startsWith("columns=");
    const more = ordered.length > most
      ? el("button", { type: "button", "data-key": "more", onclick: () => go({ more: String((Number(state.more) || 0) + 4 * PAGE_ROWS) }, "more") },
          `Show more (${ordered.length - most} of ${ordered.length} rows are not shown)`)
      : null;
    return [
      el("div", { class: "bar" }, menu, el("span", { class: "over", role: "status" }, `${ordered.length} rows. ${caption}`)),
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of the view" },
        el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...body))),
      more,
    ];
  }

  const axisColumns = (of) => D.axes.map((axis, k) => ({ name: axis, value: (each) => D.models[of(each)].axes[k] }));

  function tableView() {
    const list = shownModels();
    const some = (key) => D.models.some((model) => model[key] !== null);
    const columns = [
      ...axisColumns((i) => i),
      { name: "clean %", number: true, bar: true, down: true, value: (i) => D.models[i].clean, show: (i) => {
        const model = D.models[i];
        return [el("a", { href: `#cell-${model.cell}`, "data-tip": `${model.name}\nclean accuracy ${percent(model.clean)} % ${interval(model.low, model.high)}, n = ${model.n}\n$ ${command(model.cell)}` }, percent(model.clean)), el("small", {}, interval(model.low, model.high))];
      } },
      ...D.budgets.map((_, b) => ({ name: budgetText(b), title: `Robust accuracy in % at ${budgetText(b)}, in the worst case over all attacks. An upper bound.`, number: true, bar: true, down: true, value: (i) => worstOf.get(`${b}-${i}`)?.accuracy ?? null, show: (i) => judged(worstOf.get(`${b}-${i}`)) })),
      { name: "ties %", number: true, value: (i) => D.models[i].ties, show: (i) => percent(D.models[i].ties) },
      { name: "silent %", number: true, value: (i) => D.models[i].silent, show: (i) => percent(D.models[i].silent) },
      { name: "spikes", number: true, value: (i) => D.models[i].spikes, show: (i) => number(D.models[i].spikes) },
      { name: "time steps", number: true, value: (i) => D.models[i].exit, show: (i) => number(D.models[i].exit, 2) },
      ...(some("energy") ? [{ name: "energy, nJ", number: true, value: (i) => D.models[i].energy, show: (i) => number(D.models[i].energy, 2) }] : []),
    ];
    return table("Worst case over all attacks, with 95 % intervals. Each number opens its part below.", list, columns);
  }

  function attacksView() {
    const models = new Set(shownModels());
    const dropped = off();
    const list = rows.filter((row) => models.has(row.model) && (!dropped.has(`attack=${attacks.indexOf(row.attack)}`)) && (state.verdict ? row.verdict === state.verdict : true));
    const columns = [
      ...axisColumns((row) => row.model),
      { name: "attack", value: (row) => row.attack },
      { name: "budget", value: (row) => budgetText(row.budget) },
      { name: "robust %", number: true, bar: true, down: true, value: (row) => row.accuracy, show: judged },
      { name: "verdict", value: (row) => row.verdict },
      { name: "n", number: true, value: (row) => row.n },
      { name: "warnings", number: true, value: (row) => row.warnings.length },
      { name: "time steps", number: true, value: (row) => row.exit, show: (row) => number(row.exit, 2) },
      { name: "cell", value: (row) => row.cell.slice(0, 8) },
    ];
    const left = D.rowsLeftOut ? ` ${D.rowsLeftOut} numbers of single attacks were left out to keep this page small; table.csv has them.` : "";
    return table(`Every attack at every budget.${left}`, list, columns);
  }

  // --- charts ---

  // `tips` says what stands beside a mark: the target of its link -> words; marks that link to a row tell of that row.
  function figure(label, { tips = new Map(), ...options }) {
    const below = options.marginBottom ? {} : { marginBottom: 44, x: { labelOffset: 40, ...options.x } }; // the label of the axis below its numbers
    const svg = Plot.plot({ width: Math.min(900, Math.max(320, $("explorer").clientWidth || 900)), style: { background: "transparent", color: "currentColor", fontSize: "12px" }, ...options, ...below });
    const drawn = svg.tagName.toLowerCase() === "svg" ? svg : svg.querySelector("svg");
    drawn.setAttribute("role", "group");
    drawn.setAttribute("aria-label", label);
    for (const each of drawn.querySelectorAll("g[aria-label]")) each.removeAttribute("aria-label"); // names of marks
    for (const each of drawn.querySelectorAll("a")) {
      const href = each.getAttribute("href") || each.getAttributeNS("http://www.w3.org/1999/xlink", "href") || "";
      if (tips.has(href)) {
        each.setAttribute("data-tip", tips.get(href));
        each.setAttribute("aria-label", tips.get(href).replaceAll("\n", ", "));
        continue;
      }
      const found = href.match(/^#row-(\d+)$/);
      if (!found) continue;
      each.setAttribute("data-row", found[1]);
      each.setAttribute("aria-label", described(rows[Number(found[1])]).replaceAll("\n", ", "));
    }
    return svg;
  }

  function legend(names) {
    return el("ul", { class: "legend" }, ...names.map((name, i) => {
      const stroke = el("span", {});
      stroke.style.background = COLOURS[i];
      return el("li", {}, stroke, name);
    }));
  }

  function empty(words) {
    current = { head: [], body: [] };
    return [el("p", {}, words)];
  }

  function curvesView() {
    const threat = D.budgets[budget()]?.[0];
    const here = D.budgets.map((each, b) => b).filter((b) => D.budgets[b][0] === threat);
    if (!here.length) return empty("The study has no attacks.");
    const epsilon = (b) => D.budgets[b][1];
    const tips = new Map();
    let lines;
    if (averaged()) {
      const shown = new Set(shownModels().map(nameWithoutSeed));
      lines = D.seeds.filter((each) => shown.has(each.name)).map((each) => ({ name: `${each.name} (${each.trainings} trainings)`, points: each.worst.filter((w) => here.includes(w[0]))
        .filter((w) => w[1] !== null).map(([b, mean, low, high, mark]) => ({ x: epsilon(b), y: mean, low, high, b, verdict: mark, row: null, href: seedsLink(each, b) })) }));
      for (const line of lines) {
        const clean = D.seeds.find((each) => line.name.startsWith(`${each.name} (`))?.clean ?? [null];
        if (state.scale === "linear" && line.points.length && clean[0] !== null) line.points.unshift({ x: 0, y: clean[0], low: clean[1], high: clean[2], b: null, verdict: "", row: null });
      }
      for (const each of D.seeds) for (const w of each.worst) if (w[1] !== null) tips.set(seedsLink(each, w[0]), averagedWords(each, w));
    } else {
      const found = new Map();
      for (const row of rows) if (row.attack === state.attack && here.includes(row.budget)) found.set(`${row.budget}-${row.model}`, row);
      lines = shownModels().map((i) => {
        const model = D.models[i];
        const points = here.map((b) => found.get(`${b}-${i}`)).filter((row) => row && row.accuracy !== null)
          .map((row) => ({ x: epsilon(row.budget), y: row.accuracy, low: row.low, high: row.high, b: row.budget, verdict: row.verdict, certified: row.certified, row }));
        if (state.scale === "linear" && points.length) points.unshift({ x: 0, y: model.clean, low: model.low, high: model.high, b: null, verdict: "", row: null });
        return { name: model.name, points };
      });
    }
    lines = lines.filter((line) => line.points.length);
    const attacked = (line) => line.points.filter((p) => p.b !== null).map((p) => p.y);
    const there = (line) => line.points.find((p) => p.b === budget())?.y ?? -1;
    const mean = (line) => attacked(line).reduce((sum, y) => sum + y, 0) / Math.max(1, attacked(line).length);
    lines.sort((a, b) => there(b) - there(a) || mean(b) - mean(a)); // as the ranking at this budget
    current = { head: ["model", "threat", "epsilon", "robust accuracy", "low", "high", "verdict", "certified"],
      body: lines.flatMap((line) => line.points.map((p) => [line.name, threat, p.x, p.y, p.low, p.high, p.verdict, p.certified ?? null])) };
    if (!lines.length) return empty("No number fits these filters.");
    const left = lines.length - MOST_LINES;
    lines = lines.slice(0, MOST_LINES);
    const shade = new Map(lines.map((line, i) => [line.name, COLOURS[i]]));
    const banded = lines.length > MOST_BANDS ? MOST_BANDS : lines.length;
    const points = lines.flatMap((line, i) => line.points.map((p) => ({ ...p, name: line.name, i })));
    const proved = points.filter((p) => p.certified !== null && p.certified !== undefined);
    const bands = points.filter((p) => p.i < banded && p.low !== null && p.high !== null);
    const fill = (p) => shade.get(p.name);
    const inside = (p) => (p.verdict === "doubtful" ? "var(--paper)" : shade.get(p.name));
    const chart = figure(`Robust accuracy against epsilon, ${threat}`, {
      tips, height: 420, marginLeft: 50,
      x: { type: state.scale === "log" ? "log" : "linear", label: `epsilon (${threat})`, grid: true },
      y: { domain: [0, 100], label: "robust accuracy [%]", grid: true },
      marks: [
        Plot.areaY(bands, { x: "x", y1: (p) => 100 * p.low, y2: (p) => 100 * p.high, z: "name", fill, fillOpacity: 0.1 }),
        Plot.line(points, { x: "x", y: (p) => 100 * p.y, z: "name", stroke: fill, strokeWidth: 1.8 }),
        Plot.line(proved, { x: "x", y: (p) => 100 * p.certified, z: "name", stroke: fill, strokeDasharray: "4 3" }),
        Plot.dot(proved, { x: "x", y: (p) => 100 * p.certified, symbol: "triangle", stroke: fill, r: 4 }),
        Plot.dot(points.filter((p) => p.href), { x: "x", y: (p) => 100 * p.y, fill: inside, stroke: fill, strokeWidth: 2, r: 4.5, href: "href" }),
        Plot.dot(points.filter((p) => !p.row && !p.href), { x: "x", y: (p) => 100 * p.y, fill: inside, stroke: fill, strokeWidth: 2, r: 3 }),
        Plot.dot(points.filter((p) => p.row), { x: "x", y: (p) => 100 * p.y, fill: inside, stroke: fill, strokeWidth: 2, r: 4.5, href: (p) => `#row-${p.row.i}` }),
      ],
    });
    return [legend(lines.map((line) => line.name)), chart,
      el("p", { class: "over" }, `Bands are 95 % intervals${averaged() ? " for another training on other examples" : ""}${banded < lines.length ? `, drawn for the ${banded} most robust at ${budgetText(budget())}` : ""}; a hollow point is doubtful${proved.length ? "; dashed with triangles: certified accuracy, a lower bound" : ""}.${left > 0 ? ` The ${MOST_LINES} most robust there of ${left + MOST_LINES} ${averaged() ? "architectures" : "models"} are drawn; filter to see others.` : ""}`)];
  }

  function mapView() {
    const [across, down] = [D.axes.indexOf(state.across), D.axes.indexOf(state.down)].map((k) => Math.max(0, k));
    const groups = new Map();
    for (const group of groupsOf(shownModels())) {
      const rows = group.models.map((i) => worstOf.get(`${budget()}-${i}`)).filter((row) => row);
      if (!rows.length) continue;
      const axes = D.models[group.models[0]].axes;
      const key = JSON.stringify([axes[across], axes[down]]);
      if (!groups.has(key)) groups.set(key, { x: axes[across], y: axes[down], members: [], rows: [] });
      groups.get(key).members.push({ rows, spread: spreadOf(rows.map((row) => row.accuracy)) });
      groups.get(key).rows.push(...rows);
    }
    if (!groups.size) return empty("No number fits these filters.");
    const cells = [...groups.values()].map((group) => {
      const known = group.members.filter((each) => each.spread !== null);
      const mean = known.length ? known.reduce((sum, each) => sum + each.spread.mean, 0) / known.length : null;
      const seen = group.rows.filter((row) => row.accuracy !== null);
      const best = seen.reduce((a, row) => (a && a.accuracy >= row.accuracy ? a : row), null) ?? group.rows[0];
      const marks = seen.some((row) => row.verdict === "doubtful") ? "?" : "";
      return { ...group, mean, best, said: mean === null ? "withheld" : percent(mean) + marks + (group.members.length > 1 ? ` (${known.length})` : "") };
    });
    current = { head: [D.axes[across], D.axes[down], "budget", "mean robust accuracy", averaged() ? "architectures" : "models", "trainings"], body: cells.map((c) => [c.x, c.y, budgetText(budget()), c.mean, c.members.length, c.rows.length]) };
    const columns = new Set(cells.map((c) => c.x)).size;
    const lines = new Set(cells.map((c) => c.y)).size;
    const longest = Math.max(...cells.map((c) => c.y.length));
    const short = (words) => (words.length > 26 ? `${words.slice(0, 25)}\u2026` : words);
    const tips = new Map(cells.filter((c) => c.rows.length > 1).map((c) => [`#row-${c.best.i}`,
      `${c.x}, ${c.y}: ${c.mean === null ? "withheld" : `mean ${percent(c.mean)} %`} over ${c.rows.length} models\nThe most robust of them:\n${described(c.best)}`]));
    const chart = figure(`Robust accuracy at ${budgetText(budget())} by ${D.axes[across]} and ${D.axes[down]}`, {
      tips, width: Math.min($("explorer").clientWidth || 900, 170 + Math.max(columns * 110, 200)), height: 110 + lines * 44,
      marginLeft: Math.min(190, 20 + 7 * longest), marginBottom: columns > 3 ? 90 : 40,
      x: { type: "band", label: D.axes[across], tickRotate: columns > 3 ? -35 : 0, tickFormat: short }, y: { type: "band", label: D.axes[down], tickFormat: short },
      color: { type: "linear", domain: [0, 100], scheme: "blues" },
      marks: [
        Plot.cell(cells, { x: "x", y: "y", fill: (c) => (c.mean === null ? null : 100 * c.mean), inset: 1, href: (c) => `#row-${c.best.i}` }),
        Plot.text(cells, { x: "x", y: "y", text: "said", fill: (c) => (c.mean === null ? "var(--alarm)" : c.mean > 0.55 ? "white" : "black"), pointerEvents: "none" }),
      ],
    });
    return [chart, el("p", { class: "over" }, averaged()
      ? `Mean robust accuracy in % in each field, in the worst case at ${budgetText(budget())}: the mean over the trainings of each architecture, and then over architectures; in brackets their number where there are several. An architecture with a withheld training is left out. A field opens its most robust training.`
      : `Mean robust accuracy in % of the models in each field, in the worst case at ${budgetText(budget())}; in brackets the number of models where there are several. A field opens its most robust model.`)];
  }

  const MEASURES = {
    clean: { name: "clean accuracy [%]", up: true, of: (i) => 100 * D.models[i].clean },
    certified: { name: "certified accuracy [%]", up: true, of: (i) => { const row = worstOf.get(`${budget()}-${i}`); return row?.certified === null || row?.certified === undefined ? null : 100 * row.certified; } },
    robust: { name: "robust accuracy [%]", up: true, of: (i) => { const row = worstOf.get(`${budget()}-${i}`); return !row || row.accuracy === null ? null : 100 * row.accuracy; } },
    spikes: { name: "spikes per example", up: false, of: (i) => D.models[i].spikes },
    energy: { name: "energy [nJ]", up: false, of: (i) => D.models[i].energy },
    exit: { name: "decision time [steps]", up: false, of: (i) => D.models[i].exit },
  };
  const measurable = () => Object.keys(MEASURES).filter((key) => D.models.some((_, i) => MEASURES[key].of(i) !== null));

  function scatterView() {
    const [x, y] = [own(MEASURES, state.x) ?? MEASURES.clean, own(MEASURES, state.y) ?? MEASURES.robust];
    const points = groupsOf(shownModels()).map((group) => {
      const [across, up] = [x, y].map((measure) => spreadOf(group.models.map((i) => measure.of(i))));
      return across && up ? { i: group.models[0], name: group.name, trainings: group.models.length, x: across.mean, y: up.mean, across, up, row: worstOf.get(`${budget()}-${group.models[0]}`) } : null;
    }).filter((p) => p !== null);
    if (!points.length) return empty("No number fits these filters.");
    const better = (a, b, measure) => (measure.up ? a - b : b - a);
    // In order of the first measure, the best first: a point is on the front if it beats all before it in the second.
    const order = [...points].sort((p, q) => better(q.x, p.x, x) || better(q.y, p.y, y));
    let best = null;
    for (const p of order) {
      p.front = best === null || better(p.y, best.y, y) > 0 || (p.x === best.x && p.y === best.y);
      if (p.front) best = p;
    }
    const front = order.filter((p) => p.front);
    current = { head: ["model", x.name, y.name, "Pareto front", "budget", "verdict", "trainings"], body: points.map((p) => [p.name, p.x, p.y, p.front ? "yes" : "no", budgetText(budget()), p.row?.verdict ?? "", p.trainings]) };
    const spread = points.filter((p) => p.trainings > 1);
    const log = (measure) => state.scale === "log" && points.every((p) => p[measure] > 0);
    const middle = (Math.min(...points.map((p) => p.x)) + Math.max(...points.map((p) => p.x))) / 2;
    const longest = ($("explorer").clientWidth || 900) < 500 ? 24 : 40;
    const named = (p) => (p.name.length > longest ? `${p.name.slice(0, longest - 1)}\u2026` : p.name);
    // Names begin or end at their points, so that none leaves the figure.
    const names = (list, textAnchor) => Plot.text(list, { x: "x", y: "y", text: named, textAnchor, dy: -13, fontSize: 11, fill: "currentColor", stroke: "var(--paper)", strokeWidth: 4 });
    const told = front.slice(0, 12);
    const tips = new Map();
    const place = (p) => {
      if (p.trainings === 1) return p.row ? `#row-${p.row.i}` : `#cell-${D.models[p.i].cell}`;
      const target = hashOf({ view: "seeds", find: p.name, row: "", cell: "", more: "" });
      const ends = (spread, measure) => `${measure.name}: ${number(spread.mean, 2)}, trainings from ${number(spread.low, 2)} to ${number(spread.high, 2)}`;
      const seeds = D.seeds.find((each) => each.name === p.name);
      const mean = seeds?.worst.find((w) => w[0] === budget() && w[1] !== null);
      tips.set(target, [p.name, ends(p.across, x), ends(p.up, y), ...(mean ? averagedWords(seeds, mean).split("\n").slice(1) : [`means over ${p.trainings} trainings`])].join("\n"));
      return target;
    };
    for (const p of points) p.href = place(p);
    const chart = figure(`${y.name} against ${x.name}`, {
      tips, height: 430, marginLeft: 55, marginRight: 30, marginTop: 36,
      x: { label: x.name, grid: true, type: log("x") ? "log" : "linear", nice: true }, y: { label: y.name, grid: true, type: log("y") ? "log" : "linear", nice: true },
      marks: [
        Plot.line(front, { x: "x", y: "y", stroke: COLOURS[1], strokeDasharray: "5 4", curve: "linear" }),
        Plot.ruleX(spread, { x: "x", y1: (p) => p.up.low, y2: (p) => p.up.high, stroke: COLOURS[0], strokeOpacity: 0.6 }),
        Plot.ruleY(spread, { y: "y", x1: (p) => p.across.low, x2: (p) => p.across.high, stroke: COLOURS[0], strokeOpacity: 0.6 }),
        Plot.dot(points, { x: "x", y: "y", r: 5.5, fill: (p) => (p.front ? COLOURS[1] : COLOURS[0]), stroke: "var(--paper)", href: "href" }),
        names(told.filter((p) => p.x <= middle), "start"),
        names(told.filter((p) => p.x > middle), "end"),
      ],
    });
    return [chart, el("p", { class: "over" }, `Orange: the Pareto front, models that no other is at least as good as in both and better in one (${x.name}: ${x.up ? "more" : "less"} is better; ${y.name}: ${y.up ? "more" : "less"} is better). Robust accuracy is that of ${budgetText(budget())}. The front is of the point values, without their uncertainty.${spread.length ? " Points are means over the trainings of an architecture; lines reach from its lowest to its highest training." : ""}`)];
  }

  function matrix(caption, triples, chosen) {
    const classes = [...new Set(triples.flatMap(([label, answer]) => [label, answer]))].sort((a, b) => a - b);
    const counts = new Map(triples.map(([label, answer, count]) => [`${label},${answer}`, count]));
    const totals = new Map();
    for (const [label, , count] of triples) totals.set(label, (totals.get(label) ?? 0) + count);
    const cell = (label, answer) => {
      const count = counts.get(`${label},${answer}`) ?? 0;
      const made = el("td", { class: "n", title: `class ${label}, answer ${answer === -1 ? "tie" : answer}: ${count} of ${totals.get(label)}` }, count ? String(count) : "\u00b7");
      const share = count / (totals.get(label) || 1);
      if (count) made.style.background = `color-mix(in srgb, ${label === answer ? "var(--blue)" : "var(--alarm)"} ${Math.round(8 + 40 * share)}%, transparent)`;
      return made;
    };
    const answers = classes.filter((c) => triples.some(([, answer]) => answer === c) || c >= 0);
    const labels = classes.filter((c) => totals.has(c));
    return el("div", {}, el("h3", {}, caption), el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "class \\ answer"), ...answers.map((c) => el("th", { scope: "col", class: "n" }, c === -1 ? "tie" : String(c))))),
      el("tbody", {}, ...labels.map((label) => el("tr", {}, el("th", { scope: "row" }, String(label)), ...answers.map((answer) => cell(label, answer))))))));
  }

  function confusionView() {
    const i = Math.min(Number(state.model) || 0, D.models.length - 1);
    const row = worstOf.get(`${budget()}-${i}`);
    const found = row && D.confusions[row.i];
    if (!found) return empty("No confusion matrix is stored here for this model and budget: the number is withheld or missing, or the page was too small for it.");
    current = { head: ["class", "answer", "clean", "attacked"], body: [...new Set([...found[0], ...found[1]].map(([l, a]) => `${l},${a}`))].map((key) => {
      const [label, answer] = key.split(",").map(Number);
      const count = (triples) => triples.find((each) => each[0] === label && each[1] === answer)?.[2] ?? 0;
      return [label, answer, count(found[0]), count(found[1])];
    }) };
    return [el("div", { class: "side" }, matrix("Clean", found[0]), matrix(`Attacked, worst case at ${budgetText(budget())}`, found[1])),
      el("p", { class: "over" }, "Lines are classes, columns the answers of the model. A tie counts as an error. Of a stochastic model, the answers are those of one draw.")];
  }

  // --- several trainings ---

  function heading(names) {
    return el("thead", {}, el("tr", {}, ...names.map((name, k) => el("th", { scope: "col", class: k ? "n" : null }, term(name)))));
  }

  function seedsView() {
    const shown = new Set(shownModels().map(nameWithoutSeed));
    const here = D.seeds.filter((each) => shown.has(each.name));
    const means = here.flatMap((each) => [[-1, ...each.clean], ...each.worst].filter((w) => w[1] !== null).map(([b, mean, low, high, mark, tLow, tHigh, least, most]) => ({ each, b, mean, low, high, mark, tLow, tHigh, least, most })));
    if (!means.length) return empty("No architecture with several seeds fits these filters.");
    const where = (b) => (b < 0 ? "clean" : budgetText(b));
    const pairs = D.across.filter((pair) => pair.b === budget() || pair.b < 0);
    const columns = [
      { name: "model", value: (m) => m.each.name },
      { name: "budget", number: true, value: (m) => m.b, show: (m) => where(m.b) },
      { name: "seeds", number: true, value: (m) => m.each.trainings },
      { name: "n", number: true, value: (m) => m.each.n },
      { name: "mean over seeds", number: true, down: true, value: (m) => m.mean, show: (m) => [percent(m.mean), m.mark ? el("span", { class: "mark" }, VERDICTS[m.mark]) : null] },
      { name: "interval", number: true, down: true, value: (m) => m.low, show: (m) => interval(m.low, m.high) },
      { name: "trainings only", number: true, down: true, value: (m) => m.tLow, show: (m) => interval(m.tLow, m.tHigh) },
      { name: "lowest to highest", number: true, down: true, value: (m) => m.least, show: (m) => `${percent(m.least)} to ${percent(m.most)}` },
    ];
    const lines = table(`${here.length} architectures, each trained under several seeds. A mean is left out where the number of one seed is withheld or missing. The button saves the means at every budget.`,
      means.filter((m) => m.b === budget() || m.b < 0), columns);
    current = { head: ["model", "budget", "seeds", "n", "mean", "low", "high", "low, trainings only", "high, trainings only", "lowest", "highest"],
      body: means.map((m) => [m.each.name, where(m.b), m.each.trainings, m.each.n, m.mean, m.low, m.high, m.tLow, m.tHigh, m.least, m.most]) };
    return [
      ...lines,
      pairs.length ? el("h3", {}, "What holds across seeds") : null,
      pairs.length ? el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "What holds across seeds" }, el("table", {}, heading(["pair", "budget", "difference, points", "interval", "p", "same sign", "holds across seeds"]),
        el("tbody", {}, ...pairs.map((p) => el("tr", {}, el("td", {}, `${p.first} against ${p.second}${p.others ? ` (${p.others})` : ""}`), el("td", { class: "n" }, where(p.b)), el("td", { class: "n" }, number(100 * p.difference)),
          el("td", { class: "n" }, interval(p.low, p.high)), el("td", { class: "n" }, p.p < 0.001 ? "< 0.001" : p.p.toFixed(3)), el("td", { class: "n" }, p.agreeing === null ? dash : `${p.agreeing} of ${p.seeds}`), el("td", { class: "n" }, p.shown ? "yes" : "not shown")))))) : null,
      D.acrossLeftOut ? el("p", { class: "over" }, `${D.acrossLeftOut} more pairs are in across-seeds.csv.`) : null,
    ];
  }

  // --- training curves and what a training costs ---

  function trainingView() {
    const shown = new Set(shownModels());
    const list = D.trainings.filter((each) => shown.has(each.model));
    if (!list.length) return empty("No training with stored epochs fits these filters.");
    const last = (each) => each.epochs[each.epochs.length - 1];
    const mean = (each, k) => spreadOf(each.epochs.map((epoch) => epoch[k]))?.mean ?? null;
    const columns = [
      ...axisColumns((each) => each.model),
      { name: "epochs", number: true, value: (each) => each.epochs.length },
      { name: "loss", number: true, value: (each) => last(each)[1], show: (each) => number(last(each)[1], 4) },
      { name: "validation %", number: true, down: true, value: (each) => last(each)[2], show: (each) => percent(last(each)[2]) },
      { name: "s per epoch", number: true, value: (each) => mean(each, 3), show: (each) => number(mean(each, 3), 3) },
      { name: "processor s per epoch", number: true, value: (each) => mean(each, 4), show: (each) => number(mean(each, 4), 3) },
      { name: "parameters", number: true, value: (each) => each.parameters },
      ...(D.trainings.some((each) => each.overfitted !== null) ? [{ name: "overfitting", number: true, value: (each) => each.overfitted }] : []),
      { name: "cell", value: (each) => D.models[each.model].train.slice(0, 8), show: (each) => el("a", { href: `#cell-${D.models[each.model].train}` }, D.models[each.model].train.slice(0, 8)) },
    ];
    const names = [...new Set(list.map((each) => nameWithoutSeed(each.model)))].slice(0, MOST_LINES);
    const shade = (each) => COLOURS[names.indexOf(nameWithoutSeed(each.model))];
    const drawn = list.filter((each) => names.includes(nameWithoutSeed(each.model))).slice(0, 10 * MOST_LINES);
    const panel = (k, scale, label) => {
      const lines = drawn.map((each, line) => each.epochs.filter((epoch) => epoch[k] !== null).map((epoch) => ({ x: epoch[0], y: scale * epoch[k], line, stroke: shade(each) })));
      const points = lines.flat();
      if (!points.length) return null;
      return el("div", {}, figure(`${label} against epochs`, { width: 400, height: 230, marginLeft: 50, x: { label: "epoch" }, y: { label, grid: true, zero: k > 2 },
        marks: [Plot.line(points, { x: "x", y: "y", z: "line", stroke: "stroke", strokeWidth: 1.6 }), Plot.dot(lines.filter((line) => line.length === 1).flat(), { x: "x", y: "y", fill: "stroke" })] }));
    };
    const left = D.trainingsLeftOut ? ` ${D.trainingsLeftOut} trainings were left out to keep this page small; training-curves.csv has them.` : "";
    const views = table(`One training per row, with what an epoch costs.${left}`, list, columns);
    const panels = [panel(1, 1, "training loss"), panel(2, 100, "validation accuracy [%]"), panel(4, 1, "processor time of an epoch [s]") ?? panel(3, 1, "time of an epoch [s]")].filter((each) => each !== null);
    return [legend(names), el("div", { class: "side" }, ...panels),
      el("p", { class: "over" }, `One line per training; trainings that differ only in their seed have one colour.${new Set(list.map((each) => nameWithoutSeed(each.model))).size > names.length ? ` The first ${names.length} architectures are drawn; filter to see others.` : ""} Times depend on the machine and on what else it did.`), ...views];
  }

  // --- the part of the page for one number ---

  function bytes(packed) {
    return Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  }

  function canvas(width, height, label, pixel) {
    const made = el("canvas", { width, height, role: "img", "aria-label": label });
    const context = made.getContext("2d");
    const image = context.createImageData(width, height);
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) image.data.set([...pixel(x, y), 255], 4 * (y * width + x));
    context.putImageData(image, 0, 0);
    made.style.width = `${Math.min(320, Math.max(96, width * Math.max(1, Math.floor(160 / width))))}px`;
    return made;
  }

  function picture(packed, [channels, height, width], label) {
    const levels = bytes(packed);
    const at = (c, x, y) => levels[(c * height + y) * width + x];
    return canvas(width, height, label, (x, y) => (channels === 3 ? [at(0, x, y), at(1, x, y), at(2, x, y)]
      : channels === 1 ? [at(0, x, y), at(0, x, y), at(0, x, y)] : [at(0, x, y), 0, at(1, x, y)]));
  }

  function spikesOf(packed, steps, inputs) {
    const bits = bytes(packed);
    return (t, i) => { const place = t * inputs + i; return (bits[place >> 3] >> (7 - (place & 7))) & 1; };
  }

  function exampleOf(cell) {
    const found = own(D.examples, cell);
    if (!found) return [];
    const said = (answer) => (answer === null ? "unknown" : answer === -1 ? "a tie" : String(answer));
    const parts = [
      el("h4", {}, "One attacked example"),
      el("p", {}, `Test example ${found.example} of class ${found.label}: the answer is ${said(found.before)} without the attack and ${said(found.after)} with it.`),
      el("div", { class: "bar" }, picture(found.image, found.shape, "clean example"), picture(found.attacked, found.shape, "attacked example")),
    ];
    if (!found.spikes) return parts;
    const inputs = found.shape.reduce((a, b) => a * b, 1);
    const trains = [found.spikes, found.attackedSpikes].map((packed) => spikesOf(packed, found.steps, inputs));
    parts.push(el("div", { class: "side" },
      el("div", {}, el("h4", {}, "Input spikes, clean against attacked"), raster("Raster of the input spikes", "inputs", trains, found.steps, inputs), el("p", { class: "over" }, RASTER),
        saving("Save these spikes (CSV)", "input-spikes", () => spikeTable(trains, "input", found.steps, inputs))),
      el("div", {}, el("h4", {}, "Shifts of first spikes"), ...shiftsOf(trains, found.steps, inputs))));
    return parts;
  }

  function saving(words, name, table) {
    return el("button", { type: "button", onclick: () => save(table(), name) }, words);
  }

  // A line for every spike of either train.
  function spikeTable([clean, attacked], what, steps, count) {
    const body = [];
    for (let i = 0; i < count; i++) for (let t = 0; t < steps; t++) if (clean(t, i) || attacked(t, i)) body.push([i + 1, t, clean(t, i), attacked(t, i)]);
    return { head: [what, "time step", "clean", "attacked"], body };
  }

  const RASTER = "Black or white: in both; blue: only clean; orange: only attacked.";

  function raster(label, what, [clean, attacked], steps, count) {
    const shown = [...Array(count).keys()].filter((i) => [...Array(steps).keys()].some((t) => clean(t, i) || attacked(t, i)));
    const colour = { both: "currentColor", clean: COLOURS[0], attacked: COLOURS[1] };
    const dots = shown.flatMap((i, line) => [...Array(steps).keys()].filter((t) => clean(t, i) || attacked(t, i))
      .map((t) => ({ t, line, who: clean(t, i) && attacked(t, i) ? "both" : clean(t, i) ? "clean" : "attacked" })));
    if (!dots.length) return el("p", {}, "No spikes.");
    return figure(label, {
      width: 460, height: Math.min(300, 70 + 5 * shown.length), x: { label: "time step", domain: [-0.5, steps - 0.5] }, y: { label: `${what} that spike`, domain: [-0.5, shown.length - 0.5], ticks: [] },
      marks: [Plot.rect(dots, { x1: (d) => d.t - 0.3, x2: (d) => d.t + 0.3, y1: (d) => d.line - 0.4, y2: (d) => d.line + 0.4, fill: (d) => colour[d.who] })],
    });
  }

  function shiftsOf([clean, attacked], steps, count) {
    const shifts = new Map();
    let [gone, come] = [0, 0];
    const firstOf = (spikes, i) => [...Array(steps).keys()].find((t) => spikes(t, i));
    for (let i = 0; i < count; i++) {
      const [one, two] = [firstOf(clean, i), firstOf(attacked, i)];
      if (one !== undefined && two !== undefined) shifts.set(two - one, (shifts.get(two - one) ?? 0) + 1);
      else if (one !== undefined) gone++;
      else if (two !== undefined) come++;
    }
    const bars = [...shifts].map(([shift, count]) => ({ shift, count })).sort((a, b) => a.shift - b.shift);
    return [
      bars.length ? figure("Shifts of first spikes", { width: 420, height: 240, x: { label: "shift of the first spike [steps]", ticks: bars.map((b) => b.shift), tickFormat: "d" }, y: { label: "trains", grid: true },
        marks: [Plot.rect(bars, { x1: (b) => b.shift - 0.42, x2: (b) => b.shift + 0.42, y1: 0, y2: "count", fill: COLOURS[0] }), Plot.ruleY([0])] }) : null,
      el("p", { class: "over" }, `Below zero: earlier under the attack. ${gone} trains fall silent, ${come} begin to spike.`),
    ].filter((each) => each !== null);
  }

  function tracesOf(layer, traces) {
    const trains = [traces.spikes, traces.attackedSpikes].map((packed) => spikesOf(packed, traces.steps, traces.neurons));
    const lines = traces.potentials.flatMap(([neuron, ...both]) => both.flatMap((values, k) => values.map((v, t) => ({ neuron: `neuron ${neuron + 1}`, t, v, k }))));
    return el("details", {}, el("summary", {}, `${layer}: spikes and potentials of one image, clean against attacked`), el("div", { class: "side" },
      el("div", {}, raster(`Raster of ${layer}`, "neurons", trains, traces.steps, traces.neurons), el("p", { class: "over" }, `${RASTER} At most 48 neurons, those whose spikes differ most.`),
        saving("Save these spikes (CSV)", `spikes-${layer}`, () => spikeTable(trains, "neuron", traces.steps, traces.neurons))),
      el("div", {}, ...shiftsOf(trains, traces.steps, traces.neurons)),
      lines.length ? el("div", {}, figure(`Membrane potentials in ${layer}`, { width: 460, height: 60 + 70 * traces.potentials.length, marginRight: 70, x: { label: "time step" }, y: { label: "membrane potential", ticks: 3, grid: true }, fy: { label: null },
        marks: [Plot.line(lines.filter((p) => p.k === 0), { x: "t", y: "v", fy: "neuron", stroke: COLOURS[0], strokeWidth: 1.8 }), Plot.line(lines.filter((p) => p.k === 1), { x: "t", y: "v", fy: "neuron", stroke: COLOURS[1], strokeWidth: 1.8, strokeDasharray: "5 3" })] }),
        el("p", { class: "over" }, "Before spike and reset. Blue: clean; orange, dashed: attacked. The neurons whose potentials the attack moved most."),
        saving("Save these potentials (CSV)", `potentials-${layer}`, () => ({ head: ["neuron", "time step", "clean", "attacked"],
          body: traces.potentials.flatMap(([neuron, clean, attacked]) => clean.map((v, t) => [neuron + 1, t, v, attacked[t]])) }))) : null));
  }

  function stepsOf(row) {
    const effort = D.efforts[row.i];
    if (!effort) return D.curves || row.accuracy === null ? [] : [el("p", { class: "over" }, "The curves over steps were left out to keep this page small.")];
    const per = (total) => (total && effort.attacked ? number(total / effort.attacked) : dash);
    const parts = [el("p", {}, `${effort.attacked ?? dash} examples attacked; per example ${per(effort.forward)} forward and ${per(effort.backward)} backward queries; zero gradients ${percent(effort.zero)} %; mean distance ${number(effort.distance, 4)}.`)];
    const curves = [];
    if (effort.fall.length > 1) curves.push(el("div", {}, el("h4", {}, "Accuracy against steps"), figure("Accuracy against the steps of the attack", {
      width: 440, height: 240, x: { label: "step" }, y: { label: "accuracy [%]", domain: [0, 100], grid: true },
      marks: [Plot.line(effort.fall, { x: (p) => p[0], y: (p) => 100 * p[1], curve: "step-after", stroke: COLOURS[0], strokeWidth: 2 })] })));
    if (effort.loss.filter((p) => p[1] !== null).length > 1) curves.push(el("div", {}, el("h4", {}, "Objective against steps"), figure("Mean objective against the steps of the attack", {
      width: 440, height: 240, x: { label: "step" }, y: { label: "mean objective", grid: true },
      marks: [Plot.line(effort.loss, { x: (p) => p[0], y: (p) => p[1], stroke: COLOURS[1], strokeWidth: 2 })] })));
    const steps = { head: ["curve", "step", "value"], body: [...effort.fall.map((p) => ["accuracy", ...p]), ...effort.loss.map((p) => ["mean objective", ...p])] };
    if (curves.length) parts.push(el("div", { class: "side" }, ...curves),
      el("button", { type: "button", onclick: () => save(steps, `${D.study.replace(/[^\w-]+/g, "-")}-${row.cell.slice(0, 8)}`) }, "Curves as CSV"));
    return parts;
  }

  function layersOf(model) {
    return D.layers.filter((each) => each.model === model && each.layers.length).flatMap((each) => [
      el("h4", {}, `Layer by layer, clean against attacked, ${each.where}`),
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Layers, ${each.where}` }, el("table", {},
        el("thead", {}, el("tr", {}, ...["layer", "neurons", "spikes per neuron, clean", "attacked", "added or removed", "moved"].map((word, k) => el("th", { scope: "col", class: k ? "n" : null }, word)))),
        el("tbody", {}, ...each.layers.map((layer) => el("tr", {}, ...layer.map((value, k) => el("td", { class: k ? "n" : null }, k < 2 ? String(value) : number(value, 3)))))))),
      ...each.traces.map((traces, k) => tracesOf(each.layers[k][0], traces)),
    ]);
  }

  function specOf(cell) {
    const known = own(D.cells, cell);
    if (!known) return [el("p", { class: "over" }, `cells/${cell}; its spec is in cell.json there.`)];
    const [kind, seconds, finished, environment, spec] = known;
    return [el("p", {}, "Computed by ", el("code", {}, D.commands[environment] || "a command that was not recorded"), `, the ${kind} cell `, el("code", {}, `cells/${cell}`), `, in ${number(seconds)} s, finished ${finished}.`),
      el("details", {}, el("summary", {}, "Everything that can change its numbers"), el("pre", {}, JSON.stringify(JSON.parse(spec), null, 1)))];
  }

  function part() {
    const place = $("part");
    place.replaceChildren();
    const row = state.row === "" ? null : rows[Number(state.row)];
    place.hidden = !row && !state.cell;
    if (place.hidden) return;
    const close = el("button", { type: "button", onclick: () => { go({ row: "", cell: "" }); $("view").focus(); } }, "Close");
    if (!row) {
      place.append(el("h3", { tabindex: "-1" }, `Cell ${state.cell.slice(0, 8)}`), ...specOf(state.cell), close);
      return;
    }
    const model = D.models[row.model];
    const heading = el("h3", { tabindex: "-1" }, `${model.name}: ${row.attack} at ${budgetText(row.budget)}`);
    const words = described(row).split("\n").slice(2).filter((line) => !line.startsWith("$") && !line.startsWith("\u26a0"));
    place.append(heading, el("p", {}, `${words.join("; ")}. Clean accuracy ${percent(model.clean)} % ${interval(model.low, model.high)}.`));
    if (row.warnings.length) place.append(el("ul", { class: "plain" }, ...row.warnings.map((i) => el("li", { class: "mark" }, text(i)))));
    if (row.attack === D.worst) {
      const here = rows.filter((each) => each.model === row.model && each.budget === row.budget && each !== row).sort((a, b) => (a.accuracy ?? 2) - (b.accuracy ?? 2));
      place.append(el("h4", {}, "Its attacks"), el("ul", { class: "plain" }, ...here.map((each) => el("li", {}, link(each, each.attack), `: ${each.accuracy === null ? "withheld" : `${percent(each.accuracy)} % ${interval(each.low, each.high)}`}`))));
      if (D.confusions[row.i]) place.append(el("p", {}, el("a", { href: hashOf({ view: "confusion", model: String(row.model), budget: String(row.budget), row: "" }) }, "Its confusion matrix, clean against attacked")));
    }
    const deciding = row.attack === D.worst ? rows.find((each) => each.cell === row.cell && each.attack !== D.worst) : row;
    if (deciding) {
      if (deciding !== row) place.append(el("h4", {}, `The attack that decided most examples: ${deciding.attack}`));
      place.append(...stepsOf(deciding));
    }
    place.append(...exampleOf(row.cell), ...layersOf(row.model), ...specOf(row.cell), close);
  }

  // --- controls ---

  const VIEWS = { table: ["Table", tableView], curves: ["Curves", curvesView], map: ["Map", mapView], scatter: ["Scatter", scatterView], confusion: ["Confusion", confusionView], ...(D.seeds.length ? { seeds: ["Seeds", seedsView] } : {}), ...(D.trainings.length ? { training: ["Training", trainingView] } : {}), attacks: ["Every attack", attacksView] };
  let keepOpen = "";

  function select(label, key, options, value = state[key]) {
    const made = el("select", { "data-key": key, onchange: (event) => go({ [key]: event.target.value }, key) }, ...options.map(([each, words]) => el("option", { value: each, selected: each === value }, words)));
    return el("label", {}, label, made);
  }

  function filters() {
    const dropped = off();
    const box = (name, key, values) => {
      const lost = values.filter((_, v) => dropped.has(`${key}=${v}`)).length;
      const made = el("details", {}, el("summary", {}, `${name}${lost ? ` (${values.length - lost} of ${values.length})` : ""}`), el("div", {}, ...values.map((value, v) => el("label", {},
        el("input", { type: "checkbox", "data-key": `filter-${key}=${v}`, checked: !dropped.has(`${key}=${v}`), onchange: (event) => {
          const next = off();
          if (event.target.checked) next.delete(`${key}=${v}`); else next.add(`${key}=${v}`);
          go({ off: joined(next) }, `filter-${key}=${v}`);
        } }), value))));
      made.open = keepOpen.startsWith(`filter-${key}=`);
      return made;
    };
    return [...D.axes.map((axis, k) => box(axis, k, valuesOf[k])), ...(state.view === "attacks" ? [box("attack", "attack", attacks)] : [])];
  }

  function slider() {
    const words = el("output", {}, budgetText(budget()));
    return el("label", {}, "budget", el("input", { type: "range", "data-key": "slider", min: "0", max: String(D.budgets.length - 1), step: "1", value: String(budget()), "aria-valuetext": budgetText(budget()),
      oninput: (event) => {
        go({ budget: event.target.value }, "slider");
        words.textContent = budgetText(budget());
        event.target.setAttribute("aria-valuetext", budgetText(budget()));
      } }), words);
  }

  function controls() {
    const view = state.view;
    const several = D.budgets.length > 1;
    const find = el("input", { type: "search", "data-key": "find", value: state.find, placeholder: "part of a name", oninput: (event) => go({ find: event.target.value }, "find") });
    const found = view === "confusion" ? [] : [el("label", {}, "model", find), ...filters()];
    if (view !== "confusion" && verdicts.length > 1) found.push(select("verdict", "verdict", [["", "all"], ...verdicts.map((each) => [each, each || "none"])]));
    if (view === "curves") {
      found.push(select("attack", "attack", attacks.map((each) => [each, each])));
      if (threats.length > 1) found.push(select("threat", "budget", threats.map((threat) => [String(D.budgets.findIndex((each) => each[0] === threat)), threat]), String(D.budgets.findIndex((each) => each[0] === D.budgets[budget()][0]))));
    }
    if (D.seeds.length && ["curves", "map", "scatter"].includes(view)) found.push(select("numbers", "means", [["yes", "means over seeds"], ["", "each training"]]));
    if (view === "curves" || view === "scatter") found.push(select("scale", "scale", [["linear", "linear"], ["log", "logarithmic"]]));
    if (view === "map") found.push(...[["across", "across"], ["down", "down"]].map(([label, key]) => select(label, key, D.axes.map((axis) => [axis, axis]))));
    if (view === "scatter") found.push(...["x", "y"].map((key) => select(key === "x" ? "across" : "up", key, measurable().map((each) => [each, MEASURES[each].name]))));
    if (view === "confusion") found.push(select("model", "model", D.models.map((model, i) => [String(i), model.name])));
    if (several && ["map", "scatter", "confusion", "seeds"].includes(view)) found.push(slider());
    found.push(el("button", { type: "button", "data-key": "save", onclick: () => save(current, `${D.study.replace(/[^\w-]+/g, "-")}-${view}`) }, "Data as CSV"));
    found.push(el("button", { type: "button", "data-key": "reset", onclick: () => go({ ...DEFAULTS, view }) }, "Reset"));
    $("controls").replaceChildren(...found);
  }

  function draw(keep = "") {
    keepOpen = keep;
    if (!own(VIEWS, state.view)) state.view = "table";
    const names = Object.keys(VIEWS);
    $("tabs").replaceChildren(...names.map((name, place) => el("button", { type: "button", role: "tab", id: `tab-${name}`, "data-key": `tab-${name}`, "aria-controls": "view", "aria-selected": String(state.view === name), tabindex: state.view === name ? "0" : "-1",
      onclick: () => go({ view: name, more: "" }, `tab-${name}`),
      onkeydown: (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (step) go({ view: names[(place + step + names.length) % names.length], more: "" }, "tab");
      } }, VIEWS[name][0])));
    $("view").setAttribute("aria-labelledby", `tab-${state.view}`);
    if (keep !== "slider" && keep !== "find") controls(); // what is being dragged or written in stays
    $("view").replaceChildren(...[...VIEWS[state.view][1](), wordsOfView()].filter((each) => each !== null));
    part();
    hideTip();
    const target = keep === "tab" ? $(`tab-${state.view}`) : [...document.querySelectorAll("[data-key]")].find((each) => each.dataset.key === keep);
    if (target) target.focus({ preventScroll: true });
  }

  // --- what stands beside a number under the pointer or the keyboard ---

  const tip = $("tip");

  function hideTip() { tip.hidden = true; }

  function showTip(target) {
    const words = target.dataset.tip ?? described(rows[Number(target.dataset.row)]);
    tip.textContent = words;
    tip.hidden = false;
    const place = target.getBoundingClientRect();
    const left = Math.min(place.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(4, left) + scrollX}px`;
    tip.style.top = `${place.bottom + scrollY + 6}px`;
  }

  const told = (event) => event.target.closest?.("[data-row], [data-tip]");
  for (const kind of ["mouseover", "focusin"]) document.addEventListener(kind, (event) => { const target = told(event); if (target) showTip(target); });
  for (const kind of ["mouseout", "focusout"]) document.addEventListener(kind, (event) => { if (told(event)) hideTip(); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

  // --- start ---

  function follow() {
    if (!fromHash()) return;
    if (!location.hash.startsWith("#?")) history.replaceState(null, "", hashOf());
    draw();
    const opened = !$("part").hidden;
    const target = opened ? $("part") : $("explorer");
    target.scrollIntoView();
    if (opened) $("part").querySelector("h3").focus({ preventScroll: true });
  }

  const theme = $("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const root = document.documentElement;
    const dark = (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    root.dataset.theme = dark ? "light" : "dark";
  });
  if (D.models.length) {
    $("explorer").hidden = false;
    if ($("attacks-here")) $("attacks-here").hidden = false;
    for (const each of document.querySelectorAll('a[href^="#worst-"]')) {
      const row = worstOf.get(each.getAttribute("href").slice(7));
      if (row) each.dataset.row = row.i;
    }
    addEventListener("hashchange", follow);
    if (location.hash && fromHash()) follow(); else draw();
  }
})();
