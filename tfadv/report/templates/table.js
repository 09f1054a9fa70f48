"use strict";
const element = (name, properties = {}, ...children) => {
  const created = Object.assign(document.createElement(name), properties);
  created.append(...children);
  return created;
};

// A button in each header of a .sortable table sorts by its column, figures from the largest; empty cells stay last.
// Above a long table, a field hides the rows that do not contain all of its words.
for (const place of document.querySelectorAll(".sortable")) {
  const LONG = 20; // rows
  const table = place.querySelector("table");
  const body = table.tBodies[0];
  if (body.rows.length < 2) continue;
  const text = (row, column) => row.cells[column].textContent.trim();
  const figure = (row, column) => { // "1,234", "12.3 [10.0, 15.0]" and "12.3 ± 2.1"
    const found = /^([-+]?\d[\d,]*(?:\.\d+)?)(?: \[.*\]| ± .*)?$/.exec(text(row, column));
    return found ? Number(found[1].replaceAll(",", "")) : undefined;
  };
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = element("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const numeric = [...body.rows].some((row) => figure(row, column) !== undefined);
      const order = { none: numeric ? "descending" : "ascending", ascending: "descending", descending: "ascending" };
      const next = order[head.getAttribute("aria-sort")];
      const sign = next === "ascending" ? 1 : -1;
      const compare = (a, b) => {
        if (!numeric) return sign * text(a, column).localeCompare(text(b, column), "en", { numeric: true });
        const [first, second] = [figure(a, column), figure(b, column)];
        if (first === undefined || second === undefined) return (first === undefined) - (second === undefined);
        return sign * (first - second);
      };
      heads.forEach((other) => other.setAttribute("aria-sort", other === head ? next : "none"));
      body.append(...[...body.rows].sort(compare));
    });
  });
  if (body.rows.length < LONG) continue;
  const field = element("input", { type: "search", placeholder: "words, such as cifar10 nfgsm", size: 26 });
  const count = element("output", { textContent: `${body.rows.length} rows` });
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/);
    for (const row of body.rows) {
      const content = [...row.cells].map((cell) => cell.textContent.toLowerCase()).join(" ");
      row.hidden = !words.every((word) => content.includes(word));
    }
    const shown = [...body.rows].filter((row) => !row.hidden).length;
    count.textContent = shown === body.rows.length ? `${shown} rows` : `${shown} of ${body.rows.length} rows`;
  });
  place.prepend(element("p", { className: "controls" }, element("label", {}, "Show rows with ", field), count));
}
