// The page: what is chosen, and what follows from it.

const COLORS = {
  light: ["#0969da", "#e36209", "#1a7f37", "#8250df", "#bf3989", "#0a7c8c", "#9a6700", "#57606a"],
  dark: ["#58a6ff", "#f0883e", "#56d364", "#bc8cff", "#f778ba", "#39c5cf", "#e3b341", "#8b949e"],
};
const TABS = { charts: "Charts", configuration: "Configuration", media: "Media", console: "Console", alerts: "Alerts" };
const MANY_RUNS = 10; // from here on there is a field to find one
const find = (id) => document.getElementById(id);

function colorOf(place, dark) {
  const colors = COLORS[dark ? "dark" : "light"];
  return colors[place] ?? `hsl(${Math.round((place * 137.5) % 360)} 60% ${dark ? 65 : 42}%)`;
}

class Page {
  constructor(live) {
    this.live = live;
    this.runs = [];
    this.seen = 0; // runs that have been given a color
    this.window = null; // of the axis; null: all of it
    this.search = "";
    this.filter = "";
    this.tab = "charts";
    this.onlyDiffering = false;
    this.console = null;
    this.where = "";
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.panels = new Panels(find("charts"), this);
    this.read();
    this.listen();
  }

  // Take what the controls say.
  read() {
    this.strength = Number(find("smoothing").value);
    const halfLife = 100 * LONGEST_HALF_LIFE * this.strength ** 2;
    find("smoothed").textContent = this.strength ? `${halfLife.toFixed(1)} %` : "off";
    this.log = find("log").checked;
    const lasted = Math.max(0, ...this.shownRuns().map((run) => run.seconds()));
    this.axis = makeAxis(find("axis").value, lasted);
  }

  listen() {
    const anew = () => {
      this.window = null;
      this.read();
      this.panels.each((panel) => panel.reopen());
      this.showReset();
    };
    find("axis").onchange = anew;
    find("log").onchange = anew;
    find("smoothing").oninput = this.soon(() => {
      this.read();
      this.panels.each((panel) => panel.refresh());
    });
    find("search").oninput = this.soon(() => {
      this.search = find("search").value;
      this.panels.arrange();
    });
    find("filter").oninput = () => {
      this.filter = find("filter").value.toLowerCase();
      this.list();
    };
    find("reset").onclick = () => this.zoom(null);
    find("all").onclick = () => this.show(this.listed(), true);
    find("none").onclick = () => this.show(this.listed(), false);
    this.scheme.onchange = () => {
      for (const run of this.runs) run.color = colorOf(run.place, this.scheme.matches);
      this.list();
      this.panels.each((panel) => panel.reopen());
    };
    document.addEventListener("pointermove", (event) => { this.pointer = event; }, true);
    new ResizeObserver(([{ target }]) => {
      document.documentElement.style.setProperty("--top", `${target.offsetHeight}px`);
    }).observe(document.querySelector("header"));
  }

