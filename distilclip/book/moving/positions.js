/* Chapter 3: choose a position, and see the cosine of its embedding with every other. */
function build(stage, data) {
  const side = data.side, count = side * side, tables = data.tables;
  let table = tables.length - 1, chosen = data.first;
  const names = Array.from({ length: count }, (_, i) => `row ${Math.floor(i / side)}, column ${i % side}`);
  const grid = buttonGrid({
    columns: side, names, value: chosen, label: "Positions of the patches",
    change: (i) => { chosen = i; show(); },
  });
  grid.node.style.aspectRatio = "1";
  grid.node.style.gap = "2px";
  const plot = make("svg", { viewBox: "0 0 340 250", role: "img" });
  const told = news();
  const x = (distance) => 48 + distance * 280 / (Math.SQRT2 * (side - 1));
  const y = (cosine) => 110 - 90 * cosine;

  function show() {
    const cosines = tables[table].cosines.slice(chosen * count, (chosen + 1) * count).map((c) => c / 100);
    const row = Math.floor(chosen / side), column = chosen % side;
    const away = cosines.map((_, i) => Math.hypot(Math.floor(i / side) - row, i % side - column));
    grid.buttons.forEach((button, i) => {
      const cosine = cosines[i];
      button.style.background = tint(cosine);
      button.style.boxShadow = i === chosen ? "inset 0 0 0 3px var(--mv-ink)" : "none";
      button.textContent = cosine.toFixed(2).replace("-", "−");
      button.style.fontSize = "0.8rem";
      button.setAttribute("aria-label", `${names[i]}: cosine ${cosine.toFixed(2)}`);
    });
    plot.replaceChildren();
    for (const value of [-1, -0.5, 0, 0.5, 1]) {
      plot.append(make("line", { x1: 48, x2: 332, y1: y(value), y2: y(value), stroke: "var(--mv-line)",
        "stroke-opacity": value ? 0.35 : 1 }));
      plot.append(make("text", { x: 40, y: y(value) + 4, "text-anchor": "end" }, String(value).replace("-", "−")));
    }
    for (let d = 0; d <= Math.SQRT2 * (side - 1); d += 1) {
      plot.append(make("text", { x: x(d), y: 220, "text-anchor": "middle" }, String(d)));
    }
    plot.append(make("text", { x: 190, y: 242, "text-anchor": "middle" }, "distance in patches"));
    cosines.forEach((cosine, i) => {
      const same = Math.floor(i / side) === row || i % side === column;
      plot.append(make("circle", { cx: x(away[i]), cy: y(cosine), r: same ? 5 : 4,
        fill: same ? "var(--mv-orange)" : "none", stroke: same ? "none" : "var(--mv-blue)", "stroke-width": 1.8 }));
    });
    const mean = (test) => {
      const some = cosines.filter((_, i) => test(i));
      return (some.reduce((a, b) => a + b, 0) / some.length).toFixed(2).replace("-", "−");
    };
    const far = mean((i) => away[i] >= 3), next = mean((i) => away[i] === 1);
    told.textContent = `From ${names[chosen]}: cosine ${next} on average with the neighbours, ` +
      `${far} with those 3 or more patches away.`;
    plot.setAttribute("aria-label", `Cosine against distance. ${told.textContent}`);
  }

  stage.append(
    make("div", { class: "mv-bar" }, choice({ legend: "Embeddings", names: tables.map((t) => t.name),
      value: table, change: (i) => { table = i; show(); } })),
    make("div", { class: "mv-side" }, grid.node,
      make("div", {}, plot, make("p", {}, "Filled: same row or column. Open: all others."))),
    told,
  );
  show();
}
