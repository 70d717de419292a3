(function () {
  "use strict";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const figures = JSON.parse(document.getElementById("figures").textContent);

  // Colours of text and lines follow the page; those of marks are readable in both modes.
  function colours() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    return { text: read("--text"), line: read("--line"), panel: read("--panel") };
  }

  function themed() {
    const { text, line, panel } = colours();
    const layout = {
      "font.color": text, "font.family": getComputedStyle(document.body).fontFamily, "font.size": 13,
      "hoverlabel.bgcolor": panel, "hoverlabel.bordercolor": line, "hoverlabel.font.color": text,
    };
    for (const axis of ["xaxis", "yaxis"]) {
      layout[axis + ".gridcolor"] = line;
      layout[axis + ".linecolor"] = line;
      layout[axis + ".zerolinecolor"] = line;
    }
    return layout;
  }

  function nested(flat, target) {
    for (const [path, value] of Object.entries(flat)) {
      const keys = path.split(".");
      const last = keys.pop();
      let place = target;
      for (const key of keys) place = place[key] = place[key] || {};
      place[last] = value;
    }
    return target;
  }

  const places = figures.map((one) => document.querySelector('[data-chart="' + one.key + '"]'));
  figures.forEach((one, index) => {
    const options = { responsive: true, displayModeBar: false, showTips: false };
    window.Plotly.newPlot(places[index], one.data, nested(themed(), one.layout), options);
  });
  dark.addEventListener("change", () => places.forEach((place) => window.Plotly.relayout(place, themed())));
})();
