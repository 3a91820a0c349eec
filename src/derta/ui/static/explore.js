"use strict";
// Texts of models and people are set as text (textContent, value), never as HTML.

const $ = id => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const percent = p => p >= 0.0005 ? `${(100 * p).toFixed(p >= 0.1 ? 0 : 1)} %` : p > 0 ? "< 0.1 %" : "0 %";
let setup = {models: [], examples: []};
let running = null; // AbortController of the requests under way
let shown = []; // continuations on the page, with their token elements
let last = null; // question and models of the replies on the page

function addTurn(role, content) {
  const roles = make("select", {ariaLabel: "Role"});
  roles.append(...["user", "assistant", "system"].map(name => make("option", {textContent: name, selected: name === role})));
  const text = make("textarea", {rows: 3, value: content, ariaLabel: "Message", spellcheck: false});
  const remove = make("button", {type: "button", textContent: "Remove"});
  const item = make("li", {}, make("div", {className: "head"}, roles, remove), text);
  remove.addEventListener("click", () => { item.remove(); allowRemoval(); });
  $("turns").append(item);
  allowRemoval();
  return text;
}

function allowRemoval() {
  const buttons = document.querySelectorAll("#turns button");
  for (const button of buttons) button.hidden = buttons.length === 1;
}

function fill(messages, prefill) {
  $("turns").replaceChildren();
  for (const message of messages) addTurn(message.role, message.content);
  $("prefill").value = prefill;
  $("preset").value = [...$("preset").options].some(one => one.value === prefill) ? prefill : "";
}

function words() {
  return $("banned").value.split(",").map(word => word.trim()).filter(Boolean);
}

function threshold() {
  const value = Number($("threshold").value);
  return value > 0 && value <= 1 ? value : null;
}

/** The variants of decoding that are asked for: what is shown, and the settings of the question. */
function variants() {
  const found = [{title: "greedy", settings: {}}];
  if ($("ban").checked && words().length) found.push({title: `banned: ${words().join(", ")}`, settings: {banned: words()}});
  if ($("force").checked && threshold()) {
    found.push({title: `refusal forced from P = ${threshold()} on`, settings: {threshold: threshold()}, forced: true});
  }
  return found;
}

function question() {
  const messages = [...document.querySelectorAll("#turns li")].map(item => (
    {role: item.querySelector("select").value, content: item.querySelector("textarea").value}));
  return {messages, prefill: $("prefill").value, max_new_tokens: Number($("length").value)};
}

async function ask(model, body, signal) {
  const answer = await fetch("continue", {
    method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({model, question: body}), signal,
  });
  if (answer.ok) return answer.json();
  const failure = await answer.json().catch(() => ({}));
  throw new Error(failure.error || `the server answered ${answer.status}; look at the terminal of derta explore`);
}

/** Ask all chosen models for all variants, or only for the forced one after the threshold moved. */
async function run(onlyForced = false) {
  if (!$("question").reportValidity()) return;
  if (running) running.abort();
  if (!last || (running && !running.onlyForced)) onlyForced = false;
  const mine = running = Object.assign(new AbortController(), {onlyForced});
  if (!onlyForced) {
    last = {asked: question(), names: [...document.querySelectorAll("#models input:checked")].map(box => box.value)};
    $("cards").replaceChildren();
    shown = [];
    closeDetail();
  }
  const {asked, names} = last;
  const jobs = [];
  for (const name of names) {
    const card = cardOf(name);
    for (const variant of variants()) {
      if (onlyForced && !variant.forced) continue;
      jobs.push({name, variant, section: sectionOf(card, variant)});
    }
  }
  if (!names.length) $("status").textContent = "Choose a model.";
  $("stop").hidden = !jobs.length;
  if (!onlyForced && matchMedia("(max-width: 60rem)").matches) $("legend").scrollIntoView();
  let done = 0;
  for (const job of jobs) {
    $("status").textContent = `${job.name}, ${job.variant.title}: generating (${done + 1} of ${jobs.length}) …`;
    try {
      const answer = await ask(job.name, {...asked, ...job.variant.settings}, mine.signal);
      if (mine.signal.aborted) break;
      show(job, answer, asked);
    } catch (error) {
      if (mine.signal.aborted) break;
      const message = error instanceof TypeError ? "no answer; is derta explore still running?" : error.message;
      job.section.append(make("p", {className: "error", textContent: message}));
    }
    done += 1;
  }
  if (running !== mine) return;
  running = null;
  $("stop").hidden = true;
  if (jobs.length) $("status").textContent = mine.signal.aborted ? "Stopped." : "Done.";
}