  // Return a function that acts once before the page is painted, however often it is called.
  soon(act) {
    let waiting = false;
    return () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        act();
      });
    };
  }

  // Take a run that is new, or what has become of one.
  take(told, shown) {
    let run = this.runs.find(({ key }) => key === told.key);
    if (!run) {
      const place = this.seen++;
      run = { metrics: new Map(), config: [], metadata: [], tags: [], console: "", alerts: [], rows: 0, place, shown };
      run.color = colorOf(place, this.scheme.matches);
      run.seconds = () => Math.max(0, ...[...run.metrics.values()].map(({ points }) => extent(points().since)[1]));
      this.runs.push(run);
    }
    Object.assign(run, told);
    return run;
  }

  // Give runs of one name titles that tell them apart.
  entitle() {
    const counts = new Map();
    for (const { name } of this.runs) counts.set(name, (counts.get(name) ?? 0) + 1);
    for (const run of this.runs) {
      run.title = run.name && counts.get(run.name) === 1 ? run.name : run.name ? `${run.name} (${run.id})` : run.id;
    }
    const [only] = this.runs;
    const title = this.runs.length === 1 ? only.title : `${this.runs.length} runs`;
    find("title").textContent = this.live ? this.where || "runs" : title;
    find("title").title = find("title").textContent;
    document.title = this.live ? "fasttrack" : `${title} · fasttrack`;
  }

  shownRuns() {
    return this.runs.filter((run) => run.shown && run.loaded);
  }

  listed() {
    return this.runs.filter((run) => `${run.title} ${run.id} ${run.project}`.toLowerCase().includes(this.filter));
  }

  show(runs, shown) {
    for (const run of runs) run.shown = shown;
    this.list();
    this.draw();
    this.onShow?.();
  }

  alerts() {
    const runs = this.shownRuns();
    return runs.flatMap((run) => run.alerts.map((alert) => ({ run, ...alert }))).sort((a, b) => b.time_s - a.time_s);
  }

  nothing(searching) {
    if (searching) return "No metric is called so.";
    if (!this.runs.length) return this.live ? "No runs yet: the first one appears here." : "No runs.";
    if (!this.runs.some((run) => run.shown)) return "No run is shown: tick one in the list.";
    return this.shownRuns().length ? "No metrics yet." : "Reading…";
  }

  // Show all that depends on which runs there are, which are shown, and what they hold.
  draw() {
    this.read();
    this.panels.arrange();
    this.panels.each((panel) => panel.refresh());
    this.tabs();
    this.section();
  }

  list() {
    const runs = this.listed();
    find("filter").hidden = this.runs.length < MANY_RUNS;
    find("count").textContent = this.runs.length === 1 ? "1 run" : `${this.runs.length} runs`;
    find("all").hidden = find("none").hidden = this.runs.length < 2;
    find("runs").replaceChildren(...runs.map((run) => this.entry(run)));
  }

  entry(run) {
    const tick = make("input", { type: "checkbox", checked: run.shown });
    tick.onchange = () => this.show([run], tick.checked);
    tick.style.accentColor = run.color;
    const facts = make("div", { className: "facts" });
    facts.append(cell("span", run.state, `state-${run.state}`));
    const told = [run.project, clock(run.started_s)].filter(Boolean);
    facts.append(` · ${told.join(" · ")}`);
    const texts = make("div", { className: "texts" });
    texts.append(cell("div", run.title, "name"), facts);
    const label = make("label", { className: run.shown ? "" : "off", title: run.id });
    label.append(tick, texts);
    const item = make("li");
    item.dataset.run = run.id;
    item.append(label);
    return item;
  }

  tabs() {
    const alerts = this.alerts().length;
    const buttons = Object.entries(TABS).map(([name, title]) => {
      const button = make("button", { textContent: title });
      button.dataset.tab = name;
      button.setAttribute("role", "tab");
      button.setAttribute("aria-selected", String(name === this.tab));
      if (name === "alerts" && alerts) button.append(cell("span", alerts, "number"));
      button.onclick = () => {
        this.tab = name;
        this.tabs();
        this.section();
        this.onShow?.();
      };
      return button;
    });
    find("tabs").replaceChildren(...buttons);
  }

  section() {
    for (const name of Object.keys(TABS)) find(name).hidden = name !== this.tab;
    find("controls").hidden = this.tab !== "charts";
    if (this.tab !== "charts") this.tip(null);
    if (this.tab === "configuration") showConfiguration(find("configuration"), this);
    if (this.tab === "media") showMedia(find("media"), this);
    if (this.tab === "console") showConsole(find("console"), this);
    if (this.tab === "alerts") showAlerts(find("alerts"), this);
  }

  // Show a part of the axis in all charts; null: all of it.
  zoom(part) {
    this.window = part;
    this.showReset();
    this.reframe ??= this.soon(() => this.panels.each((panel) => panel.reframe()));
    this.reframe();
  }

  showReset() {
    find("reset").hidden = this.window === null;
  }

  // Tell values beside the pointer; null: no more.
  tip(told) {
    const box = find("tip");
    box.hidden = !told?.length;
    if (box.hidden) return;
    const table = make("table");
    for (const { run, step, since, value } of told.slice(0, MOST_TOLD)) {
      const row = make("tr");
      const swatch = cell("td", "■");
      swatch.style.color = run.color;
      row.append(swatch, cell("td", formatted(value), "value"), cell("td", this.runs.length > 1 ? run.title : "", "name"));
      row.append(cell("td", `step ${step}, ${lasting(since)}`, "head"));
      table.append(row);
    }
    box.replaceChildren(table);
    if (told.length > MOST_TOLD) box.append(cell("div", `and ${told.length - MOST_TOLD} more`, "head"));
    const { clientX, clientY } = this.pointer;
    const left = clientX + 16 + box.offsetWidth > innerWidth ? clientX - 16 - box.offsetWidth : clientX + 16;
    box.style.left = `${Math.max(4, left)}px`;
    box.style.top = `${Math.max(4, Math.min(clientY + 12, innerHeight - box.offsetHeight - 4))}px`;
  }

  say(text) {
    find("banner").textContent = text;
    find("banner").hidden = !text;
  }
}
