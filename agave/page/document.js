// Without this script every step of a slider is shown. With it one is, until "Show all" is pressed or the page is printed.
"use strict";
for (const stepper of document.querySelectorAll(".stepper")) {
  const control = stepper.querySelector(".control");
  const [slider, output, button] = ["input", "output", "button"].map((name) => control.querySelector(name));
  const steps = [...stepper.querySelectorAll(".step")];
  let all = false;
  const show = () => {
    steps.forEach((step, index) => { step.hidden = !all && index !== slider.valueAsNumber; });
    output.textContent = slider.ariaValueText = steps[slider.valueAsNumber].dataset.label;
    stepper.classList.toggle("all", all);
    slider.disabled = all;
    button.setAttribute("aria-pressed", String(all));
  };
  slider.addEventListener("input", show);
  button.addEventListener("click", () => { all = !all; show(); });
  control.hidden = false;
  show();
  window.addEventListener("beforeprint", () => steps.forEach((step) => { step.hidden = false; }));
  window.addEventListener("afterprint", show);
}
// A link to a claim opens its comparisons.
const open = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.matches("article")) target.querySelector("details")?.setAttribute("open", "");
};
window.addEventListener("hashchange", open);
open();
