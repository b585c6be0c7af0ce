"use strict";
(() => {
  const filter = document.getElementById("filter");
  if (filter) {
    filter.hidden = false;
    filter.addEventListener("input", () => {
      const wanted = filter.value.toLowerCase();
      for (const row of document.querySelectorAll("tbody tr"))
        row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
  }
  const live = document.getElementById("live"), link = document.getElementById("link");
  if (!live) return;
  const shown = () => [...live.children];
  const marks = (part) => [...part.querySelectorAll("[tabindex], a, .troubles, .wide, figure")];

  function swap(part, told) {
    const places = marks(part).map((one) => [one.scrollLeft, one.scrollTop]);
    const open = [...part.querySelectorAll("details[open] > summary")].map((one) => one.textContent);
    const focused = marks(part).indexOf(document.activeElement);
    part.innerHTML = told.html;
    part.dataset.tag = told.tag;
    for (const one of part.querySelectorAll("details > summary"))
      if (open.includes(one.textContent)) one.parentElement.open = true;
    const now = marks(part);
    places.forEach(([left, top], place) => {
      if (now[place]) [now[place].scrollLeft, now[place].scrollTop] = [left, top];
    });
    if (focused >= 0 && now[focused]) now[focused].focus({ preventScroll: true });
  }

  async function ask() {
    let wait = 3, going = true;
    try {
      const have = shown().map((part) => `${part.id}:${part.dataset.tag}`).join(",");
      const answer = await fetch(`fragments?have=${encodeURIComponent(have)}`);
      if (!answer.ok) throw new Error(answer.statusText);
      const told = await answer.json();
      for (const part of shown())
        if (told.fragments[part.id]) swap(part, told.fragments[part.id]);
      ({ wait, going } = told);
      link.hidden = true;
    } catch {
      link.hidden = false;
    }
    if (going) setTimeout(ask, document.hidden ? Math.max(5000, 1000 * wait) : 1000 * wait);
    else document.body.dataset.ended = "yes";
  }
  ask();
})();
