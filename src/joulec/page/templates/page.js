"use strict";
for (const section of document.querySelectorAll(".batch")) {
  const table = section.querySelector(".operators");
  section.querySelector(".only").addEventListener("change", (event) => {
    table.classList.toggle("changes", event.target.checked);
  });
  section.querySelector(".zoom").addEventListener("input", (event) => {
    for (const picture of section.querySelectorAll(".picture")) {
      const [, , width, height] = picture.getAttribute("viewBox").split(" ");
      picture.setAttribute("width", (width * event.target.value) / 100);
      picture.setAttribute("height", (height * event.target.value) / 100);
    }
  });
  // A row's cells may span columns: the cell under a head is found by counting what those before it span.
  const cell = (row, column) => {
    let at = 0;
    for (const one of row.cells) {
      at += one.colSpan;
      if (at > column) return one;
    }
    return null;
  };
  const value = (row, column) => {
    const found = cell(row, column);
    return found.dataset.v === undefined ? found.textContent.trim() : Number(found.dataset.v);
  };
  table.querySelectorAll(".sort").forEach((head, index) => {
    head.addEventListener("click", () => {
      const ascending = head.dataset.ascending !== "true" && index % 3 === 0;
      head.dataset.ascending = ascending;
      const rows = [...table.tBodies[0].rows];
      const numeric = index % 3 !== 0;
      rows.sort((one, other) => {
        const [a, b] = [value(one, index + 2), value(other, index + 2)];
        if (!numeric) return (ascending ? 1 : -1) * String(a).localeCompare(String(b));
        return (typeof b === "number" ? b : -1) - (typeof a === "number" ? a : -1);
      });
      table.tBodies[0].append(...rows);
    });
  });
}
