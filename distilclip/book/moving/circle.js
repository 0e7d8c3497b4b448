/* Chapter 5: pairs on a circle, pulled together by the gradient of the contrastive loss. */

/* The symmetric contrastive loss of angles in radians, and its gradient by every angle.
   `pictures` and `captions` belong together by number; `scale` multiplies the cosines. */
function circleLoss(pictures, captions, scale) {
  const n = pictures.length;
  const cosines = pictures.map((p) => captions.map((c) => Math.cos(p - c)));
  const shares = (row) => {
    const most = Math.max(...row), powers = row.map((v) => Math.exp(scale * (v - most)));
    const sum = powers.reduce((a, b) => a + b);
    return { of: powers.map((p) => p / sum), log: Math.log(sum) + scale * most };
  };
  const rows = cosines.map(shares);
  const columns = captions.map((_, j) => shares(cosines.map((row) => row[j])));
  let loss = 0;
  for (let i = 0; i < n; i += 1) loss += (rows[i].log + columns[i].log) / 2 - scale * cosines[i][i];
  const byPicture = new Array(n).fill(0), byCaption = new Array(n).fill(0);
  for (let i = 0; i < n; i += 1) {
    for (let j = 0; j < n; j += 1) {
      const byCosine = scale / n * ((rows[i].of[j] + columns[j].of[i]) / 2 - (i === j ? 1 : 0));
      const slope = -Math.sin(pictures[i] - captions[j]); // of the cosine, by the picture's angle
      byPicture[i] += byCosine * slope;
      byCaption[j] -= byCosine * slope;
    }
  }
  return { loss: loss / n, cosines, rows: rows.map((r) => r.of), byPicture, byCaption };
}

/* One step of gradient descent. It is divided by the scale, so that no temperature runs away. */
function circleStep(pictures, captions, scale, rate) {
  const { byPicture, byCaption } = circleLoss(pictures, captions, scale);
  return [
    pictures.map((a, i) => a - rate / scale * byPicture[i]),
    captions.map((a, i) => a - rate / scale * byCaption[i]),
  ];
}

