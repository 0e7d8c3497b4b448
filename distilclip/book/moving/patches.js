/* Chapter 1: a photograph, cut into patches of a size that the reader chooses. */

/* What a picture of `size` pixels costs in patches of `patch`, in one block of width `dim`. */
function costs(size, patch, dim) {
  const tokens = (size / patch) ** 2;
  return {
    tokens,
    numbers: 3 * patch * patch,
    pairs: tokens * tokens,
    square: 2 * tokens * tokens * dim, // scores, and the mixing of values
    linear: 12 * tokens * dim * dim, // four maps of attention, and the MLP
  };
}

function build(stage, data) {
  const count = (n) => n.toLocaleString("en");
  const short = (n) => {
    const [unit, word] = [[1e9, "billion"], [1e6, "million"], [1e3, "thousand"], [1, ""]]
      .find(([size]) => n >= size) ?? [1, ""];
    return `${(n / unit).toPrecision(3)} ${word}`.trim();
  };
  let place = data.sizes.indexOf(data.first), token = 78, image = null;
  const cut = make("canvas", { width: 448, height: 448, role: "img", style: "cursor: pointer; width: 100%" });
  const one = make("canvas", { width: 96, height: 96, role: "img",
    style: "border: 1px solid var(--mv-line); image-rendering: pixelated; width: 96px" });
  const facts = make("dl"), told = news();
  const size = slider({
    label: "Side of a patch", max: data.sizes.length - 1, value: place,
    say: (i) => `${data.sizes[i]} pixels`, change: (i) => { place = i; token = 0; show(); },
  });
  const which = slider({
    label: "Token", max: 195, value: token, say: (i) => `number ${i}`,
    change: (i) => { token = i; show(); },
  });
  cut.addEventListener("click", (event) => {
    const side = data.size / data.sizes[place], box = cut.getBoundingClientRect();
    const at = (from, start, length) =>
      Math.min(side - 1, Math.max(0, Math.floor((from - start) / length * side)));
    token = at(event.clientY, box.top, box.height) * side + at(event.clientX, box.left, box.width);
    show();
  });

  function row(name, value, share) {
    facts.append(make("dt", {}, name), make("dd", {}, value));
    if (share === undefined) return;
    const bar = make("i");
    bar.style.width = `${100 * Math.min(1, Math.max(0.01, share))}%`;
    facts.append(make("dd", { class: "mv-meter", "aria-hidden": "true" }, bar));
  }

  function show() {
    const patch = data.sizes[place], side = data.size / patch, cost = costs(data.size, patch, data.dim);
    token = Math.min(token, cost.tokens - 1);
    which.limit(cost.tokens - 1);
    which.value = token;
    const left = token % side * patch, top = Math.floor(token / side) * patch;
    if (image) {
      const pen = cut.getContext("2d"), step = 448 / side, gap = Math.min(4, step / 6);
      pen.clearRect(0, 0, 448, 448);
      for (let i = 0; i < cost.tokens; i += 1) {
        const x = i % side, y = Math.floor(i / side);
        pen.drawImage(image, x * patch, y * patch, patch, patch,
          x * step + gap / 2, y * step + gap / 2, step - gap, step - gap);
      }
      pen.lineWidth = 4;
      pen.strokeStyle = "#d55e00";
      pen.strokeRect(2 * left, 2 * top, step, step);
      const large = one.getContext("2d");
      large.imageSmoothingEnabled = false;
      large.drawImage(image, left, top, patch, patch, 0, 0, 96, 96);
    }
    cut.setAttribute("aria-label", `The photograph, cut into ${side} by ${side} patches`);
    one.setAttribute("aria-label", `Patch ${token}, enlarged`);
    facts.replaceChildren();
    row("tokens", count(cost.tokens));
    row("numbers in a flat patch", count(cost.numbers));
    row("pairs that a head compares", short(cost.pairs), Math.log10(cost.pairs) / 7);
    const scale = (n) => (Math.log10(n) - 5) / 7;
    row("multiplications, scores and mixing", short(cost.square), scale(cost.square));
    row("multiplications, all the rest", short(cost.linear), scale(cost.linear));
    told.textContent = `Token ${token} of ${count(cost.tokens)}: row ${top / patch}, column ` +
      `${left / patch}. Comparing tokens takes ${percent(cost.square / (cost.square + cost.linear))} ` +
      `of a block's work.`;
  }

  picture(data.image, (loaded) => { image = loaded; show(); });
  stage.append(
    make("div", { class: "mv-bar" }, size.node, which.node),
    make("div", { class: "mv-side" }, cut, make("div", {}, facts,
      make("div", { style: "align-items: start; display: flex; gap: 0.8rem" }, one, told))),
  );
  show();
}
