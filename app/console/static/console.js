// Every page works without this file. It shows times in the reader's zone, copies texts, asks before what cannot be undone, and
// keeps fragments up to date: an element with `data-refresh` is replaced by the response of that URL every `data-every` seconds.
"use strict";

function prepare(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (!Number.isNaN(at.getTime())) {
      time.textContent = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
    }
  }
  for (const button of root.querySelectorAll("button[data-copy]")) {
    button.hidden = !navigator.clipboard;
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (button) {
    await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
    button.textContent = "Copied";
  }
});

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

// Stops while the page is hidden; each refresh without a change doubles the pause, up to a minute. When the page is shown
// again, the pause starts from the beginning.
function keepFresh(element) {
  const first = Number(element.dataset.every || 5) * 1000;
  let pause = first;
  let shown = element.innerHTML;
  let timer;
  const rest = () => {
    clearTimeout(timer);
    timer = setTimeout(tick, pause);
  };
  const tick = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch(element.dataset.refresh, { headers: { "X-Fragment": "1" } });
        if (answer.ok && !answer.redirected) {
          const text = await answer.text();
          pause = text === shown ? Math.min(pause * 2, 60000) : first;
          if (text !== shown) {
            shown = text;
            element.innerHTML = text;
            prepare(element);
          }
        }
      } catch {
        pause = Math.min(pause * 2, 60000);
      }
    }
    rest();
  };
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) {
      pause = first;
      rest();
    }
  });
  rest();
}

prepare(document);
for (const element of document.querySelectorAll("[data-refresh]")) keepFresh(element);

// The editor of workflows: line numbers, and the mistakes half a second after the last key, one check at a time. Large
// texts are checked by the button only.
const editor = document.querySelector("textarea[data-check]");
if (editor) {
  const found = document.getElementById("mistakes");
  const gutter = editor.parentElement.querySelector(".gutter");
  let timer, busy = false, shown = "";
  const number = () => {
    const count = editor.value.split("\n").length;
    const bad = new Set([...found.querySelectorAll("[data-line]")].map((link) => Number(link.dataset.line)));
    const now = `${count} ${[...bad]}`;
    if (now === shown) return;
    shown = now;
    editor.rows = Math.max(editor.rows, count + 1);
    gutter.replaceChildren(...Array.from({ length: count }, (_, index) => {
      const line = document.createElement("span");
      line.className = bad.has(index + 1) ? "bad" : "";
      line.textContent = `${index + 1}\n`;
      return line;
    }));
  };
  const check = async () => {
    if (editor.value.length > 50000) return void (found.textContent = "The text is large: press Check.");
    if (busy) return void (timer = setTimeout(check, 500));
    busy = true;
    try {
      const answer = await fetch(editor.dataset.check, { method: "POST", body: new FormData(editor.form), headers: { "X-Fragment": "1" } });
      if (answer.ok && !answer.redirected) found.innerHTML = await answer.text();
    } catch { /* The next key tries again. */ }
    busy = false;
    number();
  };
  editor.addEventListener("input", () => {
    number();
    clearTimeout(timer);
    timer = setTimeout(check, 500);
  });
  found.addEventListener("click", (event) => {
    const { line, column } = event.target.closest("[data-line]")?.dataset || {};
    if (!line) return;
    const before = editor.value.split("\n").slice(0, line - 1);
    const at = before.join("\n").length + (before.length ? 1 : 0) + Number(column) - 1;
    event.preventDefault();
    editor.focus();
    editor.setSelectionRange(at, at);
  });
}
