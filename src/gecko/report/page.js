// Lets the report's tables sort and filter, and its maps say what a point is. Without it the page shows everything.
(() => {
  "use strict";
  const FIRST = 15, MORE = 100;

  // What a cell sorts by: a number where it reads as one, nothing where it is empty.
  const valueOf = (cell) => {
    const text = (cell.dataset.value ?? cell.textContent).trim().replace(/,/g, "");
    if (text === "" || text === "–") return null;
    return text === String(Number(text)) || /^[+-]?[\d.]+$/.test(text) ? Number(text) : text.toLowerCase();
  };

  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));

  const sortBy = (table, head) => {
    const column = head.cellIndex, body = table.tBodies[0];
    const before = head.getAttribute("aria-sort");
    const up = before ? before === "descending" : !head.classList.contains("num");
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...body.rows].map((row) => [valueOf(row.cells[column]), row]);
    rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : up ? compare(a, b) : compare(b, a)));
    for (const [, row] of rows) body.append(row);
    table.dispatchEvent(new Event("sorted"));
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const head of table.tHead.rows[0].cells) {
      if (head.classList.contains("plain")) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sortBy(table, head));
      head.append(button);
    }
  }

  // A long table shows its first rows, and of these only what the controls above it let through.
  for (const controls of document.querySelectorAll(".controls")) {
    const table = document.getElementById(controls.dataset.of), more = controls.parentNode.querySelector("button.more");
    const status = controls.querySelector("[role=status]"), search = controls.querySelector("input");
    const selects = [...controls.querySelectorAll("select")];
    let most = FIRST;
    const show = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let found = 0;
      for (const row of table.tBodies[0].rows) {
        const text = row.cells[0].textContent.toLowerCase();
        const fits = words.every((word) => text.includes(word)) &&
          selects.every((select) => !select.value || row.dataset[select.name] === select.value);
        found += fits;
        row.hidden = !fits || found > most;
      }
      status.textContent = `${Math.min(found, most)} of ${found} shown`;
      more.hidden = found <= most;
    };
    const restart = () => { most = FIRST; show(); };
    search.addEventListener("input", restart);
    for (const select of selects) select.addEventListener("change", restart);
    table.addEventListener("sorted", show);
    more.addEventListener("click", () => { most += MORE; show(); });
    controls.hidden = false;
    show();
  }

  // The maps: a point lights up on both, with its query or its positive, and its text is told below.
  for (const maps of document.querySelectorAll(".maps")) {
    const readout = maps.querySelector(".readout"), invitation = readout.textContent;
    const pictures = [...maps.querySelectorAll("svg")];
    const names = [...pictures[0].querySelectorAll("circle")].map((point) => point.textContent);
    const queries = [...pictures[0].querySelectorAll("circle")].map((point) => point.classList.contains("accent"));
    let at = -1;
    const light = (number) => {
      at = number;
      const ends = new Set([at]);
      for (const picture of pictures) {
        for (const line of picture.querySelectorAll("line.link")) {
          const own = [Number(line.dataset.from), Number(line.dataset.to)], on = own.includes(at);
          line.classList.toggle("on", on);
          if (on) own.forEach((end) => ends.add(end));
        }
        for (const point of picture.querySelectorAll("circle")) point.classList.toggle("on", ends.has(Number(point.dataset.i)));
      }
      readout.textContent = at < 0 ? invitation : `${queries[at] ? "Query" : "Passage"}: ${names[at]}`;
    };
    for (const picture of pictures) {
      for (const title of picture.querySelectorAll("title")) title.remove();
      picture.addEventListener("pointerover", (event) => { if (event.target.dataset.i) light(Number(event.target.dataset.i)); });
      picture.addEventListener("pointerleave", () => light(-1));
      picture.setAttribute("tabindex", "0");
      picture.addEventListener("blur", () => light(-1));
      picture.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (event.key === "Escape") light(-1);
        if (!step) return;
        event.preventDefault();
        light(at < 0 ? (step > 0 ? 0 : names.length - 1) : (at + step + names.length) % names.length);
      });
    }
  }
})();
