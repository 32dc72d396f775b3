"use strict";
for (const viewer of document.querySelectorAll(".viewer")) {
  const stage = viewer.querySelector(".stage");
  const slider = viewer.querySelector("input[type=range]");
  const button = viewer.querySelector("button");
  if (!stage || !slider) continue;
  const stages = viewer.querySelectorAll(".stage");
  const show = () => stages.forEach((one) => one.style.setProperty("--at", slider.value + "%"));
  slider.addEventListener("input", show);
  show();
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
  for (const folded of document.querySelectorAll(":not(article) > details:not([open])")) {
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