function cardOf(name) {
  const found = [...document.querySelectorAll(".card")].find(card => card.dataset.model === name);
  if (found) return found;
  const card = make("article", {className: "card"}, make("h2", {textContent: name}));
  card.dataset.model = name;
  $("cards").append(card);
  return card;
}

function sectionOf(card, variant) {
  const key = variant.forced ? "forced" : variant.settings.banned ? "banned" : "greedy";
  const section = make("section", {}, make("h3", {textContent: variant.title}));
  section.dataset.variant = key;
  const old = card.querySelector(`[data-variant=${key}]`);
  if (old) { shown = shown.filter(one => one.section !== old); old.replaceWith(section); } else card.append(section);
  return section;
}

function show(job, answer, asked) {
  const reply = make("div", {className: "reply", role: "listbox", ariaLabel: `${job.name}, ${job.variant.title}: tokens`});
  reply.setAttribute("aria-orientation", "horizontal");
  const one = {section: job.section, answer, asked, tokens: [], text: answer.positions.map(position => position.text).join("")};
  const greedy = job.section.parentElement.querySelector("[data-variant=greedy]");
  if (shown.some(other => other.section === greedy && other.text === one.text)) {
    job.section.append(make("p", {className: "fine", textContent: "The same reply as the greedy one."}));
    return;
  }
  answer.positions.forEach((position, place) => {
    const last = place === answer.positions.length - 1;
    const given = place < answer.prefilled;
    const text = last ? (answer.stop_reason === "eos" ? " ⟨end⟩" : " …") : position.visible || "·";
    const token = make("span", {className: "tok", role: "option", tabIndex: place === 0 ? 0 : -1, textContent: text});
    token.style.setProperty("--p", position.refusal.toFixed(4));
    token.title = `P(refusal) ${percent(position.refusal)}`;
    token.ariaLabel = `${text}, P(refusal) ${percent(position.refusal)}`;
    token.classList.toggle("given", given);
    token.classList.toggle("last", last);
    token.classList.toggle("other", !given && !last && !position.greedy);
    token.addEventListener("click", () => select(one, place));
    token.addEventListener("focus", () => select(one, place));
    one.tokens.push(token);
    reply.append(token);
  });
  reply.addEventListener("keydown", event => move(one, event));
  job.section.append(reply, summaryOf(one), tableOf(one));
  shown.push(one);
  markAlarms();
}

function summaryOf(one) {
  const {positions, prefilled, stop_reason: reason} = one.answer;
  let highest = 0;
  positions.forEach((position, place) => { if (position.refusal > positions[highest].refusal) highest = place; });
  const number = positions.length - 1 - prefilled;
  const text = `${number} new tokens, ${reason === "eos" ? "ended by itself" : "stopped at the limit"}; highest P(refusal) `
    + `${percent(positions[highest].refusal)} at token ${highest + 1}; `;
  const alarm = make("span", {className: "alarms"});
  const keep = make("button", {type: "button", textContent: "Continue the chat"});
  keep.addEventListener("click", () => {
    fill([...one.asked.messages, {role: "assistant", content: one.text}], "");
    addTurn("user", "").focus();
  });
  return make("p", {className: "fine"}, text, alarm, ". ", keep);
}

function tableOf(one) {
  const details = make("details", {}, make("summary", {textContent: "Numbers"}));
  details.addEventListener("toggle", () => {
    if (!details.open || details.querySelector("table")) return;
    const rows = one.answer.positions.map((position, place) => make("tr", {},
      ...[place + 1, position.visible || "–", percent(position.refusal), position.probability === null ? "–" : percent(position.probability),
        position.alternatives.slice(0, 3).map(other => `${other.visible} ${percent(other.probability)}`).join("   ")]
        .map(text => make("td", {textContent: text}))));
    const head = make("tr", {}, ...["#", "token", "P(refusal)", "P(token)", "likeliest"].map(text => make("th", {textContent: text, scope: "col"})));
    details.append(make("div", {className: "wide", tabIndex: 0}, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows))));
  });
  return details;
}

