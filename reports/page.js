// The page reads in full without this: sorting by a column, hiding rows, enlarging figures, unfolding all for paper.
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
  for (const table of document.querySelectorAll("table"))
    table.classList.toggle("emptied", table.tBodies[0].rows.length > 0 && [...table.tBodies[0].rows].every((row) => row.hidden));
};

// A measured row's badge shows the runs behind it, as the section on provenance tells them.
const origin = document.getElementById("origin");
const told = new Map([...document.querySelectorAll("tr[data-run]")].map((row) => [row.dataset.run, row.closest(".card")]));
for (const cell of document.querySelectorAll("td[data-runs]")) {
  const button = document.createElement("button");
  button.title = "Show the runs behind this row";
  button.append(cell.querySelector(".kind"));
  cell.prepend(button);
  button.onclick = () => {
    const place = origin.querySelector("div");
    place.replaceChildren();
    for (const card of new Set(cell.dataset.runs.split(" ").map((run) => told.get(run)))) {
      if (!card) continue;
      const copy = card.cloneNode(true);
      for (const row of copy.querySelectorAll("tr[data-run]"))
        if (!cell.dataset.runs.split(" ").includes(row.dataset.run)) row.remove();
      copy.querySelector("h3 small").remove(); // how many runs the environment has in all
      copy.querySelector("details").open = true;
      place.append(copy);
    }
    origin.showModal();
  };
}

// A figure opens at the width of the window, or scrolls where that is narrow.
const zoom = document.getElementById("zoom");
for (const picture of document.querySelectorAll("figure picture")) {
  const button = document.createElement("button");
  button.title = "Enlarge the figure";
  picture.before(button);
  button.append(picture);
  button.onclick = () => {
    zoom.querySelector("div").replaceChildren(picture.cloneNode(true));
    zoom.showModal();
  };
}

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
