// A metric of a run as a line over the axis that is chosen.

const FEW_POINTS = 30; // up to here every value gets a dot
const LONGEST_HALF_LIFE = 0.1; // of the smoothing, in parts of a line's length
const UNITS = [[1, "s"], [60, "min"], [3600, "h"], [86400, "days"]];

// What stands along the x axis: a step, the time since a run's start, or the time of day.
function makeAxis(kind, seconds) {
  if (kind === "step") return { kind, label: "step", of: (points) => points.step };
  if (kind === "clock") {
    // The library writes times as those of UTC.
    const shift = new Date().getTimezoneOffset() * 60;
    const of = (points) => points.since.map((since) => (points.begin_s - shift + since) * 1000);
    return { kind, label: "time of day", of };
  }
  const [size, unit] = UNITS.filter(([least]) => least === 1 || seconds >= 3 * least).at(-1);
  return { kind, label: `time since start (${unit})`, of: (points) => points.since.map((since) => since / size) };
}

// The points to be drawn: a gap stands for what has no place on the y axis, and where steps go back.
function drawn(x, value, back, log) {
  const xs = [];
  const ys = [];
  for (let i = 0; i < x.length; i++) {
    if (back.has(i)) {
      xs.push(NaN);
      ys.push(NaN);
    }
    xs.push(x[i]);
    ys.push(Number.isFinite(value[i]) && !(log && value[i] <= 0) ? value[i] : NaN);
  }
  return { x: Float64Array.from(xs), y: Float64Array.from(ys) };
}

// The dots: all of a few points, else the lonely ones.
function dotted({ x, y }) {
  const few = y.reduce((count, value) => count + !Number.isNaN(value), 0) <= FEW_POINTS;
  const lonely = (i) => !(y[i - 1] === y[i - 1] && i > 0) && !(y[i + 1] === y[i + 1] && i + 1 < y.length);
  const chosen = [...y.keys()].filter((i) => !Number.isNaN(y[i]) && (few || lonely(i)));
  return { x: Float64Array.from(chosen, (i) => x[i]), y: Float64Array.from(chosen, (i) => y[i]) };
}

function extent(numbers) {
  let least = Infinity;
  let greatest = -Infinity;
  for (const number of numbers) {
    if (number < least) least = number;
    if (number > greatest) greatest = number;
  }
  return [least, greatest];
}

// A mean of the points around each: what is half a life away counts half. It looks both ways, so that
// it lags behind nothing, and not beyond a place where the steps go back.
function smoothed(x, value, back, strength) {
  const [first, last] = extent(x);
  const halfLife = LONGEST_HALF_LIFE * strength ** 2 * (last - first);
  const count = value.length;
  const sums = new Float64Array(count);
  const totals = new Float64Array(count);
  for (const way of [1, -1]) {
    let sum = 0;
    let total = 0;
    let before = NaN;
    for (let i = way > 0 ? 0 : count - 1; i >= 0 && i < count; i += way) {
      if (back.has(way > 0 ? i : i + 1)) sum = total = 0;
      if (!Number.isFinite(value[i])) continue;
      const kept = total && halfLife ? 2 ** (-Math.abs(x[i] - before) / halfLife) : 0;
      // The point itself is counted on the first way only.
      sums[i] += sum * kept + (way > 0 ? value[i] : 0);
      totals[i] += total * kept + (way > 0 ? 1 : 0);
      sum = sum * kept + value[i];
      total = total * kept + 1;
      before = x[i];
    }
  }
  return sums.map((sum, i) => (Number.isFinite(value[i]) ? sum / totals[i] : NaN));
}

// All that a chart draws of a line.
function lineOf(metric, axis, strength, log) {
  const points = metric.points();
  const x = axis.of(points);
  const raw = drawn(x, points.value, points.back, log);
  let smooth = null;
  if (strength > 0) {
    const base = metric.means() ?? points;
    const along = axis.of(base);
    smooth = drawn(along, smoothed(along, base.value, base.back, strength), base.back, log);
  }
  const bad = Float64Array.from(x.filter((_, i) => !Number.isFinite(points.value[i])));
  return { x, points, raw, smooth, dots: dotted(raw), bad };
}

// The least and greatest value within a window of the axis, of lines that are drawn.
function heights(lines, [from, to], log) {
  let least = Infinity;
  let greatest = -Infinity;
  for (const { raw } of lines) {
    for (let i = 0; i < raw.x.length; i++) {
      const y = raw.y[i];
      if (raw.x[i] >= from && raw.x[i] <= to && y === y) {
        if (y < least) least = y;
        if (y > greatest) greatest = y;
      }
    }
  }
  if (least > greatest) return log ? [0.1, 10] : [0, 1];
  if (log) {
    const room = greatest > least ? (greatest / least) ** 0.06 : 2;
    return [least / room, greatest * room];
  }
  const room = (greatest - least) * 0.06 || Math.abs(greatest) * 0.1 || 1;
  return [least - room, greatest + room];
}

// The index of the point that is nearest to a place on the axis; -1 where there is none.
function nearest(x, place) {
  let best = -1;
  let distance = Infinity;
  for (let i = 0; i < x.length; i++) {
    const away = Math.abs(x[i] - place);
    if (away <= distance) {
      distance = away;
      best = i;
    }
  }
  return best;
}
