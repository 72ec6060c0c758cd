// The page reads in full without this: sorting by a column, hiding rows, and unfolding everything for paper.
const worth = (cell) => {
  const text = cell.dataset.value ?? "";
  return text === "" || Number.isNaN(Number(text)) ? text : Number(text);
};
const compare = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });

for (const head of document.querySelectorAll("table:not(.words) thead th")) {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  head.append(button);
  button.onclick = () => {
    const up = head.getAttribute("aria-sort") === "ascending" || (!head.ariaSort && head.matches(".number"));
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "descending" : "ascending");
    const body = head.closest("table").tBodies[0];
    // Empty cells stay last whichever way the column is sorted.
    const rows = [...body.rows].map((row) => [worth(row.cells[head.cellIndex]), row]);
    rows.sort(([a], [b]) => (a === "") - (b === "") || (up ? compare(b, a) : compare(a, b)));
    body.append(...rows.map(([, row]) => row));
  };
}

const filters = document.getElementById("filters");
filters.hidden = !filters.querySelector("select");
filters.onchange = () => {
  const chosen = [...filters.querySelectorAll("select")].filter((one) => one.value);
  for (const row of document.querySelectorAll("tr[data-source]"))
    row.hidden = chosen.some(({ value, dataset }) => (row.dataset[dataset.facet] ?? value) !== value);
};

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
