/* The search box of the page "Search in your browser".

   Nothing is downloaded before the reader asks for it. Then the pieces named in the page (runtime,
   model, pictures, vocabulary) are fetched, unpacked, and handed to a worker, so that typing stays
   smooth while the model thinks. All addresses are relative to this file. */

/* What runs in the worker: text comes in, the nearest pictures go out. */
function liveSearchWorker(makeWordPiece) {
  "use strict";
  let ort, session, encode, vectors, bank, settings;

  async function start(pieces) {
    const runtime = new Blob([pieces.runtime], { type: "text/javascript" });
    ort = await import(URL.createObjectURL(runtime));
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = pieces.wasm;
    session = await ort.InferenceSession.create(new Uint8Array(pieces.model), {
      executionProviders: ["wasm"],
    });
    const read = (bytes) => new TextDecoder().decode(bytes);
    const names = JSON.parse(read(pieces.emoji_names));
    encode = makeWordPiece(read(pieces.vocabulary).split("\n"), settings.max_text_length, names);
    vectors = new Int8Array(pieces.vectors);
    bank = new Int8Array(pieces.bank);
  }

  async function embed(text) {
    const ids = BigInt64Array.from(encode(text), BigInt);
    const tensor = (data) => new ort.Tensor("int64", data, [1, data.length]);
    const output = await session.run({
      input_ids: tensor(ids),
      attention_mask: tensor(new BigInt64Array(ids.length).fill(1n)),
    });
    return output.text_embeds.data;
  }

  /* The product of `query` with each of `count` vectors that are stored as whole numbers. */
  function products(query, table, count, scale) {
    return Float32Array.from({ length: count }, (_, row) => {
      const start = row * query.length;
      let sum = 0;
      for (let i = 0; i < query.length; i += 1) sum += query[i] * table[start + i];
      return sum * scale;
    });
  }

  /* The query in the words of known captions: `expand_queries` in distilclip/search.py. */
  function expand(query) {
    const likeness = products(query, bank, settings.bank_count, settings.bank_scale);
    const most = likeness.reduce((a, b) => Math.max(a, b));
    const mean = new Float32Array(query.length);
    likeness.forEach((cosine, row) => {
      const weight = Math.exp(settings.sharpness * (cosine - most));
      for (let i = 0; i < mean.length; i += 1) mean[i] += weight * bank[row * mean.length + i];
    });
    const length = Math.hypot(...mean);
    return mean.map((value) => value / length);
  }

  /* The cosine of the text with every picture, and the `k` largest. */
  async function search(text, k) {
    const query = expand(await embed(text));
    const scores = products(query, vectors, settings.count, settings.scale);
    const hits = Array.from(scores, (score, row) => ({ row, score }));
    return hits.sort((a, b) => b.score - a.score).slice(0, k);
  }

  onmessage = async ({ data }) => {
    try {
      if (data.pieces) {
        settings = data.settings;
        await start(data.pieces);
        postMessage({ ready: true });
      } else {
        const begin = performance.now();
        const hits = await search(data.text, data.k);
        postMessage({ text: data.text, hits, milliseconds: performance.now() - begin });
      }
    } catch (error) {
      postMessage({ error: String(error.message ?? error) });
    }
  };
}

