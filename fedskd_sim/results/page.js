"use strict";
(() => {
  const main = document.querySelector("main");
  const make = (name, about) => Object.assign(document.createElement(name), about);

  const tip = make("div", { id: "tip", hidden: true });
  document.body.append(tip);
  for (const title of document.querySelectorAll("figure svg title")) {
    title.parentElement.dataset.tip = title.textContent;
    title.remove();
  }
  const say = (event) => {
    const found = event.target.closest?.("[data-tip]");
    tip.hidden = !found;
    if (!found) return;
    tip.textContent = found.dataset.tip;
    const left = Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8);
    const below = event.clientY + 16;
    const top = below + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 10 : below;
    Object.assign(tip.style, { left: `${Math.max(4, left)}px`, top: `${top}px` });
  };
  for (const kind of ["pointermove", "pointerdown"]) main.addEventListener(kind, say);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

  for (const figure of document.querySelectorAll("figure[tabindex]:not(.lamport)")) {
    if (!figure.querySelector("svg")) continue;
    const button = make("button", { className: "zoom", type: "button", textContent: "Enlarge" });
    button.addEventListener("click", () => {
      button.textContent = figure.classList.toggle("large") ? "Reduce" : "Enlarge";
    });
    figure.prepend(button);
  }

  const names = JSON.parse(main.dataset.hospitals), known = new Set(names);
  if (names.length < 3) return;
  const box = make("details", { className: "choose" });
  box.append(make("summary", { textContent: "Choose hospitals" }));
  const all = make("button", { type: "button", textContent: "All or none" });
  box.append(all);
  const marks = names.map((name) => {
    const mark = make("input", { type: "checkbox", checked: true }), label = make("label");
    label.append(mark, ` ${name}`);
    box.append(label);
    return mark;
  });
  const apply = () => {
    const chosen = new Set(names.filter((_, place) => marks[place].checked));
    for (const one of document.querySelectorAll("[data-of]"))
      one.classList.toggle("off", !chosen.has(one.dataset.of));
    for (const row of document.querySelectorAll(".wide tbody tr")) {
      const name = row.querySelector("th")?.textContent.replace(/^\d+ /, "");
      if (known.has(name)) row.hidden = !chosen.has(name);
    }
  };
  all.addEventListener("click", () => {
    const wanted = marks.some((mark) => !mark.checked);
    for (const mark of marks) mark.checked = wanted;
    apply();
  });
  box.addEventListener("change", apply);
  main.querySelector("header").after(box);
})();
