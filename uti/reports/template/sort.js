// A table of the class "sortable" is sorted by the column whose heading is pressed: numbers first, the best
// on top where an arrow says which is; rows of the class "unranked" stay last. Without scripts it is a table.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const best = head.textContent.trim().endsWith("↑") ? "descending" : "ascending";
        const other = best === "ascending" ? "descending" : "ascending";
        const order = head.getAttribute("aria-sort") === best ? other : best;
        const sign = order === "ascending" ? 1 : -1;
        const compare = (a, b) => {
          if (a.className !== b.className) return a.className === "unranked" ? 1 : -1;
          const [x, y] = [a, b].map((row) => row.cells[column]);
          const [p, q] = [x, y].map((cell) => parseFloat(cell.dataset.value));
          if (isNaN(p) && isNaN(q)) return sign * x.textContent.localeCompare(y.textContent);
          if (isNaN(p) || isNaN(q)) return isNaN(p) ? 1 : -1;
          return sign * (p - q);
        };
        heads.forEach((one) => one.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        body.append(...[...body.rows].sort(compare));
      });
    });
  }
});
