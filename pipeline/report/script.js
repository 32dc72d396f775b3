"use strict";
for (const viewer of document.querySelectorAll(".viewer")) {
  const stage = viewer.querySelector(".stage");
  const slider = viewer.querySelector("input[type=range]");
  const button = viewer.querySelector("button.fade");
  if (!stage || !slider) continue;
  const stages = viewer.querySelectorAll(".stage");
  const show = () => stages.forEach((one) => one.style.setProperty("--at", slider.value + "%"));
  slider.addEventListener("input", show);
  show();
  const layers = viewer.querySelectorAll("button[data-shows]");
  for (const layer of layers) {
    layer.addEventListener("click", () => {
      for (const one of layers) one.setAttribute("aria-pressed", String(one === layer));
      for (const part of viewer.querySelectorAll("[data-layer]")) part.hidden = part.dataset.layer !== layer.dataset.shows;
      viewer.querySelector(".side.left").textContent = layer.textContent;
    });
  }
  if (!button) continue;
  button.addEventListener("click", () => {
    const fade = stage.classList.toggle("faded");
    stage.classList.toggle("split", !fade);
    button.setAttribute("aria-pressed", String(fade));
  });
  const drag = (event) => {
    if (!stage.classList.contains("split") || !(event.buttons & 1)) return;
    const box = stage.getBoundingClientRect();
    slider.value = String(Math.round((100 * (event.clientX - box.left)) / box.width));
    show();
  };
  stage.addEventListener("pointerdown", drag);
  stage.addEventListener("pointermove", drag);
  stage.addEventListener("dragstart", (event) => event.preventDefault());
}
document.querySelector("select#marker")?.addEventListener("change", (event) => {
  for (const part of document.querySelectorAll("[data-marker]")) part.hidden = part.dataset.marker !== event.target.value;
});
for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    const command = button.previousElementSibling;
    // Shown as selected too, where the browser lets no page write to the clipboard.
    getSelection().selectAllChildren(command);
    try {
      await navigator.clipboard.writeText(command.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
    }
  });
}
const search = document.querySelector("input#slides");
search?.addEventListener("input", () => {
  const wanted = search.value.trim().toLowerCase();
  const rows = [...document.querySelectorAll("#cohort tr[data-slide]")];
  const names = rows.map((row) => row.dataset.slide + "\n" + row.querySelector("td").textContent);
  const found = new Set(rows.filter((_, index) => names[index].toLowerCase().includes(wanted)).map((row) => row.dataset.slide));
  for (const part of document.querySelectorAll("[data-slide]")) part.hidden = !found.has(part.dataset.slide);
  search.parentElement.querySelector("output").textContent = `${found.size} of ${rows.length}`;
});
// What folds on a narrow screen is open on a wide one, where it has no handle.
const narrow = matchMedia("(max-width: 640px)");
const fold = () => document.querySelectorAll("details.fold").forEach((part) => (part.open = !narrow.matches));
narrow.addEventListener("change", fold);
fold();
const dialog = document.querySelector("dialog");
for (const zoom of document.querySelectorAll("button.zoom")) {
  zoom.addEventListener("click", () => {
    const large = dialog.querySelector("img");
    const small = zoom.querySelector("img");
    large.src = small.src;
    large.alt = small.alt;
    dialog.showModal();
  });
}
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
// Paper shows what is folded on the screen, except for the numbers of every registration: they are pages of each slide.
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll(":not(article) > details:not([open]), details.fold:not([open])")) {
    folded.open = true;
    folded.dataset.unfolded = "";
  }
});
addEventListener("afterprint", () => {
  for (const unfolded of document.querySelectorAll("details[data-unfolded]")) {
    unfolded.open = false;
    delete unfolded.dataset.unfolded;
  }
});
