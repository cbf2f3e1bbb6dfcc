// Where the page begins: with the runs that are in it, or with those that its server tells of.

const NONCE = document.currentScript.nonce; // without it the library may not run
const ASK_MS = 1000;
const SHOWN_AT_FIRST = 5; // of a directory's runs, the newest

async function loadLibrary() {
  const script = make("script", { nonce: NONCE });
  script.textContent = new TextDecoder().decode(await inflated(find("library").textContent));
  document.head.append(script);
  Bokeh.set_log_level("warn");
}

// Ask the server, again and again, what has changed.
class Follower {
  constructor(page) {
    this.page = page;
    this.token = new URLSearchParams(location.search).get("token") ?? "";
    this.first = true;
    this.turns = Promise.resolve();
    this.waiting = 0;
    page.onShow = () => this.look();
  }

  async ask(path) {
    const answer = await fetch(path, { headers: { Authorization: `Bearer ${this.token}` }, cache: "no-store" });
    if (!answer.ok) throw new Error(await answer.text());
    return answer;
  }

  // Look once more, when what is under way is done.
  look() {
    if (this.waiting < 2) {
      this.waiting += 1;
      this.turns = this.turns.then(() => this.turn()).finally(() => { this.waiting -= 1; });
    }
    return this.turns;
  }

  async turn() {
    const { page } = this;
    let there;
    try {
      there = await (await this.ask("api/runs")).json();
    } catch {
      page.say("fasttrack ui does not answer any more; this is what it told last.");
      return;
    }
    page.where = there.directory;
    const keys = new Set(there.runs.map(({ key }) => key));
    const before = page.runs.length;
    page.runs = page.runs.filter(({ key }) => keys.has(key));
    let changed = this.first || page.runs.length !== before;
    there.runs.forEach((told, place) => {
      const known = page.runs.find(({ key }) => key === told.key);
      const run = page.take(told, known ? known.shown : this.first ? place < SHOWN_AT_FIRST : told.state === "running");
      changed ||= !known || run.told !== told.version + told.state;
      run.told = told.version + told.state;
    });
    this.first = false;
    page.runs.sort((a, b) => there.runs.findIndex(({ key }) => key === a.key) - there.runs.findIndex(({ key }) => key === b.key));
    if (changed) {
      page.entitle();
      page.list();
      if (!page.shownRuns().length) page.draw();
    }
    await this.load();
  }

  async load() {
    const { page } = this;
    const waiting = page.runs.filter((run) => run.shown && run.loaded !== run.told);
    const results = await Promise.allSettled(waiting.map(async (run) => {
      const { told } = run;
      const answer = await this.ask(`api/run?key=${encodeURIComponent(run.key)}`);
      page.take(readRun(new Uint8Array(await answer.arrayBuffer())));
      run.loaded = told;
    }));
    if (page.tab === "media") await this.loadMedia();
    const failed = results.find(({ status }) => status === "rejected");
    page.say(failed ? failed.reason.message : "");
    if (waiting.length) {
      page.entitle();
      page.draw();
    }
  }

  // Read the media of runs as they are by now; they are asked for only where somebody looks.
  async loadMedia() {
    const { page } = this;
    const waiting = page.shownRuns().filter((run) => run.withMedia !== run.told);
    await Promise.allSettled(waiting.map(async (run) => {
      const { told } = run;
      run.media = await (await this.ask(`api/media?key=${encodeURIComponent(run.key)}`)).json();
      run.withMedia = told;
    }));
    if (waiting.length) page.section();
  }
}

async function start() {
  const live = document.body.dataset.live === "true";
  if (!("DecompressionStream" in window)) throw new Error("This page needs a browser of 2023 or newer.");
  await loadLibrary();
  const page = new Page(live);
  if (live) {
    const follower = new Follower(page);
    await follower.look();
    setInterval(() => document.hidden || follower.look(), ASK_MS);
    document.addEventListener("visibilitychange", () => document.hidden || follower.look());
  } else {
    for (const run of readRuns(await inflated(find("data").textContent))) page.take({ ...run, loaded: true }, true);
    page.entitle();
    page.list();
    page.draw();
  }
  document.body.dataset.ready = "true";
}

start().catch((error) => {
  find("banner").textContent = error.message;
  find("banner").hidden = false;
  console.error(error);
});
