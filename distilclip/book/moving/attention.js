/* Chapters 2 and 10: choose a patch, and see whom each head attends to.

   The weights are either computed here, from colours and places (chapter 2), or they are those of
   a trained model, stored as square roots in 255 steps (chapter 10). */

/* The weights of one patch over all, by a head made by hand, for a factor of sharpness. */
function weightsByHand(kind, chosen, side, directions, factor) {
  const place = (i) => [Math.floor(i / side), i % side];
  const [row, column] = place(chosen);
  const near = (i, down) => {
    const [r, c] = place(i);
    return -((r - row - down) ** 2 + (c - column) ** 2) / 80;
  };
  const alike = (i) => directions[i].reduce((sum, x, d) => sum + x * directions[chosen][d], 0);
  const score = {
    colour: alike, near: (i) => near(i, 0), below: (i) => near(i, 4),
    both: (i) => alike(i) + near(i, 0),
  }[kind];
  return softmax(directions.map((_, i) => factor * score(i)));
}

function softmax(scores) {
  const most = Math.max(...scores), powers = scores.map((s) => Math.exp(s - most));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((p) => p / sum);
}

/* Colours (N, 3) -> their directions from the mean colour, each of length 1. */
function directionsOf(colours) {
  const mean = [0, 1, 2].map((d) => colours.reduce((sum, c) => sum + c[d], 0) / colours.length);
  return colours.map((colour) => {
    const away = colour.map((x, d) => x - mean[d]), length = Math.hypot(...away) || 1;
    return away.map((x) => x / length);
  });
}

function build(stage, data) {
  const side = data.side, count = side * side, trained = Boolean(data.pictures[0].weights);
  const pictures = data.pictures.map((entry) => ({
    ...entry,
    table: trained ? bytes(entry.weights) : null,
    directions: trained ? null : directionsOf(entry.colours),
  }));
  let shown = 0, chosen = data.first, layer = 1, factor = 20, image = null;
  const heads = trained
    ? Array.from({ length: data.heads }, (_, i) => ({ name: `head ${i + 1}` }))
    : data.kinds;

  /* The weights of the chosen token over all tokens, in a trained model [CLS] first. */
  function weights(head) {
    const entry = pictures[shown];
    if (!trained) return { patches: weightsByHand(head.kind, chosen, side, entry.directions, factor) };
    const size = count + 1, query = chosen + 1;
    const start = (((layer - 1) * heads.length + heads.indexOf(head)) * size + query) * size;
    const row = Array.from(entry.table.subarray(start, start + size), (b) => (b / 255) ** 2);
    const sum = row.reduce((a, b) => a + b);
    return { cls: row[0] / sum, patches: row.slice(1).map((w) => w / sum) };
  }

  const base = make("canvas", { width: 448, height: 448, "aria-hidden": "true",
    style: "border-radius: 4px; inset: 0; height: 100%; position: absolute; width: 100%" });
  const names = Array.from({ length: count }, (_, i) => `row ${Math.floor(i / side)}, column ${i % side}`);
  const grid = buttonGrid({
    columns: side, names, value: Math.max(chosen, 0), label: "Patches of the picture",
    change: (i) => { chosen = i; show(); },
  });
  grid.node.style.aspectRatio = "1";
  grid.node.prepend(base);
  base.style.zIndex = "0";
  grid.buttons.forEach((button) => { button.style.zIndex = "1"; button.style.position = "relative"; });
  const maps = heads.map((head) => {
    const canvas = make("canvas", { width: 168, height: 168, role: "img" });
    const text = make("div");
    return { head, canvas, text, node: make("div", {}, canvas, text) };
  });
  const told = news();
  const bar = make("div", { class: "mv-bar" });
  if (trained) {
    bar.append(choice({ legend: "Picture", names: pictures.map((p) => p.name),
      change: (i) => { shown = i; load(); } }));
    bar.append(slider({ label: "Layer", min: 1, max: data.layers, value: layer,
      say: (n) => `${n} of ${data.layers}`, change: (n) => { layer = n; show(); } }).node);
    bar.append(make("button", { type: "button", class: "mv-button",
      onclick: () => { chosen = -1; show(); } }, "Ask [CLS]"));
  } else {
    bar.append(slider({ label: "Factor before the softmax", max: 60, value: factor,
      change: (n) => { factor = n; show(); } }).node);
  }

  function frame(pen, width, i, colour, line) {
    const step = width / side;
    pen.strokeStyle = colour;
    pen.lineWidth = line;
    pen.strokeRect(i % side * step, Math.floor(i / side) * step, step, step);
  }

  function show() {
    const most = [];
    if (image) {
      const pen = base.getContext("2d");
      pen.imageSmoothingEnabled = true;
      pen.drawImage(image, 0, 0, 448, 448);
      pen.strokeStyle = "rgb(128 128 128 / 0.5)";
      pen.lineWidth = 1;
      for (let i = 1; i < side; i += 1) {
        const at = Math.round(i * 448 / side) + 0.5;
        pen.strokeRect(at, -1, 0, 450);
        pen.strokeRect(-1, at, 450, 0);
      }
      if (chosen >= 0) { frame(pen, 448, chosen, "#fff", 8); frame(pen, 448, chosen, "#0072b2", 5); }
    }
    for (const { head, canvas, text } of maps) {
      const { cls, patches } = weights(head), top = Math.max(...patches);
      const at = patches.indexOf(top);
      if (image) {
        const pen = canvas.getContext("2d"), step = 168 / side;
        pen.fillStyle = "#fff";
        pen.fillRect(0, 0, 168, 168);
        pen.globalAlpha = 0.4; // the picture, pale and grey
        pen.filter = "grayscale(1)";
        pen.drawImage(image, 0, 0, 168, 168);
        pen.filter = "none";
        pen.globalAlpha = 1;
        patches.forEach((w, i) => {
          pen.fillStyle = `rgb(213 94 0 / ${0.9 * w / top})`;
          pen.fillRect(i % side * step, Math.floor(i / side) * step, step, step);
        });
        if (chosen >= 0) frame(pen, 168, chosen, "#0072b2", 3);
      }
      const kept = cls === undefined ? "" : `, ${percent(cls)} on [CLS]`;
      canvas.setAttribute("aria-label", `${head.name}: looks most at ${names[at]}`);
      const all = cls === undefined ? patches : [cls, ...patches];
      text.replaceChildren(make("b", {}, head.name), make("br"),
        `at most ${percent(top)} on a patch${kept}; spread over about ${Math.round(spread(all))}`);
      most.push(`${head.name}, ${names[at]}`);
    }
    const who = chosen < 0 ? "[CLS]" : `the patch in ${names[chosen]}`;
    told.textContent = `Asked by ${who}. Most weight: ${most.join("; ")}.`;
  }

  function load() {
    picture(pictures[shown].image, (loaded) => { image = loaded; show(); });
    show();
  }

  load();
  stage.append(bar, make("div", { class: "mv-side" }, grid.node,
    make("div", { class: trained ? "mv-heads mv-rows" : "mv-heads" }, ...maps.map((map) => map.node))), told);
}
