// Looks again every few seconds at pages that change by themselves. Everything else of the console works without it.
"use strict";
(() => {
  const EVERY_MS = 5000;
  const region = document.querySelector("[data-live]");
  const place = document.querySelector("[data-live-control]");
  if (!region || !place) return;

  const button = document.createElement("button");
  button.type = "button";
  button.className = "live";
  button.textContent = "Live";
  const said = document.createElement("span");
  said.className = "quiet";
  said.setAttribute("role", "status");
  place.append(button, said);

  let on = sessionStorage.getItem("live") !== "off";
  const show = () => {
    button.setAttribute("aria-pressed", String(on));
    said.textContent = on ? "" : "paused";
  };
  button.addEventListener("click", () => {
    on = !on;
    sessionStorage.setItem("live", on ? "on" : "off");
    show();
    if (on) look();
  });
  show();

  // What somebody is reading, marking or working on is not taken away from under them.
  const inUse = () =>
    region.contains(document.activeElement) || String(getSelection()) !== "" || document.hidden;

  async function look() {
    if (!on || inUse()) return;
    try {
      const response = await fetch(location.href, { credentials: "same-origin", redirect: "error" });
      if (!response.ok) throw new Error(String(response.status));
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html").querySelector("[data-live]");
      if (!fresh || inUse()) return;
      const open = new Set([...region.querySelectorAll("details[open][id]")].map((each) => each.id));
      fresh.querySelectorAll("details[id]").forEach((each) => { each.open = open.has(each.id); });
      region.replaceChildren(...fresh.childNodes);
      said.textContent = "";
    } catch {
      said.textContent = "no answer; trying again";
    }
  }
  setInterval(look, EVERY_MS);
})();
