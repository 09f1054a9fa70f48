// Shows the accuracies at the chosen eps, and the gallery of the model that the controls select.  Uses table.js.
const percent = (share) => `${(100 * share).toFixed(0)}%`;

// ---- accuracy over eps: the accuracies at the eps of the slider, which follows the pointer over the plot
for (const chart of document.querySelectorAll(".chart")) {
  const [sizes, left] = [JSON.parse(chart.dataset.sizes), JSON.parse(chart.dataset.left)];
  const [plot, slider] = [chart.querySelector(".plot"), chart.querySelector("input")];
  const cells = [...chart.querySelectorAll("td[data-texts]")].map((cell) => [cell, JSON.parse(cell.dataset.texts)]);
  const show = () => {
    const i = Number(slider.value);
    cells.forEach(([cell, texts]) => { cell.textContent = texts[i]; });
    chart.querySelectorAll(".size, output").forEach((each) => { each.textContent = sizes[i]; });
    chart.querySelector(".cursor").style.left = `${100 * left[i]}%`;
    const rows = [...chart.querySelectorAll("tbody tr")];
    const spoken = rows.map((row) => [...row.cells].map((cell) => cell.textContent).join(" "));
    slider.setAttribute("aria-valuetext", `${sizes[i]}: ${spoken.join("; ")}`);
  };
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const distance = left.map((share) => Math.abs(share - (event.clientX - box.left) / box.width));
    slider.value = distance.indexOf(Math.min(...distance));
    show();
  });
  slider.addEventListener("input", show);
  show();
}

// ---- print: what is folded is printed as well
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  folded.forEach((each) => { each.open = true; });
});
addEventListener("afterprint", () => folded.forEach((each) => { each.open = false; }));

