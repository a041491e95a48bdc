// Keys, videos that loop together, and the next row fetched ahead. Pages work without it, too.
"use strict";

document.documentElement.classList.add("scripted");

const videos = [...document.querySelectorAll("video")];
const pause = document.getElementById("pause");
const keys = document.getElementById("keys");

// Loop together: who has ended waits for the others, then all go back, and start at once.
let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;

function show() {
  if (pause) pause.textContent = playing ? "Pause" : "Play";
}

function happens(video, event) {
  return new Promise((resolve) => {
    video.addEventListener(event, resolve, { once: true });
    video.addEventListener("error", resolve, { once: true });
  });
}

async function rewind(video) {
  if (video.currentTime === 0 && !video.ended) return;
  const there = happens(video, "seeked");
  video.currentTime = 0;
  await there;
}

function play() {
  if (playing) for (const video of videos) video.play().catch(() => {});
}

async function again() {
  if (!videos.every((video) => video.ended)) return;
  await Promise.all(videos.map(rewind));
  play();
}

function toggle() {
  playing = !playing;
  if (!playing) for (const video of videos) video.pause();
  else if (videos.every((video) => video.ended)) again();
  else for (const video of videos) if (!video.ended) video.play().catch(() => {});
  show();
}

for (const video of videos) {
  video.loop = false;
  video.pause();
  video.addEventListener("ended", () => playing && again());
}

async function begin() {
  const enough = HTMLMediaElement.HAVE_FUTURE_DATA;
  await Promise.all(videos.map((video) => video.readyState >= enough || video.error || happens(video, "canplay")));
  await Promise.all(videos.map(rewind));
  play();
  fetchAhead();
}

show();
begin();
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
