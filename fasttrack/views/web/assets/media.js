// Pictures, histograms, tables, sound and texts: the newest of each name.

const SMALL_PIXELS = 84; // pictures that are less wide are shown enlarged, pixel by pixel

function showMedia(element, page) {
  const cards = [];
  const names = [...new Set(page.shownRuns().flatMap((run) => (run.media ?? []).map(({ name }) => name)))].sort();
  for (const name of names) {
    const card = make("div", { className: "card" });
    card.dataset.media = name;
    card.append(cell("h2", name));
    const row = make("div", { className: "media" });
    for (const run of page.shownRuns()) {
      for (const one of run.media ?? []) if (one.name === name) row.append(mediaOf(run, one, page));
    }
    card.append(row);
    cards.push(card);
  }
  if (!cards.length) cards.push(cell("p", "Nothing was logged but numbers.", "empty"));
  element.replaceChildren(...cards);
}

function mediaOf(run, one, page) {
  const figure = make("figure");
  const shown = make("div", { className: "shown" });
  if (one.kind === "histogram") shown.append(histogramOf(one, run.color));
  one.files.forEach((file, place) => {
    if (file !== null) shown.append(fileOf(one.kind, file, one.captions[place]));
  });
  const told = page.runs.length > 1 ? `${run.title}, step ${one.step}` : `step ${one.step}`;
  figure.append(shown, cell("figcaption", one.left_out ? `${told}; ${one.left_out} not in this page` : told));
  return figure;
}

function fileOf(kind, file, caption) {
  const box = make("div");
  if (kind === "image" || file.startsWith?.("data:image")) box.append(imageOf(file, caption));
  else if (kind === "audio") box.append(make("audio", { src: file, controls: true }));
  else if (kind === "video") box.append(make("video", { src: file, controls: true }));
  else if (kind === "table") box.append(mediaTable(file));
  else box.append(make("pre", { textContent: file })); // of html, its source
  if (caption) box.append(cell("div", caption, "caption"));
  return box;
}

function imageOf(file, caption) {
  const image = make("img", { alt: caption ?? "" });
  image.onload = () => image.classList.toggle("tiny", image.naturalWidth < SMALL_PIXELS);
  image.src = file;
  return image;
}

function mediaTable({ columns, data }) {
  const table = make("table");
  const head = make("tr");
  head.append(...columns.map((column) => cell("th", column)));
  table.append(head);
  for (const values of data) {
    const row = make("tr");
    row.append(...values.map((value) => cell("td", value === null ? "" : String(value))));
    table.append(row);
  }
  return table;
}

function histogramOf({ counts, bins }, color) {
  const [width, height] = [220, 90];
  const names = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(names, "svg");
  picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
  picture.setAttribute("width", width);
  const [first, last] = [bins[0], bins.at(-1)];
  const most = Math.max(...counts, 1e-300);
  counts.forEach((count, i) => {
    const bar = document.createElementNS(names, "rect");
    const at = (edge) => (width * (edge - first)) / (last - first || 1);
    const tall = (height * count) / most;
    bar.setAttribute("x", at(bins[i]));
    bar.setAttribute("width", Math.max(0.5, at(bins[i + 1]) - at(bins[i])));
    bar.setAttribute("y", height - tall);
    bar.setAttribute("height", tall);
    bar.setAttribute("fill", color);
    picture.append(bar);
  });
  const box = make("div");
  box.append(picture, cell("div", `${formatted(first)} to ${formatted(last)}`, "caption"));
  return box;
}
