// Shows the values under the pointer beside a chart's title. Everything else works without scripts.
for (const svg of document.querySelectorAll(".chart svg")) {
  const { left, right, last } = svg.dataset, cursor = svg.querySelector(".cursor");
  const output = svg.parentElement.querySelector("output");
  const curves = [...svg.querySelectorAll("polyline")].map(line => ({
    steps: line.dataset.steps.split(" ").map(Number), values: line.dataset.values.split(" "),
  }));
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const step = (x - left) / (right - left) * last;
    const near = curves.map(({ steps, values }) => {
      const i = steps.reduce((best, s, j) => Math.abs(s - step) < Math.abs(steps[best] - step) ? j : best, 0);
      return [steps[i], values[i]];
    });
    const at = near.reduce((a, b) => Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a)[0];
    const place = Number(left) + at / last * (right - left);
    cursor.setAttribute("x1", place); cursor.setAttribute("x2", place);
    cursor.style.visibility = "visible";
    output.textContent = `step ${at}: ` + near.map(pair => pair[1]).join(" · ");
  });
  svg.addEventListener("pointerleave", () => { cursor.style.visibility = "hidden"; output.textContent = ""; });
}
