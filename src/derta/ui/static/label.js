"use strict";
// Texts of models are set as text (textContent), never as HTML.

const $ = id => document.getElementById(id);
let setup = {choices: []};
let row = null; // the reply on the page
let total = 0;
let busy = true; // while an answer is awaited, keys do nothing

async function get(path, options) {
  const answer = await fetch(path, options);
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(value.error || `the server answered ${answer.status}`);
  return value;
}

/** Run a step while no other one runs; its error is shown, and the same key may be pressed again. */
async function step(action) {
  if (busy) return;
  busy = true;
  $("error").textContent = "";
  try {
    await action();
  } catch (error) {
    $("error").textContent = error instanceof TypeError ? "not saved: no answer; is derta label still running?" : `not saved: ${error.message}`;
  }
  busy = false;
}

async function show(place) {
  row = await get(`row/${place}`);
  $("request").textContent = row.request;
  $("reply").textContent = row.reply;
  $("reply").scrollTop = 0;
  for (const button of document.querySelectorAll("#choices button")) {
    button.classList.toggle("chosen", row.word !== "" && button.dataset.word === row.word);
  }
  $("task").hidden = false;
  $("done").hidden = true;
  text();
}

let labelled = 0;
function text() {
  $("progress-text").textContent = `Reply ${row.place + 1} of ${total}; ${labelled} labelled`;
}

async function proceed(progress) {
  total = progress.rows;
  labelled = progress.labelled;
  $("progress").max = total;
  $("progress").value = labelled;
  if (progress.next !== null) { await show(progress.next); return; }
  $("task").hidden = true;
  $("done").hidden = false;
}

async function choose(choice) {
  const body = JSON.stringify({place: row.place, reply_hash: row.reply_hash, word: choice.word});
  await proceed(await get("save", {method: "POST", headers: {"Content-Type": "application/json"}, body}));
}

function onKey(event) {
  if ($("task").hidden || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const choice = setup.choices.find(one => one.key === event.key.toLowerCase());
  const place = {ArrowLeft: row.place - 1, ArrowRight: row.place + 1}[event.key];
  if (choice) { event.preventDefault(); step(() => choose(choice)); }
  else if (place >= 0 && place < total) { event.preventDefault(); step(() => show(place)); }
}

async function start() {
  setup = await get("setup");
  $("asked").textContent = setup.question;
  for (const choice of setup.choices) {
    const button = document.createElement("button");
    const key = document.createElement("kbd");
    key.textContent = choice.key;
    button.append(key, ` ${choice.meaning}`);
    button.dataset.word = choice.word;
    button.addEventListener("click", () => step(() => choose(choice)));
    $("choices").append(button);
  }
  document.addEventListener("keydown", onKey);
  $("begin").addEventListener("click", () => step(async () => {
    await proceed(await get("next"));
    $("welcome").hidden = true;
    $("reply").focus();
  }));
  $("again").addEventListener("click", () => step(() => show(0)));
  busy = false;
}

start();
