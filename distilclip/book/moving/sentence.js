/* Chapter 4: choose a token of a sentence, and see at which tokens it looks. */
function build(stage, data) {
  const sentences = data.sentences.map((entry) => ({ ...entry, table: bytes(entry.weights) }));
  let shown = 0, layer = data.first.layer, head = data.first.head, chosen = data.first.token;
  const drawing = make("div"), told = news(), bar = make("div", { class: "mv-bar" });

  /* The weights of token `query` in a layer and head, both from 1 on; head 0 is the mean of all. */
  function weights(query, of = head) {
    const { tokens, table } = sentences[shown], size = tokens.length;
    const sum = new Array(size).fill(0);
    const wanted = of ? [of] : Array.from({ length: data.heads }, (_, i) => i + 1);
    for (const one of wanted) {
      const start = (((layer - 1) * data.heads + one - 1) * size + query) * size;
      for (let i = 0; i < size; i += 1) sum[i] += (table[start + i] / 255) ** 2;
    }
    const all = sum.reduce((a, b) => a + b);
    return sum.map((w) => w / all);
  }

  let column = null, lines = null, right = [];

  /* A new sentence: its tokens twice, those who look on the left. */
  function lay() {
    const { tokens } = sentences[shown], step = 34, height = step * tokens.length;
    chosen = Math.min(chosen, tokens.length - 1);
    column = buttonGrid({ columns: 1, names: tokens.map((t) => `${t} looks`), value: chosen,
      label: "Tokens that look", change: (i) => { chosen = i; show(); } });
    column.buttons.forEach((button, i) => {
      button.textContent = tokens[i];
      Object.assign(button.style, { height: `${step}px`, textAlign: "right", paddingRight: "8px" });
    });
    lines = make("svg", { viewBox: `0 0 200 ${height}`, preserveAspectRatio: "none", "aria-hidden": "true",
      style: `height: ${height}px; width: 100%` });
    right = tokens.map((token) => make("div", { style: `height: ${step}px; line-height: ${step}px; ` +
      "padding-left: 8px; border-radius: 4px" }, token));
    drawing.replaceChildren(make("div", { style: "display: grid; margin: 0 auto; max-width: 560px; " +
      "grid-template-columns: minmax(0, 1.1fr) minmax(0, 1.4fr) minmax(0, 1.1fr)" },
    column.node, lines, make("div", {}, ...right)));
    show();
  }

  function show() {
    const { tokens } = sentences[shown], mine = weights(chosen), step = 34;
    lines.replaceChildren();
    for (let query = 0; query < tokens.length; query += 1) {
      const row = query === chosen ? mine : weights(query);
      row.forEach((w, key) => {
        if (w < 0.02) return;
        const strong = query === chosen;
        lines.append(make("line", { x1: 0, y1: (query + 0.5) * step, x2: 200, y2: (key + 0.5) * step,
          stroke: strong ? "var(--mv-orange)" : "var(--mv-line)", "stroke-width": strong ? 1 + 7 * w : 1,
          "stroke-opacity": strong ? 0.3 + 0.7 * w : 0.45 * w, "vector-effect": "non-scaling-stroke" }));
      });
    }
    column.buttons.forEach((button, i) => {
      button.style.fontWeight = i === chosen ? "700" : "400";
      button.style.boxShadow = i === chosen ? "inset -3px 0 0 var(--mv-orange)" : "none";
    });
    right.forEach((cell, key) => {
      cell.style.background = tint(-mine[key]);
      cell.textContent = mine[key] >= 0.05 ? `${tokens[key]}  ${percent(mine[key])}` : tokens[key];
    });
    const order = mine.map((w, i) => [w, i]).sort((a, b) => b[0] - a[0]).slice(0, 3);
    const marks = tokens.map((t, i) => [t, i]).filter(([t]) => t === "[CLS]" || t === "[SEP]");
    const parked = marks.reduce((sum, [, i]) => sum + mine[i], 0);
    told.textContent = `“${tokens[chosen]}” looks most at ` +
      `${order.map(([w, i]) => `“${tokens[i]}” (${percent(w)})`).join(", ")}; ` +
      `${percent(parked)} goes to [CLS] and [SEP].`;
  }

  const select = make("select", { onchange: (event) => { shown = Number(event.target.value); lay(); } },
    ...sentences.map((entry, i) => make("option", { value: i }, entry.text)));
  bar.append(make("label", { class: "mv-slider" }, "Sentence", select));
  const sliders = make("div", { class: "mv-bar" },
    slider({ label: "Layer", min: 1, max: data.layers, value: layer, say: (n) => `${n} of ${data.layers}`,
      change: (n) => { layer = n; show(); } }).node,
    slider({ label: "Head", min: 0, max: data.heads, value: head,
      say: (n) => (n ? `${n} of ${data.heads}` : "mean of all"), change: (n) => { head = n; show(); } }).node);
  stage.append(bar, sliders, drawing, told);
  lay();
}
