// Shows what the mark nearest to the pointer (or finger) stands for. Everything else of the page works without this.
"use strict";
const hint = document.getElementById("hint");
for (const plot of document.querySelectorAll(".plot")) {
  const svg = plot.querySelector("svg"), near = svg.querySelector(".near");
  const marks = JSON.parse(plot.querySelector("script.hover").textContent);
  const hide = () => { hint.style.display = "none"; near.style.visibility = "hidden"; };
  const show = (event) => {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    let best = -1, least = 30 * 30;
    for (let i = 0; i < marks.x.length; i++) {
      const distance = (marks.x[i] - x) ** 2 + (marks.y[i] - y) ** 2;
      if (distance < least) { least = distance; best = i; }
    }
    if (best < 0) { hide(); return; }
    near.setAttribute("cx", marks.x[best]);
    near.setAttribute("cy", marks.y[best]);
    near.style.visibility = "visible";
    hint.textContent = marks.t[best];
    hint.style.display = "block";
    const left = box.left + window.scrollX + marks.x[best] / scale + 12;
    hint.style.left = Math.max(0, Math.min(left, document.documentElement.clientWidth - hint.offsetWidth - 8)) + "px";
    hint.style.top = box.top + window.scrollY + marks.y[best] / scale + 12 + "px";
  };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", hide);
}
