// Draws the figures of a report: on light and dark pages, on wide and narrow ones.
(function () {
  "use strict";
  const NARROW = 640; // pixels below which panels stand under each other
  const PANEL = 230;
  const GAP = 88; // ticks, title of the axis, title of the next panel

  const plots = [...document.querySelectorAll(".mcr-plot")];
  const given = new Map(plots.map((plot) => [plot, plot.parentElement.querySelector("script").textContent]));
  const shape = new Map();

  function axes(layout, letter) {
    return Object.keys(layout).filter((key) => new RegExp("^" + letter + "axis\\d*$").test(key));
  }

  // The panels in reading order, as [name of the x axis, name of the y axis].
  function panels(layout) {
    return axes(layout, "y")
      .map((y) => [(layout[y].anchor || "x").replace("x", "xaxis"), y])
      .filter(([x, y]) => layout[x] && layout[x].domain && layout[y].domain)
      .sort((a, b) => layout[b[1]].domain[1] - layout[a[1]].domain[1] || layout[a[0]].domain[0] - layout[b[0]].domain[0]);
  }

  // Every panel as wide as the page, under the one before it, with its title, bar and axis titles.
  function stack(figure) {
    const layout = figure.layout;
    const all = panels(layout);
    if (all.length < 2) return;
    const titles = (layout.annotations || []).filter((note) => note.xref === "paper" && note.yref === "paper");
    const named = (letter, axis) => axes(layout, letter).map((key) => layout[key].title).find((title) => title && title.text);
    const turned = axes(layout, "x").some((key) => layout[key].tickangle);
    const gap = GAP + (turned ? 20 : 0);
    const inner = all.length * PANEL + (all.length - 1) * gap;
    all.forEach(([x, y], i) => {
      const top = 1 - (i * (PANEL + gap)) / inner;
      const bottom = Math.max(0, top - PANEL / inner);
      layout[x].domain = [0, 1];
      layout[y].domain = [bottom, top];
      if (titles.length === all.length) Object.assign(titles[i], { x: 0.5, y: top });
      if (!(layout[x].title && layout[x].title.text)) layout[x].title = named("x");
      if (!(layout[y].title && layout[y].title.text) && named("y")) layout[y].title = named("y");
      figure.data.forEach((trace) => {
        if (!trace.colorbar || (trace.yaxis || "y") !== y.replace("axis", "")) return;
        Object.assign(trace.colorbar, { x: 1.01, y: (top + bottom) / 2, len: PANEL / inner });
      });
    });
    layout.height = inner + 160;
    layout.legend = { ...layout.legend, y: -70 / inner };
  }

  // Legends do not fold by themselves. Only between words: names are escaped, and no entity holds a space.
  function folded(name) {
    const lines = [""];
    name.split(" ").forEach((word) => {
      const last = lines.length - 1;
      if (lines[last] && lines[last].length + word.length > 34) lines.push(word);
      else lines[last] += (lines[last] ? " " : "") + word;
    });
    return lines.join("<br>");
  }

  function styled(figure, narrow) {
    const layout = figure.layout;
    const ink = getComputedStyle(document.body).color;
    layout.font = { ...layout.font, color: ink, family: "system-ui, 'Segoe UI', 'Noto Sans', sans-serif", size: 12.5 };
    (layout.annotations || []).forEach((note) => (note.font = { size: 13.5 }));
    layout.autosize = true;
    // The page has its own space between things.
    const top = layout.margin?.t ?? 60;
    const spared = layout.title && layout.title.text ? 0 : Math.max(0, top - 30);
    layout.margin = { ...layout.margin, t: top - spared };
    layout.height -= spared;
    [...axes(layout, "x"), ...axes(layout, "y")].forEach((key) => {
      if (layout[key].title) layout[key].title = { ...layout[key].title, font: { size: narrow ? 12 : 13 } };
    });
    if (narrow) {
      layout.margin = { ...layout.margin, l: 46, r: 8 };
      stack(figure);
      figure.data.forEach((trace) => trace.name && (trace.name = folded(trace.name)));
      layout.legend = { ...layout.legend, font: { size: 11.5 } };
      if (layout.title && layout.title.text) layout.title.font = { size: 12 };
    }
  }

  async function draw(plot) {
    const narrow = plot.clientWidth < NARROW;
    const figure = JSON.parse(given.get(plot));
    styled(figure, narrow);
    plot.querySelector(".waiting")?.remove();
    plot.style.height = figure.layout.height + "px";
    // Where nothing can hover, the bar would stand over a title all the time.
    const bar = !narrow && window.matchMedia("(hover: hover)").matches && "hover";
    const config = { responsive: true, displaylogo: false, displayModeBar: bar };
    await window.Plotly.react(plot, figure.data, figure.layout, config);
    shape.set(plot, narrow);
    // A long legend takes its room from the panels: give it back.
    const full = plot._fullLayout;
    const wanted = figure.layout.height - (figure.layout.margin?.t ?? 60) - (figure.layout.margin?.b ?? 60);
    const lost = Math.min(900, Math.round(wanted - full._size.h));
    if (lost > 8) {
      plot.style.height = figure.layout.height + lost + "px";
      await window.Plotly.relayout(plot, { height: figure.layout.height + lost });
    }
    plot.dataset.drawn = "";
  }

  // One figure that cannot be drawn is no reason to leave out the next.
  async function tryToDraw(plot) {
    try {
      await draw(plot);
    } catch (error) {
      plot.textContent = "This figure could not be drawn: " + error.message;
      console.error(error);
    }
  }

  const visible = (plot) => plot.clientWidth > 0;

  async function drawAll() {
    for (const plot of plots) {
      if (visible(plot) && shape.get(plot) === undefined) await tryToDraw(plot);
    }
  }

  document.querySelectorAll("details").forEach((more) => more.addEventListener("toggle", drawAll));
  window.addEventListener("resize", async () => {
    for (const plot of plots) {
      if (shape.has(plot) && visible(plot) && shape.get(plot) !== plot.clientWidth < NARROW) await tryToDraw(plot);
    }
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", async () => {
    for (const plot of plots) if (shape.has(plot) && visible(plot)) await tryToDraw(plot);
  });
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((more) => (more.open = true));
  });
  drawAll();
})();
