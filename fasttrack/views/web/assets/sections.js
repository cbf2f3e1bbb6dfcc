// What stands beside the charts. All texts of runs go into the page as texts, never as its source.

function make(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}

function cell(tag, text, className = "") {
  return make(tag, { textContent: text, className });
}

function clock(seconds) {
  return seconds ? new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : "";
}

function lasting(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

function factsOf(run) {
  const facts = [
    ["id", run.id],
    ["project", run.project],
    ["state", run.exit_code === null ? run.state : `${run.state} (exit code ${run.exit_code})`],
    ["started", clock(run.started_s)],
    ["lasted", run.ended_s ? lasting(run.ended_s - run.started_s) : ""],
    ["attempts", run.attempts],
    ["rows", run.rows.toLocaleString()],
    ...(run.speed ?? []),
    ["tags", run.tags.join(", ")],
    ["notes", run.notes],
    ["directory", run.directory],
    ["damaged lines", run.bad_lines || ""],
  ];
  return facts.map(([name, value]) => [name, value === null || value === undefined ? "" : String(value)]);
}

// A table of what runs have under the same names, a column for each run.
function tableOf(title, runs, columns, onlyDiffering) {
  const card = make("div", { className: "card" });
  const table = make("table");
  const head = make("tr");
  head.append(cell("th", ""), ...runs.map((run) => cell("th", run.title)));
  if (runs.length > 1) table.append(head);
  const maps = columns.map((column) => new Map(column));
  const names = [...new Set(columns.flatMap((column) => column.map(([name]) => name)))];
  let count = 0;
  for (const name of names) {
    const values = maps.map((map) => map.get(name) ?? "");
    const differs = values.some((value) => value !== values[0]);
    if (values.every((value) => value === "") || (onlyDiffering && !differs)) continue;
    const row = make("tr", { className: differs ? "differs" : "" });
    row.append(cell("td", name), ...values.map((value) => cell("td", value)));
    table.append(row);
    count += 1;
  }
  card.append(cell("h2", title), count ? table : cell("p", onlyDiffering ? "nothing differs" : "nothing", "empty"));
  return card;
}

function showConfiguration(element, page) {
  const runs = page.shownRuns();
  const bar = make("div", { className: "bar" });
  const only = make("input", { type: "checkbox", checked: page.onlyDiffering, id: "differing" });
  only.onchange = () => {
    page.onlyDiffering = only.checked;
    showConfiguration(element, page);
  };
  const label = make("label");
  label.append(only, " only what differs");
  if (runs.length > 1) bar.append(label);
  const differing = page.onlyDiffering && runs.length > 1;
  element.replaceChildren(
    bar,
    tableOf("Run", runs, runs.map(factsOf), differing),
    ...(runs.some((run) => run.goodput?.length)
      ? [tableOf("Goodput", runs, runs.map((run) => run.goodput ?? []), differing)]
      : []),
    tableOf("Configuration", runs, runs.map((run) => run.config), differing),
    tableOf("Metadata", runs, runs.map((run) => run.metadata), differing),
  );
}

function showConsole(element, page) {
  const runs = page.shownRuns();
  const bar = make("div", { className: "bar" });
  const choice = make("select", { ariaLabel: "Run" });
  for (const run of runs) choice.append(new Option(run.title, run.key));
  const printed = runs.find((run) => run.key === page.console) ?? runs.find((run) => run.console) ?? runs[0];
  if (printed) choice.value = printed.key;
  choice.onchange = () => {
    page.console = choice.value;
    showConsole(element, page);
  };
  if (runs.length > 1) bar.append(choice);
  bar.append("the last lines of what it printed");
  const card = make("div", { className: "card" });
  card.append(printed?.console ? make("pre", { textContent: printed.console }) : cell("p", "Nothing was recorded.", "empty"));
  element.replaceChildren(bar, card);
}

function showAlerts(element, page) {
  const card = make("div", { className: "card" });
  const table = make("table");
  const alerts = page.alerts();
  for (const { run, time_s, level, title, text, step } of alerts) {
    const row = make("tr");
    row.append(cell("td", clock(time_s)), cell("td", level, `level-${level}`), cell("td", title), cell("td", text), cell("td", step === null ? "" : `step ${step}`));
    if (page.runs.length > 1) row.append(cell("td", run.title));
    table.append(row);
  }
  card.append(alerts.length ? table : cell("p", "No alerts.", "empty"));
  element.replaceChildren(card);
}
