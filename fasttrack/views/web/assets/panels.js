// The charts of the page: a panel for each metric, in groups by the beginnings of their names.

const FIRST_GROUPS = ["loss", "train", "eval", "val", "valid", "validation", "test"];
const LAST_GROUPS = ["perf", "system", "gpu", "time", "fasttrack"];
const CLOSED_GROUPS = ["fasttrack"]; // what the tracker itself costs
const MOST_TOLD = 12; // runs in the box at the pointer

function groupOf(name) {
  const end = name.search(/[/.]/);
  return end > 0 ? name.slice(0, end) : "metrics";
}

function groupOrder(group) {
  const first = FIRST_GROUPS.indexOf(group);
  const last = LAST_GROUPS.indexOf(group);
  return first >= 0 ? first : last >= 0 ? 200 + last : 100;
}

function formatted(value) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e9) return String(value);
  return size !== 0 && (size < 1e-4 || size >= 1e6) ? value.toExponential(4) : String(Number(value.toPrecision(6)));
}

class Panel {
  constructor(name, unit, page) {
    this.name = name;
    this.page = page;
    this.chart = null;
    this.lines = [];
    this.element = make("article", { className: "panel" });
    this.element.dataset.metric = name;
    const title = make("span", { className: "name", textContent: name });
    if (unit) title.append(make("span", { className: "unit", textContent: unit }));
    const widen = make("button", { textContent: "⤢", title: "Wider, or as before" });
    widen.setAttribute("aria-label", `Widen ${name}`);
    widen.onclick = () => this.element.classList.toggle("wide");
    const head = make("h2");
    head.append(title, widen);
    this.plot = make("div", { className: "plot" });
    this.plot.ondblclick = () => page.zoom(null);
    this.element.append(head, this.plot);
  }

  // Draw the chart, which is about to be seen.
  open() {
    if (this.chart) return;
    this.compute();
    this.chart = new Chart(
      this.plot,
      { axis: this.page.axis, log: this.page.log, xs: this.across(), ys: this.up() },
      {
        zoom: (from, to) => this.page.zoom([from, to]),
        hover: (x) => this.tell(x),
        leave: () => this.page.tip(null),
      },
    );
    this.chart.draw(this.lines);
    this.chart.shown.then(() => { this.element.dataset.drawn = this.lines.length; });
  }

  close() {
    this.chart?.close();
    this.chart = null;
    delete this.element.dataset.drawn;
  }

  // Draw it anew where the axes are of another kind.
  reopen() {
    if (this.chart) {
      this.close();
      this.open();
    }
  }

  refresh() {
    if (!this.chart) return;
    this.compute();
    this.chart.window(this.across(), this.up());
    this.chart.draw(this.lines);
    this.element.dataset.drawn = this.lines.length;
  }

  // Show the part of the axes that is asked for by now.
  reframe() {
    this.chart?.window(this.across(), this.up());
  }

  compute() {
    const { axis, strength, log } = this.page;
    this.lines = this.page.shownRuns()
      .filter((run) => run.metrics.has(this.name))
      .map((run) => ({ key: run.key, run, color: run.color, ...lineOf(run.metrics.get(this.name), axis, strength, log) }));
  }

  across() {
    if (this.page.window) return this.page.window;
    let [least, greatest] = [Infinity, -Infinity];
    for (const { x } of this.lines) {
      const [low, high] = extent(x);
      least = Math.min(least, low);
      greatest = Math.max(greatest, high);
    }
    if (least > greatest) return [0, 1];
    const room = (greatest - least) * 0.02 || 1;
    return [least - room, greatest + room];
  }

  up() {
    return heights(this.lines, this.across(), this.page.log);
  }

  // Tell the values at a place of the axis.
  tell(place) {
    const told = [];
    for (const { run, x, points } of this.lines) {
      const i = nearest(x, place);
      if (i >= 0) told.push({ run, step: points.step[i], since: points.since[i], value: points.value[i] });
    }
    told.sort((a, b) => b.value - a.value || 0);
    this.page.tip(told);
  }
}

class Panels {
  constructor(element, page) {
    this.element = element;
    this.page = page;
    this.panels = new Map();
    this.groups = new Map();
    this.empty = element.appendChild(make("p", { className: "empty" }));
    this.observer = new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) {
          const panel = this.panels.get(target.dataset.metric);
          isIntersecting ? panel.open() : panel.close();
        }
      },
      { rootMargin: "600px 0px" },
    );
  }

  // Have a panel for each metric of the runs that are shown, and no other.
  arrange() {
    const units = new Map();
    for (const run of this.page.shownRuns()) for (const { name, unit } of run.metrics.values()) units.set(name, unit);
    const words = this.page.search.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (name) => words.every((word) => name.toLowerCase().includes(word));
    const names = [...units.keys()].sort((a, b) => groupOrder(groupOf(a)) - groupOrder(groupOf(b)) || (a < b ? -1 : 1));
    const there = new Set(names.filter(fits));
    for (const [name, panel] of this.panels) {
      if (there.has(name)) continue;
      this.observer.unobserve(panel.element);
      panel.close();
      panel.element.remove();
      this.panels.delete(name);
    }
    const counts = new Map();
    for (const name of there) {
      const group = this.group(groupOf(name), words.length > 0);
      counts.set(group, (counts.get(group) ?? 0) + 1);
      if (!this.panels.has(name)) {
        const panel = new Panel(name, units.get(name), this.page);
        this.panels.set(name, panel);
        this.observer.observe(panel.element);
      }
      // In its place: moving an element would scroll the page, so only what is new is put there.
      const { element } = this.panels.get(name);
      const place = group.grid.children[counts.get(group) - 1];
      if (place !== element) group.grid.insertBefore(element, place ?? null);
    }
    let before = this.empty;
    for (const group of [...counts.keys()].reverse()) {
      const isThere = group.element.parentNode === this.element && group.element.nextSibling === before;
      if (!isThere) this.element.insertBefore(group.element, before);
      before = group.element;
    }
    for (const group of this.groups.values()) {
      group.element.hidden = !counts.has(group);
      group.number.textContent = counts.get(group) ?? 0;
    }
    this.empty.hidden = there.size > 0;
    this.empty.textContent = this.page.nothing(words.length > 0 && names.length > 0);
  }

  group(name, searching) {
    if (!this.groups.has(name)) {
      const element = make("details", { open: !CLOSED_GROUPS.includes(name) });
      const number = make("span", { className: "number" });
      const summary = make("summary", { textContent: name });
      const grid = make("div", { className: "grid" });
      summary.append(number);
      element.append(summary, grid);
      this.groups.set(name, { element, number, grid });
    }
    const group = this.groups.get(name);
    if (searching) group.element.open = true;
    return group;
  }

  each(act) {
    for (const panel of this.panels.values()) act(panel);
  }
}
