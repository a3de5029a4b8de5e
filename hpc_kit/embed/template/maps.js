// Maps of learned features: one canvas a model, coloured by a chosen value, with a pointer that names a structure in all.
"use strict";
for (const root of document.querySelectorAll(".feature-maps")) {
  const data = JSON.parse(root.querySelector("script.map").textContent);
  const n = data.ids.length, size = 300, margin = 12, box = document.getElementById("hint");
  const decode = (text, kind) => new kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const maps = data.models.map((m) => Object.fromEntries(Object.entries(m.maps).map(([k, v]) => [k, decode(v, Int16Array)])));
  const own = (column) => ({ ...column, values: decode(column.values, Float32Array) });
  const shared = data.columns.map(own), columns = data.models.map((m) => m.columns.map(own).concat(shared));
  const names = [...new Set(columns.flat().map((c) => c.name))];
  const kinds = [...new Set(maps.flatMap((m) => Object.keys(m)))].sort((a, b) => b.startsWith("umap") - a.startsWith("umap") || (a < b ? -1 : 1));
  const chosen = { map: kinds[0], colour: names[0] }, turn = { yaw: 0.6, pitch: 0.4 };
  const stops = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  const shades = Array.from({ length: 64 }, (_, i) => {
    const at = (i / 63) * 4, low = Math.min(3, Math.floor(at)), share = at - low;
    return "rgb(" + stops[low].map((c, k) => Math.round(c + share * (stops[low + 1][k] - c))).join(",") + ")";
  });
  const parts = ["#0072b2", "#e69f00", "#d55e00", "#999999"];
  const text = (value, unit) => value.toPrecision(4) + (unit ? " " + unit : "");
  const column = (model) => columns[model].find((c) => c.name === chosen.colour);
  const range = () => {
    const all = columns.flatMap((_, m) => Array.from((column(m) || { values: [] }).values)).filter(Number.isFinite).sort((a, b) => a - b);
    return all.length ? [all[Math.floor(0.01 * all.length)], all[Math.ceil(0.99 * (all.length - 1))]] : [0, 1];
  };
  const panels = data.models.map((model, number) => {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption"), plot = document.createElement("div");
    plot.style.cssText = "position:relative;width:" + size + "px;height:" + size + "px;border:1px solid var(--line);touch-action:none";
    const pens = [0, 1].map(() => {
      const canvas = document.createElement("canvas"), ratio = window.devicePixelRatio || 1;
      canvas.width = canvas.height = size * ratio;
      canvas.style.cssText = "position:absolute;left:0;top:0;width:100%;height:100%";
      plot.append(canvas);
      const pen = canvas.getContext("2d");
      pen.scale(ratio, ratio);
      return pen;
    });
    figure.className = "card";
    figure.style.width = size + "px";
    figure.append(plot, caption);
    root.querySelector(".cards").append(figure);
    const panel = { number, model, plot, caption, pens, x: new Float32Array(n), y: new Float32Array(n), has: false };
    plot.addEventListener("pointermove", (event) => {
      if (event.buttons && chosen.map.endsWith("3")) {
        turn.yaw += event.movementX / 90;
        turn.pitch = Math.max(-1.5, Math.min(1.5, turn.pitch + event.movementY / 90));
        draw();
      }
      point(panel, event);
    });
    plot.addEventListener("pointerdown", (event) => point(panel, event));
    plot.addEventListener("pointerleave", () => { box.style.display = "none"; mark(-1); });
    return panel;
  });
  const place = (panel) => {
    const at = maps[panel.number][chosen.map], solid = chosen.map.endsWith("3");
    panel.has = Boolean(at);
    if (!at) return null;
    const scale = (size / 2 - margin) / 32767 / (solid ? 1.3 : 1), depth = solid ? new Float32Array(n) : null;
    const [cy, sy, cp, sp] = [Math.cos(turn.yaw), Math.sin(turn.yaw), Math.cos(turn.pitch), Math.sin(turn.pitch)];
    for (let i = 0; i < n; i++) {
      let u = at[solid ? 3 * i : 2 * i], v = at[solid ? 3 * i + 1 : 2 * i + 1];
      if (solid) {
        const w = at[3 * i + 2], across = cy * u + sy * w, away = cy * w - sy * u;
        u = across;
        depth[i] = cp * away + sp * v;
        v = cp * v - sp * away;
      }
      panel.x[i] = size / 2 + scale * u;
      panel.y[i] = size / 2 - scale * v;
    }
    return depth && Array.from(depth.keys()).sort((a, b) => depth[b] - depth[a]);
  };
  const draw = () => {
    const [low, high] = range(), wide = n > 4000 ? 2 : n > 800 ? 3 : 5;
    for (const panel of panels) {
      const [pen] = panel.pens, order = place(panel), by = column(panel.number), trust = panel.model.trust[chosen.map];
      pen.clearRect(0, 0, size, size);
      panel.caption.textContent = panel.model.label + (trust === undefined ? "" : ", trustworthiness " + trust.toFixed(3))
        + (panel.has ? "" : ": has no such map") + (by ? "" : ": has no " + chosen.colour);
      if (!panel.has) continue;
      for (let k = 0; k < n; k++) {
        const i = order ? order[k] : k, value = by ? by.values[i] : NaN;
        pen.fillStyle = !Number.isFinite(value) ? "#999999" : by.names ? parts[value]
          : shades[Math.max(0, Math.min(63, Math.round(63 * (value - low) / (high - low || 1))))];
        pen.fillRect(Math.round(panel.x[i] - wide / 2), Math.round(panel.y[i] - wide / 2), wide, wide);
      }
    }
    const scale = root.querySelector(".scale"), first = columns.flat().find((c) => c.name === chosen.colour);
    scale.textContent = "";
    const key = (style, label) => {
      const span = document.createElement("span"), swatch = document.createElement("i");
      swatch.style.cssText = "display:inline-block;height:.8rem;margin:0 .3rem 0 .9rem;vertical-align:-1px;" + style;
      span.append(swatch, label);
      scale.append(span);
    };
    if (first.names) first.names.forEach((name, i) => key("width:.8rem;background:" + parts[i], name));
    else key("width:9rem;background:linear-gradient(90deg," + shades.join(",") + ")", "from " + text(low, first.unit) + " to " + text(high, first.unit) + " (1 % beyond each end have its colour)");
    root.dataset.shown = chosen.map + "|" + chosen.colour;
  };
  const mark = (i) => {
    for (const panel of panels) {
      const pen = panel.pens[1];
      pen.clearRect(0, 0, size, size);
      if (i < 0 || !panel.has) continue;
      pen.strokeStyle = getComputedStyle(root).color;
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(panel.x[i], panel.y[i], 6, 0, 7);
      pen.stroke();
    }
  };
  const point = (panel, event) => {
    const frame = panel.plot.getBoundingClientRect(), x = event.clientX - frame.left, y = event.clientY - frame.top;
    let best = -1, least = 144;
    for (let i = 0; panel.has && i < n; i++) {
      const distance = (panel.x[i] - x) ** 2 + (panel.y[i] - y) ** 2;
      if (distance < least) { least = distance; best = i; }
    }
    mark(best);
    box.style.display = best < 0 ? "none" : "block";
    if (best < 0) return;
    root.dataset.pointed = data.ids[best];
    box.textContent = data.ids[best];
    for (const by of columns[panel.number].filter((c) => c.name === chosen.colour || !shared.some((s) => s.name === c.name))) {
      const value = by.values[best], line = document.createElement("div");
      line.textContent = by.name + ": " + (!Number.isFinite(value) ? "-" : by.names ? by.names[value] : text(value, by.unit));
      box.append(line);
    }
    if (data.drawings && data.drawings[best]) box.append(sketch(data.drawings[best]));
    box.style.left = Math.max(0, Math.min(frame.left + window.scrollX + x + 14, document.documentElement.clientWidth - box.offsetWidth - 8)) + "px";
    box.style.top = frame.top + window.scrollY + y + 14 + "px";
  };
  const sketch = ([labels, places, bonds]) => {
    const canvas = document.createElement("canvas"), pen = canvas.getContext("2d"), [wide, high] = [170, 120];
    canvas.width = 2 * wide;
    canvas.height = 2 * high;
    canvas.style.cssText = "display:block;width:" + wide + "px;height:" + high + "px";
    pen.scale(2, 2);
    pen.fillStyle = "#ffffff";
    pen.fillRect(0, 0, wide, high);
    const xs = labels.map((_, i) => places[2 * i]), ys = labels.map((_, i) => places[2 * i + 1]);
    const middle = (v) => (Math.min(...v) + Math.max(...v)) / 2, span = (v) => Math.max(...v) - Math.min(...v);
    const scale = Math.min((wide - 50) / (span(xs) || 1), (high - 30) / (span(ys) || 1), 0.25);
    const at = (i) => [wide / 2 + scale * (xs[i] - middle(xs)), high / 2 - scale * (ys[i] - middle(ys))];
    pen.strokeStyle = "#222222";
    for (let b = 0; b < bonds.length; b += 3) {
      const [x0, y0] = at(bonds[b]), [x1, y1] = at(bonds[b + 1]), order = bonds[b + 2], long = Math.hypot(x1 - x0, y1 - y0) || 1;
      const lines = order === 1 ? [0] : order === 3 ? [-3, 0, 3] : [-1.7, 1.7];
      for (const off of lines) {
        const [dx, dy] = [(-off * (y1 - y0)) / long, (off * (x1 - x0)) / long];
        pen.setLineDash(order === 1.5 && off > 0 ? [3, 2] : []);
        pen.beginPath();
        pen.moveTo(x0 + dx, y0 + dy);
        pen.lineTo(x1 + dx, y1 + dy);
        pen.stroke();
      }
    }
    pen.setLineDash([]);
    pen.font = "12px sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    labels.forEach((label, i) => {
      if (!label) return;
      const [x, y] = at(i), half = pen.measureText(label).width / 2 + 1;
      pen.fillStyle = "#ffffff";
      pen.fillRect(x - half, y - 7, 2 * half, 14);
      pen.fillStyle = label[0] === "N" ? "#1f4fd8" : label[0] === "O" ? "#c81e1e" : "#222222";
      pen.fillText(label, x, y);
    });
    return canvas;
  };
  const choose = (name, options) => {
    const label = document.createElement("label"), select = document.createElement("select");
    for (const option of options) select.add(new Option(option));
    select.name = name;
    select.addEventListener("change", () => { chosen[name] = select.value; mark(-1); draw(); });
    label.append(name + " ", select);
    root.querySelector(".choices").append(label, " ");
  };
  choose("map", kinds);
  choose("colour", names);
  draw();
}