function build(stage, data) {
  const n = data.names.length, rate = 0.6, colours = data.colours;
  const radians = (list) => list.map((degrees) => degrees * Math.PI / 180);
  let pictures = radians(data.pictures), captions = radians(data.captions);
  let scale = 10, steps = 0, timer = null;
  const drawing = make("svg", { viewBox: "-140 -135 280 270", role: "group",
    "aria-label": "Pictures and captions on a circle", style: "touch-action: none; width: 100%" });
  const table = make("table", {}), told = make("p"), loud = news({ style: "position: absolute; " +
    "clip-path: inset(50%); height: 1px; overflow: hidden; width: 1px" });
  const arrows = make("g", { "aria-hidden": "true" }), links = make("g", { "aria-hidden": "true" });
  drawing.append(make("circle", { r: 100, fill: "none", stroke: "var(--mv-line)" }), links, arrows);

  /* A dot is a picture, a square a caption; either can be moved by mouse, finger and arrow keys. */
  const marks = [0, 1].flatMap((kind) => data.names.map((name, i) => {
    const shape = kind
      ? make("rect", { x: -9, y: -9, width: 18, height: 18, fill: "var(--mv-paper)", stroke: colours[i], "stroke-width": 3 })
      : make("circle", { r: 10, fill: colours[i] });
    const ends = make("text", { "text-anchor": "middle", "dominant-baseline": "central" }, name);
    const node = make("g", { tabindex: 0, role: "slider", "aria-label": `${kind ? "caption" : "picture"} ${name}`,
      "aria-valuemin": 0, "aria-valuemax": 359, style: "cursor: grab" }, shape, kind ? ends : "");
    const move = (angle) => {
      if (kind) captions[i] = angle; else pictures[i] = angle;
      show();
    };
    node.addEventListener("keydown", (event) => {
      const turn = { ArrowLeft: 5, ArrowUp: 5, ArrowRight: -5, ArrowDown: -5 }[event.key];
      if (!turn) return;
      event.preventDefault();
      move((kind ? captions : pictures)[i] + turn * Math.PI / 180);
    });
    node.addEventListener("pointerdown", (event) => {
      node.setPointerCapture(event.pointerId);
      stop();
    });
    node.addEventListener("pointermove", (event) => {
      if (!node.hasPointerCapture(event.pointerId)) return;
      const box = drawing.getBoundingClientRect();
      move(Math.atan2(box.top + box.height / 2 - event.clientY, event.clientX - box.left - box.width / 2));
    });
    return { node, kind, i, label: kind ? ends : null };
  }));
  drawing.append(...marks.map((mark) => mark.node));

  const cells = data.names.map((name) => data.names.map(() => make("td")));
  table.append(
    make("caption", { style: "caption-side: top; color: inherit; font-size: 0.85rem; padding: 0 0 0.3rem; text-align: left" },
      "Cosines: a row a picture, a column a caption"),
    make("thead", {}, make("tr", {}, make("td"), ...data.names.map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...data.names.map((name, i) => make("tr", {}, make("th", { scope: "row" }, name), ...cells[i]))),
  );

  function show() {
    const { loss, cosines, rows, byPicture, byCaption } = circleLoss(pictures, captions, scale);
    links.replaceChildren();
    arrows.replaceChildren();
    for (let i = 0; i < n; i += 1) {
      const at = (angle, r = 100) => [r * Math.cos(angle), -r * Math.sin(angle)];
      const [x1, y1] = at(pictures[i]), [x2, y2] = at(captions[i]);
      links.append(make("line", { x1, y1, x2, y2, stroke: colours[i], "stroke-opacity": 0.5, "stroke-width": 1.5 }));
    }
    for (const { node, kind, i, label } of marks) {
      const angle = (kind ? captions : pictures)[i], x = 100 * Math.cos(angle), y = -100 * Math.sin(angle);
      node.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
      const degrees = Math.round(((angle * 180 / Math.PI) % 360 + 360) % 360) % 360;
      node.setAttribute("aria-valuenow", degrees);
      node.setAttribute("aria-valuetext", `${degrees} degrees, loss ${loss.toFixed(3)}`);
      if (label) {
        label.setAttribute("x", (28 * Math.cos(angle)).toFixed(1));
        label.setAttribute("y", (-22 * Math.sin(angle)).toFixed(1));
      }
      const pull = -(kind ? byCaption : byPicture)[i] / scale * n; // along the circle, in [-1, 1] or so
      if (Math.abs(pull) < 0.02) continue;
      const turn = Math.max(-0.7, Math.min(0.7, 0.5 * pull)), r = kind ? 74 : 84;
      const from = [r * Math.cos(angle), -r * Math.sin(angle)];
      const to = [r * Math.cos(angle + turn), -r * Math.sin(angle + turn)];
      const tip = angle + turn + Math.sign(turn) * 0.07, wing = angle + turn - Math.sign(turn) * 0.02;
      arrows.append(make("path", { d: `M ${from} A ${r} ${r} 0 0 ${turn > 0 ? 0 : 1} ${to}`, fill: "none",
        stroke: colours[i], "stroke-width": 2.5 }));
      arrows.append(make("path", { fill: colours[i], d: `M ${r * Math.cos(tip)} ${-r * Math.sin(tip)} ` +
        `L ${(r + 5) * Math.cos(wing)} ${-(r + 5) * Math.sin(wing)} ` +
        `L ${(r - 5) * Math.cos(wing)} ${-(r - 5) * Math.sin(wing)} Z` }));
    }
    let right = 0;
    cosines.forEach((row, i) => {
      if (row[i] >= Math.max(...row)) right += 1;
      row.forEach((cosine, j) => {
        const cell = cells[i][j];
        cell.textContent = cosine.toFixed(2).replace("-", "−");
        cell.style.background = tint(cosine);
        cell.style.boxShadow = i === j ? "inset 0 0 0 2px var(--mv-ink)" : "none";
      });
    });
    told.textContent = `Loss ${loss.toFixed(3)} after ${steps} step${steps === 1 ? "" : "s"}; a blind guess costs ` +
      `ln ${n} = ${Math.log(n).toFixed(3)}. ${right} of ${n} pictures are nearest to their own caption.`;
    stage.dataset.loss = loss;
  }

  function step() {
    [pictures, captions] = circleStep(pictures, captions, scale, rate * n);
    steps += 1;
    show();
  }
  const say = () => { loud.textContent = told.textContent; };
  function stop() {
    clearInterval(timer);
    timer = null;
    run.textContent = "Run 100 steps";
  }
  const button = (text, act) => make("button", { type: "button", class: "mv-button", onclick: act }, text);
  const run = button("Run 100 steps", () => {
    if (timer) { stop(); return; }
    if (calm()) {
      for (let i = 0; i < 100; i += 1) step();
      say();
      return;
    }
    let left = 100;
    run.textContent = "Stop";
    timer = setInterval(() => {
      step();
      left -= 1;
      if (!left || !stage.isConnected) { stop(); say(); }
    }, 30);
  });
  const again = button("Start again", () => {
    stop();
    pictures = radians(data.pictures);
    captions = radians(data.captions);
    steps = 0;
    show();
    say();
  });
  stage.append(
    make("div", { class: "mv-bar" },
      slider({ label: "Temperature", max: 40, value: 20, say: (k) => {
        const s = 10 ** (k / 20);
        return `${(1 / s).toPrecision(2)}, a scale of ${s.toFixed(s < 10 ? 1 : 0)}`;
      }, change: (k) => { scale = 10 ** (k / 20); show(); } }).node,
      button("One step", () => { step(); say(); }), run, again),
    make("div", { class: "mv-side" }, drawing, make("div", {}, table, told)), loud,
  );
  show();
}
