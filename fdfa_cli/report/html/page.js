"use strict";

// Sorting and filtering of each table. Without scripts the page still shows everything.
const collator = new Intl.Collator("en", { numeric: true });

function compare(one, other, direction) {
  if (one === undefined || other === undefined) {
    return (one === undefined) - (other === undefined); // missing values last, either way
  }
  const a = Number(one), b = Number(other);
  const order = Number.isNaN(a) || Number.isNaN(b) ? collator.compare(one, other) : a - b;
  return order * direction;
}

for (const grid of document.querySelectorAll(".grid")) {
  const body = grid.querySelector("tbody");
  const rows = Array.from(body.rows);
  const headings = Array.from(grid.querySelectorAll("thead th[aria-sort]"));

  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const ascending = heading.getAttribute("aria-sort") !== "ascending";
      for (const each of headings) each.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      rows.sort((one, other) =>
        compare(one.cells[column].dataset.sort, other.cells[column].dataset.sort, ascending ? 1 : -1));
      body.append(...rows);
    });
  });

  const form = grid.querySelector(".filter");
  if (!form) continue;
  const texts = new Map(rows.map((row) => [
    row, Array.from(row.querySelectorAll(".value"), (value) => value.textContent).join(" ").toLowerCase(),
  ]));
  const [search, status, count] = ["input", "select", "output"].map((name) => form.querySelector(name));
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of rows) {
      row.hidden = !words.every((word) => texts.get(row).includes(word)) ||
        Boolean(status && status.value && row.dataset.status !== status.value);
      shown += !row.hidden;
    }
    count.textContent = shown === rows.length ? `${rows.length} rows` : `${shown} of ${rows.length} rows`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  filter(); // a browser that goes back to the page restores what was typed
}

// Copying: through the clipboard where the browser offers it (https and files), else by selection.
async function copy(button) {
  const element = document.getElementById(button.dataset.copy);
  getSelection().selectAllChildren(element);
  let outcome = "Copied";
  try {
    await navigator.clipboard.writeText(element.textContent);
  } catch {
    if (!document.execCommand("copy")) outcome = "Press Ctrl+C";
  }
  button.textContent = outcome;
  document.getElementById("said").textContent = outcome;
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-copy]");
  if (button) copy(button);
});
