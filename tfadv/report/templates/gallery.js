"use strict";
// Shows the images, the perturbations and the confusion matrices of the model that the controls select.
(async () => {
  const data = JSON.parse(document.getElementById("gallery-data").textContent);
  const form = document.getElementById("controls");
  const { model, defense, eps, class: shownClass } = form.elements;
  const [height, width] = data.size;
  const count = data.labels.length;

  const element = (name, properties = {}, ...children) => {
    const created = Object.assign(document.createElement(name), properties);
    created.append(...children);
    return created;
  };
  const fill = (select, options) => {
    const kept = select.value;
    select.replaceChildren(...options.map(([value, text]) => element("option", { value, textContent: text })));
    if (options.some(([value]) => value === kept)) select.value = kept;
  };
  const percent = (share) => `${(100 * share).toFixed(0)}%`;
  const split = (name) => [name.slice(0, name.indexOf("/")), name.slice(name.indexOf("/") + 1)];

  // A strip of images that lie side by side, as one array of RGBA values.
  const strips = new Map();
  const pixels = async (uri) => {
    if (!strips.has(uri)) {
      const image = new Image();
      image.src = uri;
      await image.decode();
      const canvas = element("canvas", { width: image.width, height: image.height });
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      strips.set(uri, context);
    }
    return strips.get(uri);
  };
  const picture = (paint, label) => {
    const canvas = element("canvas", { width, height });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label);
    const context = canvas.getContext("2d");
    context.putImageData(paint, 0, 0);
    return element("div", {}, canvas, label);
  };
  const difference = (clean, attacked, size) => {
    const result = new ImageData(width, height);
    for (let i = 0; i < result.data.length; i++) {
      const change = (attacked.data[i] - clean.data[i]) / (255 * size);
      result.data[i] = i % 4 === 3 ? 255 : 127.5 * (1 + change);
    }
    return result;
  };
  const prediction = (words, predicted, confidence, label) =>
    element("span", { className: predicted === label ? "right" : "wrong" },
      `${words} ${data.classes[predicted]} (${percent(confidence)}) ${predicted === label ? "✓" : "✗"}`);

  const confusion = (matrix, title, attacked) => {
    const many = data.classes.length > 12;
    const head = element("tr", {}, element("th"), ...data.classes.map((name) => element("th", { scope: "col", textContent: name })));
    const rows = matrix.map((row, i) => {
      const total = Math.max(row.reduce((a, b) => a + b, 0), 1);
      const cells = row.map((n, j) => {
        const cell = element("td", { textContent: n, title: `${n} images of ${data.classes[i]} as ${data.classes[j]}` });
        cell.style.setProperty("--share", `${(85 * n) / total}%`);
        cell.style.setProperty("--hue", i === j ? "var(--good)" : "var(--bad)");
        return cell;
      });
      return element("tr", {}, element("th", { scope: "row", textContent: data.classes[i] }), ...cells);
    });
    const table = element("table", { className: many ? "confusion many" : "confusion" },
      element("thead", {}, head), element("tbody", {}, ...rows));
    table.setAttribute("aria-label", title);
    const caption = element("p", { className: "caption", textContent: title });
    return element("div", { className: "table" }, caption, element("div", { className: "scroll" }, table));
  };

  let latest = 0; // a selection that was made while images were decoded replaces the earlier one
  const show = async () => {
    const own = ++latest;
    const selected = data.models[`${model.value}/${defense.value}`];
    const level = Number(eps.value);
    const size = data.epsilons[level];
    const [clean, attacked] = [await pixels(data.clean), await pixels(selected.adversarial[level])];
    if (own !== latest) return;
    const items = [];
    for (let i = 0; i < count; i++) {
      const label = data.labels[i];
      if (shownClass.value !== "" && Number(shownClass.value) !== label) continue;
      const [before, after] = [clean, attacked].map((strip) => strip.getImageData(i * width, 0, width, height));
      const row = element("div", { className: "row" }, picture(before, "clean"),
        picture(difference(before, after, size), `perturbation × ${(0.5 / size).toPrecision(2)}`), picture(after, "attacked"));
      const lines = [["clean:", 0], ["attacked:", level + 1]].map(([words, k]) =>
        prediction(words, selected.classes[k][i], selected.confidences[k][i], label));
      items.push(element("li", {}, row, element("p", {}, `true class ${data.classes[label]} – `, lines[0], "; ", lines[1])));
    }
    document.getElementById("gallery").replaceChildren(...items);
    const correct = (matrix) => matrix.reduce((sum, row, i) => sum + row[i], 0);
    const [first, second] = [selected.confusion[0], selected.confusion[level + 1]];
    const total = first.flat().reduce((a, b) => a + b, 0);
    document.getElementById("summary").textContent =
      `${model.value}, ${defense.value}: of ${total} test images, ${percent(correct(first) / total)} are classified correctly, ` +
      `and ${percent(correct(second) / total)} after the attack (${data.attack}, eps ${size}).`;
    document.getElementById("confusion").replaceChildren(
      confusion(first, "Clean images. Rows: true class; columns: predicted class"),
      confusion(second, `Attacked images, eps ${size}`));
  };

  const names = Object.keys(data.models).map(split);
  const fillDefenses = () =>
    fill(defense, names.filter(([name]) => name === model.value).map(([, name]) => [name, name]));
  fill(model, [...new Set(names.map(([name]) => name))].map((name) => [name, name]));
  fillDefenses();
  fill(eps, data.epsilons.map((size, i) => [String(i), String(size)]));
  eps.value = String(data.epsilons.length - 1);
  const present = [...new Set(data.labels)];
  fill(shownClass, [["", "all"], ...present.map((label) => [String(label), data.classes[label]])]);
  form.addEventListener("change", () => { fillDefenses(); show(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  await show();
})();
