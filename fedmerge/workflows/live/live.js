"use strict";
// Fetches the page again every few seconds and puts its new content in place; focus and open details stay.
const hold = document.getElementById("hold");
const said = document.getElementById("said");
let held = false;
hold.hidden = false;
hold.addEventListener("click", () => {
  held = !held;
  hold.setAttribute("aria-pressed", String(held));
  said.textContent = held ? "stopped here; the work goes on" : "anew every three seconds";
});
async function again() {
  if (held || document.hidden) return;
  try {
    const answer = await fetch("/", { cache: "no-store" });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const now = document.querySelector("main"), next = page.querySelector("main");
    const open = [...now.querySelectorAll("details[open]")].map((each) => each.id);
    for (const id of open) next.querySelector("#" + CSS.escape(id))?.setAttribute("open", "");
    if (now.contains(document.activeElement) || now.innerHTML === next.innerHTML) {
      if (now.innerHTML !== next.innerHTML) said.textContent = "waits while you read with the keyboard";
    } else {
      now.replaceChildren(...next.childNodes);
      document.title = page.title;
    }
    if (said.dataset.lost) { said.textContent = "anew every three seconds"; delete said.dataset.lost; }
  } catch {
    said.textContent = "fedmerge report --live has ended; this is what it showed last";
    said.dataset.lost = "yes";
  }
}
setInterval(again, 3000);
