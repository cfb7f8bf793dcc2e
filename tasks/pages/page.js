// Galleries: one seed or all of them, and a picture enlarged beside the first column's.
"use strict";
(() => {
  const galleries = [...document.querySelectorAll(".gallery")];
  if (!galleries.length) return;

  const viewer = document.createElement("dialog");
  viewer.setAttribute("aria-label", "Enlarged picture");
  viewer.innerHTML = `
    <div class="pair"><figure><img alt=""><figcaption></figcaption></figure><figure><img alt=""><figcaption></figcaption></figure></div>
    <p class="prompt" aria-live="polite"></p>
    <div class="keys"><button type="button" data-key="ArrowLeft">← before</button><button type="button" data-key="ArrowRight">after →</button>
    <button type="button" data-key="ArrowUp">↑ prompt</button><button type="button" data-key="ArrowDown">prompt ↓</button>
    <button type="button" data-key="s">S seed</button><button type="button" data-key="Escape">Close</button></div>`;
  document.body.append(viewer);
  const [left, right] = viewer.querySelectorAll("figure");
  let shown = null; // { gallery, cell: [prompt, column, seed] }

  const tileAt = (gallery, cell) => gallery.querySelector(`.tile[data-cell="${cell.join(",")}"]`);

  const fill = (figure, tile) => {
    const from = tile.querySelector("img"), to = figure.querySelector("img");
    to.src = from.src;
    to.alt = from.alt;
    figure.querySelector("figcaption").textContent = tile.closest("figure").querySelector("figcaption").textContent;
  };

  const show = (gallery, cell) => {
    const tile = tileAt(gallery, cell);
    if (!tile) return;
    shown = { gallery, cell };
    left.hidden = cell[1] === 0;
    fill(left, tileAt(gallery, [cell[0], 0, cell[2]]));
    fill(right, tile);
    const seed = gallery.querySelectorAll("fieldset label")[cell[2]].textContent;
    viewer.querySelector(".prompt").textContent = `${tile.closest(".strip").querySelector("h3").textContent} · seed ${seed}`;
    viewer.classList.toggle("exact", gallery.classList.contains("exact"));
    if (!viewer.open) viewer.showModal();
  };

  const move = (key) => {
    const [prompt, column, seed] = shown.cell;
    const seeds = shown.gallery.querySelector(".tiles").children.length;
    const by = { ArrowLeft: [0, -1, 0], ArrowRight: [0, 1, 0], ArrowUp: [-1, 0, 0], ArrowDown: [1, 0, 0], s: [0, 0, 1] }[key];
    if (!by) return false;
    const after = (cell) => [cell[0] + by[0], cell[1] + by[1], (cell[2] + by[2]) % seeds];
    let next = after([prompt, column, seed]);
    while (shown.gallery.querySelector(`.blank[data-cell="${next.join(",")}"]`)) next = after(next); // not drawn: on to the next
    show(shown.gallery, next);
    return true;
  };

  viewer.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey && move(event.key)) event.preventDefault();
  });
  viewer.addEventListener("click", (event) => {
    const key = event.target.dataset.key;
    if (key === "Escape" || event.target === viewer || event.target.tagName === "IMG") viewer.close();
    else if (key) move(key);
  });
  viewer.addEventListener("close", () => {
    const tile = tileAt(shown.gallery, shown.cell);
    if (!tile.hidden) tile.focus();
  });

  for (const gallery of galleries) {
    gallery.addEventListener("click", (event) => {
      const tile = event.target.closest(".tile");
      if (tile) show(gallery, tile.dataset.cell.split(",").map(Number));
    });
    gallery.addEventListener("change", (event) => {
      const chosen = event.target.value;
      for (const tile of gallery.querySelectorAll(".tile, .blank")) {
        tile.hidden = chosen !== "all" && tile.dataset.cell.split(",")[2] !== chosen;
      }
      gallery.classList.toggle("mosaic", chosen === "all");
    });
  }
})();
