// What the page is handed of runs, as `payload.py` writes it.

async function inflated(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function readRuns(bytes) {
  const runs = [];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let start = 0; start < bytes.length; ) {
    const size = view.getUint32(start, true);
    runs.push(readRun(bytes.subarray(start + 4, start + 4 + size)));
    start += 4 + size;
  }
  return runs;
}

function readRun(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = view.getUint32(0, true);
  const run = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + size)));
  const arrays = bytes.subarray(4 + size);
  const metrics = new Map();
  for (const told of run.metrics) {
    metrics.set(told.name, {
      name: told.name,
      unit: told.unit,
      rows: told.rows,
      points: once(() => readPoints(arrays, told.points, run.begin_s)),
      means: once(() => told.means && readPoints(arrays, told.means, run.begin_s)),
    });
  }
  run.metrics = metrics;
  return run;
}

function once(make) {
  let made;
  let done = false;
  return () => {
    if (!done) {
      made = make();
      done = true;
    }
    return made;
  };
}

function readPoints(arrays, told, begin_s) {
  const since = readArray(arrays, ...told.tick);
  for (let i = 0; i < since.length; i++) since[i] /= 1000;
  return {
    back: new Set(told.back),
    step: readArray(arrays, ...told.step),
    since, // seconds since the run's first point
    begin_s,
    value: readArray(arrays, ...told.value),
  };
}

function readArray(arrays, start, count, form) {
  const width = form === "f8" ? 8 : 4;
  const bytes = new Uint8Array(count * width);
  for (let plane = 0, from = start; plane < width; plane++) {
    for (let i = plane; i < bytes.length; i += width) bytes[i] = arrays[from++];
  }
  if (form === "f8") return new Float64Array(bytes.buffer);
  if (form === "f4") return Float64Array.from(new Float32Array(bytes.buffer));
  const numbers = Float64Array.from(new Int32Array(bytes.buffer));
  for (let i = 1; i < count; i++) numbers[i] += numbers[i - 1];
  return numbers;
}
