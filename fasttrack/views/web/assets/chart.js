// One chart: the only place that knows the library, BokehJS.

const BAD_HEIGHT = 0.04; // of the marks of values that are not finite, above the ground

function look() {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(`--${name}`).trim();
  return { faint: color("faint"), grid: color("grid"), edge: color("edge"), alarm: color("alarm"), font: style.fontFamily };
}

class Chart {
  // `events` has functions: zoom(from, to), hover(x, event), leave().
  constructor(element, { axis, log, xs, ys }, events) {
    const { faint, grid, edge, alarm, font } = look();
    this.log = log;
    this.alarm = alarm;
    this.drawn = new Map(); // run -> what is drawn of it
    this.plot = Bokeh.Plotting.figure({
      tools: [],
      toolbar_location: null,
      sizing_mode: "stretch_both",
      x_axis_type: axis.kind === "clock" ? "datetime" : "linear",
      y_axis_type: log ? "log" : "linear",
      x_range: new Bokeh.Range1d({ start: xs[0], end: xs[1] }),
      y_range: new Bokeh.Range1d({ start: ys[0], end: ys[1] }),
      background_fill_color: null,
      border_fill_color: null,
      outline_line_color: null,
      min_border: 4,
    });
    for (const one of this.plot.axes) {
      one.major_label_text_color = faint;
      one.major_label_text_font = font;
      one.major_label_text_font_size = "11px";
      one.axis_label_text_color = faint;
      one.axis_label_text_font = font;
      one.axis_label_text_font_size = "11px";
      one.axis_label_text_font_style = "normal";
      one.axis_label_standoff = 2;
      one.axis_line_color = edge;
      one.major_tick_line_color = null;
      one.minor_tick_line_color = null;
    }
    const [across] = this.plot.xaxes;
    across.axis_label = axis.label;
    if (axis.kind !== "clock") {
      across.ticker.desired_num_ticks = 6;
      across.formatter.use_scientific = false;
    }
    const [upright] = this.plot.yaxes;
    upright.ticker.desired_num_ticks = 5;
    if (!log) upright.formatter.power_limit_low = -4;
    for (const one of this.plot.grids) {
      one.grid_line_color = grid;
      one.level = "image"; // below all lines
    }
    const zoom = new Bokeh.BoxZoomTool({ dimensions: "width" });
    this.plot.add_tools(zoom, new Bokeh.CrosshairTool({ dimensions: "height", line_color: faint, line_alpha: 0.5 }));
    this.plot.toolbar.active_drag = zoom;
    this.plot.x_range.change.connect(() => {
      const { start, end } = this.plot.x_range;
      if (!this.setting) events.zoom(start, end);
    });
    this.plot.on_event("mousemove", (event) => events.hover(event.x));
    this.plot.on_event("mouseleave", () => events.leave());
    this.page = new Bokeh.Document();
    this.page.add_root(this.plot);
    this.shown = Bokeh.embed.add_document_standalone(this.page, element);
  }

  // Draw `lines`, each with `key` and `color`, and what `lineOf` returns; hide others.
  draw(lines) {
    const there = new Set(lines.map(({ key }) => key));
    for (const [key, one] of this.drawn) {
      if (!there.has(key)) for (const renderer of one.renderers) renderer.visible = false;
    }
    for (const line of lines) {
      const one = this.drawn.get(line.key) ?? this.add(line);
      one.raw.data = { x: line.raw.x, y: line.raw.y };
      one.smooth.data = line.smooth ? { x: line.smooth.x, y: line.smooth.y } : { x: [], y: [] };
      one.dots.data = { x: line.dots.x, y: line.dots.y };
      one.places = line.bad;
      one.rawLine.glyph.line_alpha = line.smooth ? (lines.length > 4 ? 0.18 : 0.28) : 0.9;
      for (const renderer of one.renderers) renderer.visible = true;
    }
    this.markBad();
  }

  add({ key, color }) {
    const [raw, smooth, dots, bad] = [0, 1, 2, 3].map(() => new Bokeh.ColumnDataSource({ data: { x: [], y: [] } }));
    const at = (source, more) => ({ x: { field: "x" }, y: { field: "y" }, source, ...more });
    const rawLine = this.plot.line(at(raw, { line_color: color, line_width: 1.3, line_alpha: 0.9, line_join: "round" }));
    rawLine.level = "underlay"; // below the smoothed lines of all runs
    const renderers = [
      rawLine,
      this.plot.line(at(smooth, { line_color: color, line_width: 2, line_join: "round" })),
      this.plot.scatter(at(dots, { marker: "circle", size: 4, fill_color: color, line_color: null })),
      this.plot.scatter(at(bad, { marker: "x", size: 6, line_color: this.alarm, line_width: 1.5 })),
    ];
    const one = { raw, smooth, dots, bad, rawLine, renderers, places: [] };
    this.drawn.set(key, one);
    return one;
  }

  // Show this part of the axes.
  window([start, end], [low, high]) {
    this.setting = true;
    this.plot.x_range.setv({ start, end });
    this.plot.y_range.setv({ start: low, end: high });
    this.setting = false;
    this.markBad();
  }

  markBad() {
    const { start, end } = this.plot.y_range;
    const y = this.log ? start * (end / start) ** BAD_HEIGHT : start + (end - start) * BAD_HEIGHT;
    for (const { bad, places } of this.drawn.values()) bad.data = { x: places, y: new Float64Array(places.length).fill(y) };
  }

  async close() {
    await this.shown;
    this.page.clear();
    Bokeh.documents.splice(Bokeh.documents.indexOf(this.page), 1); // which it would stay in
  }
}