// ---- gallery: images, perturbations, and the accuracy of each class
const gallery = async (data) => {
  const FEW = 6; // images shown at first
  const MOST = 12; // classes with a bar; names of more classes do not fit beside a confusion matrix either
  const form = document.getElementById("controls");
  const { model, defense, eps, class: shownClass } = form.elements;
  const more = document.getElementById("more");
  const [height, width] = data.size;
  const split = (name) => [name.slice(0, name.indexOf("/")), name.slice(name.indexOf("/") + 1)];
  const fill = (select, options) => {
    const kept = select.value;
    select.replaceChildren(...options.map(([value, text]) => element("option", { value, textContent: text })));
    if (options.some(([value]) => value === kept)) select.value = kept;
  };

  // A strip of images that lie side by side, as one canvas.
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
    canvas.getContext("2d").putImageData(paint, 0, 0);
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

  // At which of the evaluated eps an image is fooled: {first: its index or Infinity, text}.
  const fooled = (selected, i) => {
    const label = data.labels[i];
    if (selected.classes[0][i] !== label) return { first: Infinity, text: "misclassified without an attack" };
    const at = data.epsilons.map((_, k) => k).filter((k) => selected.classes[k + 1][i] !== label);
    if (!at.length) return { first: Infinity, text: `not fooled up to eps ${data.sizes.at(-1)}` };
    const onwards = at.length === data.epsilons.length - at[0];
    const text = onwards ? `from eps ${data.sizes[at[0]]}` : `at eps ${at.map((k) => data.sizes[k]).join(", ")}`;
    return { first: at[0], text: `fooled ${text}` };
  };

  const confusion = (matrix, title) => {
    const head = element("tr", {}, element("td"), ...data.classes.map((name) => element("th", { scope: "col", textContent: name })));
    const rows = matrix.map((row, i) => {
      const total = Math.max(row.reduce((a, b) => a + b, 0), 1);
      const cells = row.map((n, j) => {
        const cell = element("td", { textContent: n, title: `${n} images of ${data.classes[i]} as ${data.classes[j]}` });
        cell.style.setProperty("--share", `${(45 * n) / total}%`);
        cell.style.setProperty("--hue", i === j ? "var(--good)" : "var(--bad)");
        return cell;
      });
      return element("tr", {}, element("th", { scope: "row", textContent: data.classes[i] }), ...cells);
    });
    const table = element("table", { className: data.classes.length > MOST ? "confusion many" : "confusion" },
      element("thead", {}, head), element("tbody", {}, ...rows));
    table.setAttribute("aria-label", title);
    const caption = element("p", { className: "caption", textContent: title });
    const scroll = element("div", { className: "scroll", tabIndex: 0 }, table);
    scroll.setAttribute("role", "group");
    scroll.setAttribute("aria-label", title);
    return element("div", {}, caption, scroll);
  };

  // The share of each class that is predicted as itself, clean and attacked; where there are many, of the worst ones.
  const classBars = (clean, attacked) => {
    const shares = (matrix) => matrix.map((row, i) => row[i] / row.reduce((a, b) => a + b, 0));
    const [before, after] = [shares(clean), shares(attacked)];
    let order = data.classes.map((_, i) => i);
    if (order.length > MOST) order = order.filter((i) => after[i] >= 0).sort((a, b) => after[a] - after[b]).slice(0, MOST);
    const bar = (share) => {
      const cell = element("td", { className: "figure bar", textContent: share >= 0 ? percent(share) : "–" });
      cell.style.setProperty("--share", `${100 * (share || 0)}%`);
      return cell;
    };
    const head = element("tr", {}, element("th", { scope: "col", textContent: "class" }),
      ...["clean", "attacked"].map((text) => element("th", { scope: "col", className: "figure", textContent: text })));
    const rows = order.map((i) =>
      element("tr", {}, element("th", { scope: "row", textContent: data.classes[i] }), bar(before[i]), bar(after[i])));
    const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
    table.setAttribute("aria-labelledby", "classes-caption");
    return table;
  };

  let latest = 0; // a selection that was made while images were decoded replaces the earlier one
  const show = async () => {
    const own = ++latest;
    const selected = data.models[`${model.value}/${defense.value}`];
    const level = Number(eps.value);
    const [largest, size] = [data.epsilons[level], data.sizes[level]];
    document.getElementById("size").textContent = size;
    eps.setAttribute("aria-valuetext", size);
    const [clean, attacked] = [await pixels(data.clean), await pixels(selected.adversarial[level])];
    if (own !== latest) return;
    const rank = (i) => fooled(selected, i).first;
    const images = data.labels.map((_, i) => i)
      .filter((i) => shownClass.value === "" || Number(shownClass.value) === data.labels[i])
      .sort((a, b) => (rank(a) === rank(b) ? a - b : rank(a) - rank(b)));
    const all = more.dataset.all === "yes" || images.length <= FEW;
    const items = images.slice(0, all ? undefined : FEW).map((i) => {
      const label = data.labels[i];
      const [before, after] = [clean, attacked].map((strip) => strip.getImageData(i * width, 0, width, height));
      const row = element("div", { className: "row" }, picture(before, "clean"),
        picture(difference(before, after, largest), `change × ${(0.5 / largest).toPrecision(2)}`), picture(after, "attacked"));
      const lines = [["clean:", 0], ["attacked:", level + 1]].map(([words, k]) =>
        prediction(words, selected.classes[k][i], selected.confidences[k][i], label));
      const verdict = element("b", { textContent: fooled(selected, i).text });
      return element("li", {}, row, element("p", {}, verdict, element("br"), `true class ${data.classes[label]} – `, lines[0], "; ", lines[1]));
    });
    document.getElementById("gallery").replaceChildren(...items);
    more.hidden = images.length <= FEW;
    more.textContent = all ? `Show the first ${FEW} only` : `Show all ${images.length} images`;
    const count = images.filter((i) => selected.classes[0][i] === data.labels[i] && selected.classes[level + 1][i] !== data.labels[i]).length;
    document.getElementById("summary").textContent =
      `${model.value}, ${defense.value}: ${data.attack} at eps ${size} fools the model on ${count} of these ${images.length} test images.`;
    const [first, second] = [selected.confusion[0], selected.confusion[level + 1]];
    const many = data.classes.length > MOST ? `, the ${MOST} classes with the fewest` : "";
    document.getElementById("classes-caption").textContent =
      `${model.value}, ${defense.value}: the share of the test images of each class that is predicted as it, clean and ` +
      `under ${data.attack} at eps ${size}${many}. The controls above select the model and eps.`;
    document.getElementById("bars").replaceChildren(classBars(first, second));
    document.getElementById("confusion").replaceChildren(
      confusion(first, "Clean images. Rows: true class; columns: predicted class"),
      confusion(second, `Attacked images, eps ${size}`));
  };

  const names = Object.keys(data.models).map(split);
  const fillDefenses = () =>
    fill(defense, names.filter(([name]) => name === model.value).map(([, name]) => [name, name]));
  fill(model, [...new Set(names.map(([name]) => name))].map((name) => [name, name]));
  fillDefenses();
  eps.max = data.epsilons.length - 1;
  eps.value = eps.max;
  const present = [...new Set(data.labels)];
  fill(shownClass, [["", "all"], ...present.map((label) => [String(label), data.classes[label]])]);
  form.addEventListener("input", () => { fillDefenses(); show(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    more.dataset.all = more.dataset.all === "yes" ? "" : "yes";
    show();
  });
  await show();
};
const galleryData = document.getElementById("gallery-data");
if (galleryData) gallery(JSON.parse(galleryData.textContent));