/** Underline the positions at or above the threshold; it costs no request, so it follows the slider. */
function markAlarms() {
  const limit = threshold();
  for (const one of shown) {
    const {positions} = one.answer;
    const alarms = positions.map(position => limit !== null && position.refusal >= limit);
    one.tokens.forEach((token, place) => token.classList.toggle("alarm", alarms[place]));
    const number = alarms.filter(Boolean).length;
    one.section.querySelector(".alarms").textContent = limit === null ? "no threshold"
      : number ? `${number} of ${positions.length} positions reach ${limit}, first at token ${alarms.indexOf(true) + 1}`
        : `no position reaches ${limit}`;
  }
}

function move(one, event) {
  const place = one.tokens.indexOf(document.activeElement);
  const next = {ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: one.tokens.length - 1}[event.key];
  if (next === undefined || place < 0 || !one.tokens[next]) return;
  event.preventDefault();
  one.tokens[next].focus();
}

function select(one, place) {
  for (const token of document.querySelectorAll("[aria-selected=true]")) token.removeAttribute("aria-selected");
  for (const token of one.tokens) token.tabIndex = -1;
  one.tokens[place].tabIndex = 0;
  one.tokens[place].setAttribute("aria-selected", "true");
  const position = one.answer.positions[place];
  const before = one.answer.positions.slice(0, place).map(other => other.text).join("");
  const close = make("button", {type: "button", textContent: "Close"});
  close.addEventListener("click", closeDetail);
  const last = place === one.answer.positions.length - 1;
  const title = make("p", {}, last ? "After the last token" : `Token ${place + 1}`,
    `: P(refusal) ${percent(position.refusal)}`, position.probability === null ? "" : `, P(this token) ${percent(position.probability)}`);
  const options = position.alternatives.map(other => {
    const button = make("button", {type: "button", disabled: other.ends},
      make("span", {className: "text", textContent: other.visible || "·"}), ` ${percent(other.probability)}`);
    button.title = other.ends ? "ends the reply" : "continue the answer with this token";
    button.addEventListener("click", () => { $("prefill").value = before + other.text; $("preset").value = ""; run(); });
    return make("li", {}, button);
  });
  $("detail").replaceChildren(make("div", {className: "head"}, title, close), make("ul", {className: "options"}, ...options),
    make("p", {className: "fine", textContent: "The likeliest tokens here. Choose one to continue the answer with it."}));
  $("detail").hidden = false;
}

function closeDetail() {
  $("detail").hidden = true;
}

function follow(event) {
  if (event.target.id === "slider") $("threshold").value = Number((10 ** Number($("slider").value)).toPrecision(2));
  else if (threshold()) $("slider").value = Math.log10(threshold());
  markAlarms();
}

async function start() {
  setup = await (await fetch("setup")).json();
  $("length").value = setup.max_new_tokens;
  $("banned").value = [...new Set(setup.models.flatMap(model => model.refusal_words).flatMap(word => [word, word[0].toLowerCase() + word.slice(1)]))].join(", ");
  for (const {name} of setup.models) {
    $("models").append(make("label", {}, make("input", {type: "checkbox", value: name, checked: true}), name), make("br"));
  }
  $("start").hidden = !setup.examples.length;
  setup.examples.forEach((one, place) => $("example").append(make("option", {value: place, textContent: one.name})));
  const first = setup.examples[0];
  fill(first ? first.messages : [{role: "user", content: ""}], first ? first.prefill : "");
  if (first) $("example").value = "0";
}

$("example").addEventListener("change", event => {
  const one = setup.examples[event.target.value];
  if (!one) return;
  fill(one.messages, one.prefill);
  if (one.banned.length) $("banned").value = one.banned.join(", ");
});
$("preset").addEventListener("change", event => { $("prefill").value = event.target.value; });
$("add-turn").addEventListener("click", () => {
  const roles = [...document.querySelectorAll("#turns select")].map(one => one.value);
  addTurn(roles.at(-1) === "user" ? "assistant" : "user", "").focus();
});
$("question").addEventListener("submit", event => { event.preventDefault(); run(); });
$("question").addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); }
});
$("stop").addEventListener("click", () => { if (running) running.abort(); });
for (const id of ["slider", "threshold"]) {
  $(id).addEventListener("input", follow);
  $(id).addEventListener("change", () => { if (shown.length && $("force").checked) run(true); });
}
document.addEventListener("keydown", event => { if (event.key === "Escape") closeDetail(); });
start();