(() => {
  "use strict";
  const base = new URL(".", document.currentScript.src);
  const fromFile = base.protocol === "file:";
  const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
  const K = 12;

  /* One piece as a Response. Opened as a file, a page may load scripts but no data. */
  const asked = new Map();
  window.liveSearchPiece = (name, content) =>
    asked.get(name)(fetch(`data:application/octet-stream;base64,${content}`));
  function respond(name, file) {
    if (!fromFile) return fetch(new URL(file, base));
    return new Promise((resolve, reject) => {
      asked.set(name, resolve);
      const script = document.createElement("script");
      script.src = new URL(`data/as-scripts/${name}.js`, base);
      script.onload = () => script.remove();
      script.onerror = () => reject(new Error(`${name} is missing`));
      document.head.append(script);
    });
  }

  async function load(name, piece, onBytes) {
    const response = await respond(name, piece.file);
    if (!response.ok) throw new Error(`${piece.file}: ${response.status} ${response.statusText}`);
    const counted = response.body.pipeThrough(
      new TransformStream({
        transform(chunk, controller) {
          onBytes(chunk.byteLength);
          controller.enqueue(chunk);
        },
      }),
    );
    const plain = piece.file.endsWith(".gz")
      ? counted.pipeThrough(new DecompressionStream("gzip"))
      : counted;
    return new Response(plain).arrayBuffer();
  }

  function missingFeature() {
    if (typeof WebAssembly === "undefined") return "WebAssembly, which is switched off here";
    if (typeof DecompressionStream === "undefined") return "a browser from 2023 or later";
    return null;
  }

  function setUp(root) {
    const settings = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    const find = (name) => root.querySelector(`.live-search-${name}`);
    const [box, form, button, status, bar, count, list] =
      ["box", "form", "start", "status", "progress", "count", "hits"].map(find);
    const input = form.querySelector("input");
    const sheet = new URL("data/pictures.webp", base).href;
    const rows = Math.ceil(settings.count / settings.columns);
    let worker, pictures, loading, thinking, pending, timer;

    const missing = missingFeature();
    box.hidden = false;
    if (missing) {
      form.hidden = true;
      status.textContent = `The live search needs ${missing}. The examples below need nothing.`;
      return;
    }

    function fail(error) {
      worker?.terminate();
      [worker, loading, thinking] = [undefined, undefined, false];
      bar.hidden = true;
      count.textContent = "";
      button.hidden = false;
      status.textContent = `It did not work: ${error.message}. The button tries again.`;
    }

    function start() {
      loading ??= startOnce().catch(fail);
      return loading;
    }

    async function startOnce() {
      button.hidden = true;
      bar.hidden = false;
      status.textContent = `Loading ${megabytes(bar.max)} MB`;
      let bytes = 0;
      const onBytes = (more) => {
        bytes += more;
        bar.value = bytes;
        count.textContent = `${megabytes(bytes)} of ${megabytes(bar.max)} MB`;
      };
      const drawn = new Image();
      drawn.src = sheet;
      const sheetLoaded = drawn.decode().then(() => onBytes(settings.sheet_bytes));
      const names = Object.keys(settings.pieces);
      const contents = await Promise.all(
        names.map((name) => load(name, settings.pieces[name], onBytes)),
      );
      await sheetLoaded;
      count.textContent = "";
      status.textContent = "Starting the model";
      const pieces = Object.fromEntries(names.map((name, i) => [name, contents[i]]));
      pictures = JSON.parse(new TextDecoder().decode(pieces.pictures));
      const code = `(${liveSearchWorker})(${makeWordPiece})`;
      const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
      worker = new Worker(address);
      await new Promise((resolve, reject) => {
        worker.onmessage = ({ data }) => (data.ready ? resolve() : reject(new Error(data.error)));
        worker.onerror = (event) => reject(new Error(event.message ?? "the worker did not start"));
        worker.postMessage({ pieces, settings }, Object.values(pieces));
      });
      worker.onmessage = ({ data }) => {
        thinking = false;
        if (data.error) fail(new Error(data.error));
        else if (data.text === input.value.trim()) show(data);
        if (pending !== undefined) ask(pending);
      };
      bar.hidden = true;
      status.textContent = "Ready: type what you look for.";
      root.dataset.ready = "true";
      ask(input.value);
    }

    /* One question at a time: of those that come meanwhile, only the last one counts. */
    function ask(text) {
      pending = undefined;
      if (!worker) return;
      if (thinking) {
        pending = text;
        return;
      }
      if (!text.trim()) {
        list.replaceChildren();
        delete root.dataset.shown;
        status.textContent = "Ready: type what you look for.";
        return;
      }
      thinking = true;
      worker.postMessage({ text: text.trim(), k: K });
    }

    function show({ text, hits, milliseconds }) {
      const [labels, isNew] = pictures;
      list.replaceChildren(
        ...hits.map(({ row, score }) => {
          const item = document.createElement("li");
          const picture = document.createElement("span");
          const [x, y] = [row % settings.columns, Math.floor(row / settings.columns)];
          picture.className = "live-search-picture";
          picture.style.backgroundImage = `url("${sheet}")`;
          picture.style.backgroundSize = `${settings.columns * 100}% ${rows * 100}%`;
          picture.style.backgroundPosition =
            `${(100 * x) / (settings.columns - 1)}% ${(100 * y) / (rows - 1)}%`;
          const label = document.createElement("span");
          label.textContent = labels[row];
          const detail = document.createElement("small");
          detail.textContent = score.toFixed(2) + (isNew[row] ? " · new concept" : "");
          item.append(picture, label, detail);
          return item;
        }),
      );
      status.textContent =
        `The ${hits.length} pictures nearest to “${text}”, of ` +
        `${settings.count.toLocaleString("en")}, in ${Math.round(milliseconds)} ms`;
      root.dataset.shown = text;
    }

    bar.max = Object.values(settings.pieces).reduce((sum, piece) => sum + piece.bytes, 0);
    bar.max += settings.sheet_bytes;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      start();
      ask(input.value);
      input.focus();
    });
    input.addEventListener("input", () => {
      start();
      clearTimeout(timer);
      timer = setTimeout(() => ask(input.value), 80);
    });
    for (const question of document.querySelectorAll(".live-search-question")) {
      const example = document.createElement("button");
      example.type = "button";
      example.textContent = question.textContent;
      example.title = "Ask this in the box above";
      example.addEventListener("click", () => {
        input.value = question.dataset.query;
        start();
        ask(input.value);
        input.focus();
        root.scrollIntoView({ block: "start" });
      });
      question.replaceChildren(example);
    }
  }

  document.querySelectorAll(".live-search").forEach(setUp);
})();
