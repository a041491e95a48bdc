// Keys, videos that loop together, and the next row fetched ahead. Pages work without it, too.
"use strict";

document.documentElement.classList.add("scripted");

const videos = [...document.querySelectorAll("video")];
const pause = document.getElementById("pause");
const keys = document.getElementById("keys");

// Loop together: whoever has ended waits for the others, so that the three stay in step.
let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;

function show() {
  if (pause) pause.textContent = playing ? "Pause" : "Play";
}

function start() {
  for (const video of videos) {
    if (video.ended) video.currentTime = 0;
    if (playing) video.play().catch(() => {});
  }
}

function toggle() {
  playing = !playing;
  if (playing) start();
  else for (const video of videos) video.pause();
  show();
}

function restart() {
  if (!playing || !videos.every((video) => video.ended)) return;
  for (const video of videos) video.currentTime = 0;
  start();
}

for (const video of videos) {
  video.loop = false;
  video.pause();
  video.addEventListener("ended", restart);
}

function ready(video) {
  return new Promise((resolve) => {
    if (video.readyState >= HTMLMediaElement.HAVE_FUTURE_DATA) resolve();
    video.addEventListener("canplay", resolve, { once: true });
    video.addEventListener("error", resolve, { once: true });
  });
}

Promise.all(videos.map(ready)).then(() => {
  for (const video of videos) video.currentTime = 0;
  if (playing) start();
  fetchAhead();
});
show();
if (pause) pause.addEventListener("click", toggle);

// The next row's videos, always in the order of the panels.
async function fetchAhead() {
  const next = document.querySelector("a[rel=next]");
  if (!next) return;
  for (const video of videos) {
    const panel = video.getAttribute("src").split("/").pop();
    await fetch(`${next.getAttribute("href")}/${panel}`).then((answer) => answer.blob()).catch(() => {});
  }
}

// Single keys can be switched off: they disturb some assistive technology.
if (keys) {
  keys.checked = localStorage.getItem("keys") !== "off";
  keys.addEventListener("change", () => localStorage.setItem("keys", keys.checked ? "on" : "off"));
}

function press(selector) {
  const target = document.querySelector(selector);
  if (target) target.click();
}

const actions = {
  b: () => press("button[value=blue]"),
  r: () => press("button[value=red]"),
  n: () => press("button[value=none]"),
  arrowleft: () => press("a[rel=prev]"),
  arrowright: () => press("a[rel=next]"),
  p: toggle,
};

document.addEventListener("keydown", (event) => {
  if (!keys || !keys.checked || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const action = actions[event.key.toLowerCase()];
  if (!action) return;
  event.preventDefault();
  action();
});

// A vote is sent once, however often it is clicked.
const form = document.getElementById("vote");
if (form) {
  let sent = false;
  form.addEventListener("submit", (event) => {
    if (sent) event.preventDefault();
    sent = true;
  });
  window.addEventListener("pageshow", () => { sent = false; });
}
