// A click on a column's title sorts the rows by it, a second one turns them over. Without scripts the table stays as it is.
const table = document.querySelector("table");
const body = table.tBodies[0];
const titles = [...table.tHead.rows[0].cells];
const key = (row, at) => (at ? Number(row.cells[at].dataset.at) : row.cells[0].textContent.toLowerCase());
const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
for (const [at, title] of titles.entries()) {
  const button = document.createElement("button");
  button.append(...title.childNodes);
  title.append(button);
  button.addEventListener("click", () => {
    const before = title.getAttribute("aria-sort");
    const down = before ? before === "ascending" : at > 0; // numbers begin with the largest
    for (const other of titles) other.removeAttribute("aria-sort");
    title.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows];
    rows.sort((a, b) => order(key(a, at), key(b, at)) * (down ? -1 : 1));
    body.append(...rows);
  });
}
