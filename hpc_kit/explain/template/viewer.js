// The gallery of explained structures: which model's map is shown, and a view in three dimensions by 3Dmol.js.
"use strict";
for (const root of document.querySelectorAll(".explained")) {
  const data = JSON.parse(root.querySelector("script.structures").textContent);
  const about = root.querySelector(".about"), place = root.querySelector(".view");
  const chosen = { model: data.models[0], method: data.methods[0], number: 0 };
  let viewer = null;
  const colour = (value, limit) => {
    const share = limit > 0 ? Math.max(-1, Math.min(1, value / limit)) : 0;
    const end = share > 0 ? [199, 28, 43] : [33, 102, 171];
    return "#" + end.map((e) => Math.round(247 + Math.abs(share) * (e - 247)).toString(16).padStart(2, "0")).join("");
  };
  const show = () => {
    const structure = data.structures[chosen.number], model = structure.models[chosen.model];
    root.dataset.shown = structure.id;
    for (const picture of root.querySelectorAll("img")) {
      picture.hidden = picture.dataset.key !== chosen.model + "|" + chosen.method;
    }
    viewer = viewer || $3Dmol.createViewer(place, { backgroundColor: "white" });
    viewer.removeAllModels();
    viewer.removeAllShapes();
    viewer.removeAllLabels();
    if (!model) {
      about.textContent = structure.id + ": " + chosen.model + " does not explain this structure.";
      viewer.render();
      return;
    }
    const values = model.maps[chosen.method], limit = model.limits[chosen.method];
    const bonds = structure.symbols.map(() => []);
    for (const [i, j] of structure.bonds) { bonds[i].push(j); bonds[j].push(i); }
    const drawn = viewer.addModel();
    drawn.addAtoms(structure.positions.map(([x, y, z], i) => ({
      elem: structure.symbols[i], x, y, z, serial: i, index: i, bonds: bonds[i], bondOrder: bonds[i].map(() => 1),
    })));
    values.forEach((value, i) => {
      const shade = colour(value, limit);
      drawn.setStyle({ serial: i }, { sphere: { scale: 0.3, color: shade }, stick: { radius: 0.13, color: shade } });
    });
    if (structure.symbols.length <= 60) {
      structure.symbols.forEach((symbol, i) => viewer.addLabel(symbol, {
        position: { x: structure.positions[i][0], y: structure.positions[i][1], z: structure.positions[i][2] },
        fontSize: 11, fontColor: "black", showBackground: false, alignment: "center", inFront: true,
      }));
    }
    if (structure.cell) {
      const corner = (n) => [0, 1, 2].map((x) => [0, 1, 2].reduce((s, a) => s + ((n >> a) & 1) * structure.cell[a][x], 0));
      for (let n = 0; n < 8; n++) for (let a = 0; a < 3; a++) if (!((n >> a) & 1)) {
        const [from, to] = [corner(n), corner(n | (1 << a))].map(([x, y, z]) => ({ x, y, z }));
        viewer.addLine({ start: from, end: to, color: "gray" });
      }
    }
    viewer.zoomTo();
    viewer.render();
    const low = data.signed.includes(chosen.method) ? (-limit).toPrecision(3) + " (blue), 0 (white), " : "0 (white), ";
    about.textContent = structure.id + ", " + chosen.model + ", " + chosen.method + ": from " + low + limit.toPrecision(3)
      + " (red) " + data.units[chosen.method].replace("Angstrom", "Å");
  };
  const choose = (name, options) => {
    const label = document.createElement("label"), select = document.createElement("select");
    for (const option of options) select.add(new Option(option));
    select.name = name;
    select.addEventListener("change", () => { chosen[name] = select.value; show(); });
    label.append(name + " ", select);
    root.querySelector(".choices").append(label, " ");
  };
  choose("model", data.models);
  choose("method", data.methods);
  for (const card of root.querySelectorAll(".card")) {
    card.querySelector("button").addEventListener("click", () => {
      chosen.number = Number(card.dataset.number);
      show();
      place.scrollIntoView({ block: "nearest" });
    });
  }
  show();
}
