/* Chapter 9: a query among the pictures, word by word. */
function build(stage, data) {
  const { pictures, queries, sheet, columns, cell } = data;
  let chosen = 0, words = queries[0].steps.length;
  const tile = 34, box = 640, tall = 460, rows = Math.ceil(pictures.length / columns);
  const drawing = make("svg", { viewBox: `0 0 ${box} ${tall}`, role: "img", style: "width: 100%" });
  const x = (value) => 30 + value / 1000 * (box - 60), y = (value) => 30 + value / 1000 * (tall - 60);
  const list = make("ol"), told = news();

  /* The drawing with number `i` of the sheet, as an SVG of `size` pixels. */
  function drawn(i, size, attributes = {}) {
    const view = `${i % columns * cell} ${Math.floor(i / columns) * cell} ${cell} ${cell}`;
    return make("svg", { viewBox: view, width: size, height: size, "aria-hidden": "true", ...attributes },
      make("image", { href: sheet, width: columns * cell, height: rows * cell }));
  }

  const tiles = pictures.map((picture, i) => {
    const node = make("g", { class: "mv-move" },
      make("rect", { x: -tile / 2 - 2, y: -tile / 2 - 2, width: tile + 4, height: tile + 4, rx: 6, fill: "#fff",
        "stroke-width": 3 }),
      drawn(i, tile, { x: -tile / 2, y: -tile / 2 }), make("title", {}, picture.name));
    node.setAttribute("transform", `translate(${x(picture.x)} ${y(picture.y)})`);
    return node;
  });
  const lines = make("g", {}), path = make("path", { fill: "none", stroke: "var(--mv-orange)", "stroke-width": 2,
    "stroke-dasharray": "5 4" });
  const spot = make("g", { class: "mv-move" }, make("circle", { r: 11, fill: "#d55e00", stroke: "#fff", "stroke-width": 3 }));
  drawing.append(...tiles, lines, path, spot);

  const typed = slider({ label: "Words typed", min: 1, max: words, value: words,
    say: (n) => `“${queries[chosen].steps[n - 1].text}”`, change: (n) => { words = n; show(); } });
  const select = make("select", {
    onchange: (event) => {
      chosen = Number(event.target.value);
      words = queries[chosen].steps.length;
      typed.limit(words);
      typed.value = words;
      show();
    },
  }, ...queries.map((query, i) => make("option", { value: i }, query.text)));

  function show() {
    const steps = queries[chosen].steps, step = steps[words - 1];
    const order = step.cosines.map((c, i) => [c / 1000, i]).sort((a, b) => b[0] - a[0]);
    const best = order.slice(0, 5), near = new Set(best.map(([, i]) => i));
    tiles.forEach((node, i) => {
      node.style.opacity = near.has(i) ? 1 : 0.45;
      node.firstChild.setAttribute("stroke", near.has(i) ? "#d55e00" : "none");
    });
    for (const [, i] of [...best].reverse()) drawing.insertBefore(tiles[i], lines); // on top
    lines.replaceChildren(...best.map(([, i]) => make("line", { x1: x(step.x), y1: y(step.y),
      x2: x(pictures[i].x), y2: y(pictures[i].y), stroke: "var(--mv-orange)", "stroke-opacity": 0.6 })));
    path.setAttribute("d", steps.slice(0, words).map((s, i) => `${i ? "L" : "M"} ${x(s.x)} ${y(s.y)}`).join(" "));
    spot.setAttribute("transform", `translate(${x(step.x)} ${y(step.y)})`);
    list.replaceChildren(...best.map(([cosine, i]) => make("li", {},
      make("span", { class: "mv-chip" }, drawn(i, 36)), pictures[i].name, make("b", {}, cosine.toFixed(3)))));
    const where = ([, i]) => Math.hypot(x(pictures[i].x) - x(step.x), y(pictures[i].y) - y(step.y));
    const flat = pictures.map((_, i) => where([0, i]));
    const closest = flat.map((d, i) => [d, i]).sort((a, b) => a[0] - b[0]).slice(0, 5);
    const agree = closest.filter(([, i]) => near.has(i)).length;
    told.textContent = `“${step.text}”: nearest is ${pictures[best[0][1]].name}, cosine ${best[0][0].toFixed(3)}. ` +
      `Of the five nearest in ${data.width} dimensions, ${agree} are among the five nearest on this map.`;
    drawing.setAttribute("aria-label", `Map of ${pictures.length} pictures. ${told.textContent}`);
  }

  stage.append(
    make("div", { class: "mv-bar" }, make("label", { class: "mv-slider" }, "Query", select), typed.node),
    make("div", { class: "mv-side" }, make("div", { style: "flex: 3 1 380px" }, drawing),
      make("div", { style: "flex: 1 1 190px" }, make("b", {}, "Nearest by cosine"), list)), told,
  );
  show();
}
