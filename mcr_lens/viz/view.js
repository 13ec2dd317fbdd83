// Draws the views of a page. Every view brings this; the large script that draws the heads (circuitsvis) comes
// packed with one view of the page and serves all. Whatever a token says ends up in textContent or on a
// canvas, never in markup.
(function (packed) {
  "use strict";

  function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  function run(source) {
    const script = document.createElement("script");
    script.textContent = source; // defines window.CircuitsVis
    document.head.append(script);
    script.remove();
  }

  // Once a page, however many views bring it.
  if (packed && !window.CircuitsVis && !window.mcrLensLoading) {
    window.mcrLensLoading = unpacked(packed).then(run);
  }

  const waiting = () => [...document.querySelectorAll(".mcr-heads:not([data-drawn])")];

  function draw(place) {
    const given = JSON.parse(place.dataset.props);
    const size = given.tokens.length;
    // Rows end at the diagonal, in thousandths: a fraction of the bytes.
    const attention = given.heads.map((rows) =>
      rows.map((row) => Array.from({ length: size }, (_, key) => (key < row.length ? row[key] / 1000 : 0)))
    );
    place.dataset.drawn = "";
    place.textContent = "";
    place.id = "mcr-heads-" + Math.random().toString(36).slice(2);
    window.CircuitsVis.render(place.id, window.CircuitsVis.AttentionHeads, {
      attention,
      tokens: given.tokens,
      attentionHeadNames: given.names,
      positiveColor: "#0072B2",
      maxValue: 1,
      minValue: -1,
    });
    if (given.sink < size) markColumns(place, given.sink, size);
  }

  // The share of a canvas that the cells take, found by looking: to their left and below stand axis labels.
  function cells(canvas) {
    const { width, height } = canvas;
    if (!width || !height) return null;
    // Of a copy: a canvas that is read from is drawn more slowly ever after.
    const copy = Object.assign(document.createElement("canvas"), { width, height });
    const pen = copy.getContext("2d", { willReadFrequently: true });
    pen.drawImage(canvas, 0, 0);
    const opaque = (pixels, i) => pixels[4 * i + 3] > 60;
    const across = pen.getImageData(0, Math.floor(height * 0.3), width, 1).data;
    let right = width - 1;
    while (right > 0 && !opaque(across, right)) right--;
    let left = right;
    while (left > 0 && opaque(across, left - 1)) left--;
    if (right - left < width * 0.2) return null;
    const down = pen.getImageData(Math.floor((left + right) / 2), 0, 1, height).data;
    let top = 0;
    while (top < height && !opaque(down, top)) top++;
    let bottom = top;
    while (bottom < height - 1 && opaque(down, bottom + 1)) bottom++;
    return { left: left / width, right: (right + 1) / width, top: top / height, bottom: (bottom + 1) / height };
  }

  function mark(canvas, sink, size) {
    const found = cells(canvas);
    const around = canvas.parentElement;
    if (!found || !around) return;
    let box = around.querySelector(".mcr-column");
    if (!box) {
      box = document.createElement("i");
      box.className = "mcr-column";
      around.append(box);
    }
    const percent = (share) => 100 * share + "%";
    const step = (found.right - found.left) / size;
    box.style.left = percent(found.left + sink * step);
    box.style.width = percent(step);
    box.style.top = percent(found.top);
    box.style.height = percent(found.bottom - found.top);
  }

  function markColumns(place, sink, size) {
    const all = () => place.querySelectorAll("canvas").forEach((canvas) => mark(canvas, sink, size));
    const soon = () => requestAnimationFrame(() => requestAnimationFrame(all));
    const watcher = new ResizeObserver(soon);
    let tries = 0;
    (function begin() {
      const canvases = place.querySelectorAll("canvas");
      if (!canvases.length && tries++ < 50) return void setTimeout(begin, 60);
      canvases.forEach((canvas) => watcher.observe(canvas));
      [0, 150, 600].forEach((later) => setTimeout(soon, later));
    })();
  }

  let left = 60; // times a tenth of a second: an output may be drawn before it is part of the page
  let drawn = 0;
  (function again() {
    if (window.CircuitsVis) waiting().forEach((place) => (draw(place), drawn++));
    if (left-- > 0 && (waiting().length || !drawn)) return void setTimeout(again, 100);
    waiting().forEach((place) => {
      place.textContent =
        "The script that draws the heads is not on this page: run the cell that first showed such a view, " +
        "or show this one with display(HTML(view.html())).";
    });
  })();

  // One box for all hovers, part of the body: no output can cut it.
  if (window.mcrLensTips) return;
  window.mcrLensTips = true;
  const tip = document.createElement("div");
  tip.className = "mcr-tip";
  tip.hidden = true;
  document.addEventListener("scroll", () => (tip.hidden = true), true);
  document.addEventListener("mouseover", (event) => {
    const over = event.target instanceof Element && event.target.closest(".mcr-view [title], .mcr-view [data-tip]");
    tip.hidden = !over;
    if (!over) return;
    if (over.title) {
      over.dataset.tip = over.title; // without this script the browser's own hover shows it
      over.removeAttribute("title");
    }
    tip.textContent = over.dataset.tip;
    if (!tip.isConnected) document.body.append(tip);
    const at = over.getBoundingClientRect();
    const below = at.bottom + 6 + tip.offsetHeight < window.innerHeight;
    const x = Math.min(at.left, window.innerWidth - tip.offsetWidth - 8);
    tip.style.left = Math.max(4, x) + "px";
    tip.style.top = Math.max(4, below ? at.bottom + 6 : at.top - tip.offsetHeight - 6) + "px";
  });
})
