"use strict";
// Shows all replies of the report: filters, sorts and searches them. The fragment of the address has the filters, so
// that every view has a link. Text of models is only ever set as text, never as markup.
(async () => {
  const PAGE = 50;
  const FIELDS = ["suite", "attack", "variant", "dataset", "category", "method", "judge", "class", "seed"];
  const KEYS = [...FIELDS, "first", "differ", "second", "disagree", "text", "request", "sort"];
  const SVG = "http://www.w3.org/2000/svg";
  const OPPOSITES = { refused: "not_refused", harmful: "harmless", correct: "wrong" };
  const find = (id) => document.getElementById(id);
  const root = find("explorer");
  if (root === null || typeof DecompressionStream === "undefined") return; // the page without script stays

  const data = await decompress(find("replies").textContent);
  const cases = data.groups.flatMap((group) => group.requests.map((request) => ({ ...request, group })));
  cases.forEach((one, index) => { one.index = index; });
  const included = cases.reduce((sum, one) => sum + one.replies.length, 0);
  const manySeeds = new Set(cases.flatMap((one) => one.replies.map((reply) => reply.seed))).size > 1;
  const list = find("cases");
  let state = {}; // filters by key; an absent key does not filter
  let found = []; // {one: a case, replies: its replies that match}, in the order of display
  let displayed = 0;
  let inPage = false; // the next change of the fragment comes from a control: do not scroll

  async function decompress(text) {
    const binary = atob(text);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i += 1) bytes[i] = binary.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  // --- elements -----------------------------------------------------------------------------------------------------

  /** Return a new element; children are elements or texts, and null and "" are left out. */
  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children.filter((child) => child !== null && child !== ""));
    return element;
  }

  /** Return a name with places to break after "_". */
  function breakable(name) {
    const element = make("bdi", {});
    name.split("_").forEach((part, index) => {
      if (index > 0) element.append("_", document.createElement("wbr"));
      element.append(part);
    });
    return element;
  }

  function methodName(name) {
    const style = data.styles[name];
    const key = document.createElementNS(SVG, "svg");
    for (const [attribute, value] of [["class", "key"], ["viewBox", "0 0 28 10"], ["aria-hidden", "true"]]) {
      key.setAttribute(attribute, value);
    }
    const use = document.createElementNS(SVG, "use");
    use.setAttribute("href", `#key${style}`);
    key.append(use);
    return make("span", { class: `method m${style}` }, key, breakable(name));
  }

  function placeName(group) {
    const element = make("span", { class: "place" }, breakable(group.attack || group.name));
    if (group.attack && group.variant) {
      element.append(" ", make("span", { class: "variant" }, make("bdi", {}, group.variant)));
    }
    if (group.attack && group.dataset) element.append(" (", make("bdi", {}, group.dataset), ")");
    return element;
  }

  function chip([text, kind], times = 1) {
    return make("span", { class: `chip ${kind}` }, times > 1 ? `${text} ×${times}` : text);
  }

  const count = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  const plural = (number, one, many) => `${count(number)} ${number === 1 ? one : many}`;

  function seedNames(reply) {
    const names = [];
    if (reply.seed !== null && manySeeds) names.push(" ", make("span", { class: "seed" }, `seed ${reply.seed}`));
    if (reply.sample) names.push(" ", make("span", { class: "seed" }, `sample ${reply.sample}`));
    return names;
  }

  function cutNote(omitted) {
    if (!omitted) return null;
    return make("p", { class: "cut" }, `Truncated: ${count(omitted)} more characters are in the run folder.`);
  }

  const pre = (...texts) => make("pre", { dir: "auto" }, ...texts);

  function judgeLine(judge) {
    const line = make("li", {}, ...judge.chips.map((each) => chip(each)), " ");
    line.append(make("span", { class: "judge" }, make("bdi", {}, judge.judge), judge.text ? ":" : ""));
    if (judge.text) {
      line.append(" ", make("span", { class: "reason", dir: "auto" }, judge.text + (judge.omitted ? "…" : "")));
    }
    return line;
  }

  function replyBody(reply) {
    if (reply.missing) return make("p", { class: "empty" }, reply.missing);
    if (!reply.before && !reply.after) return make("p", { class: "empty" }, "The reply is empty.");
    if (reply.after === null) return pre(reply.before);
    const start = make("span", { class: "refusal-start" }, "refusal starts");
    return pre(reply.before, start, make("span", { class: "refusal" }, reply.after));
  }

  function replyView(reply) {
    const judges = reply.judges.length ? reply.judges.map(judgeLine) : [make("li", {}, chip(reply.outcome))];
    const name = make("h5", {}, methodName(reply.method), ...seedNames(reply));
    const view = make("article", { class: `reply m${data.styles[reply.method]}` }, name);
    view.append(make("ul", { class: "verdicts" }, ...judges));
    if (reply.prefill !== null) {
      const tag = make("p", { class: "tag" }, "Prefill by the attack, not generated by the model");
      const note = cutNote(reply.prefill.omitted);
      view.append(make("div", { class: "prefill" }, tag, pre(reply.prefill.text), note));
    }
    const end = [reply.position, reply.stop].filter(Boolean).join("; ");
    const position = end ? make("p", { class: "position" }, end) : null;
    view.append(replyBody(reply), ...[cutNote(reply.omitted), position].filter(Boolean));
    return view;
  }

  function promptView(prompt) {
    const receivers = prompt.receivers.flatMap((name, index) => [index ? ", " : " to ", make("bdi", {}, name)]);
    const view = make("details", { class: "prompt" }, make("summary", {}, "Prompt as sent", ...receivers));
    for (const part of prompt.parts) {
      view.append(make("p", { class: "tag" }, part.role), pre(part.text), ...[cutNote(part.omitted)].filter(Boolean));
    }
    return view;
  }

  /** Fill an opened case: the request, its prompts, and the replies that match the filters; the others on demand. */
  function fill(details, { one, replies }) {
    const { suite, attack, variant, dataset } = one.group;
    const place = { suite, attack, variant, dataset, request: one.id };
    const link = make("a", { href: address(place) }, "Link to this request");
    const grid = make("div", { class: "replies" }, ...replies.map(replyView));
    const request = [make("h4", {}, "Request"), pre(one.request.text), cutNote(one.request.omitted)];
    const body = make("div", { class: "harm" }, ...request, ...one.prompts.map(promptView), grid);
    const others = one.replies.filter((reply) => !replies.includes(reply));
    const actions = make("p", { class: "actions" }, link);
    if (others.length) {
      const more = make("button", { type: "button" }, `Show the other ${plural(others.length, "reply", "replies")}`);
      more.addEventListener("click", () => {
        grid.replaceChildren(...one.replies.map(replyView));
        link.focus();
        more.remove();
      });
      actions.prepend(more, " ");
    }
    body.append(actions);
    details.append(body);
    if (state.text) mark(body, state.text.toLowerCase());
  }

  /** Highlight the searched text in an opened row, without changing its elements. */
  function mark(body, text) {
    if (typeof Highlight === "undefined") return;
    if (!CSS.highlights.has("found")) CSS.highlights.set("found", new Highlight());
    const texts = document.createTreeWalker(body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const node = texts.currentNode;
      const words = node.data.toLowerCase();
      if (words.length !== node.data.length) continue; // positions would be those of other characters
      for (let at = words.indexOf(text); at >= 0; at = words.indexOf(text, at + text.length)) {
        const range = document.createRange();
        range.setStart(node, at);
        range.setEnd(node, at + text.length);
        CSS.highlights.get("found").add(range);
      }
    }
  }

  function caseView(match) {
    const { one, replies } = match;
    const methods = grouped(replies, (reply) => reply.method);
    const outcomes = make("span", { class: methods.size > 3 ? "outcomes" : "outcomes beside" });
    for (const [method, ones] of methods) {
      const kinds = grouped(ones, (reply) => reply.outcome.join());
      const chips = [...kinds.values()].map((same) => chip(same[0].outcome, same.length));
      outcomes.append(make("span", { class: `outcome m${data.styles[method]}` }, methodName(method), " ", ...chips));
    }
    const category = one.category ? make("bdi", { class: "category" }, one.category) : null;
    const head = [make("bdi", { class: "id" }, one.id), " ", placeName(one.group), " ", category];
    const summary = make("summary", {}, ...head, outcomes);
    const details = make("details", { class: "request" }, summary);
    details.addEventListener("toggle", () => {
      if (details.open && details.childElementCount === 1) fill(details, match);
    });
    return make("li", {}, details);
  }

  // --- filters ------------------------------------------------------------------------------------------------------

  /** Return the items by a key, in the order of their first appearance. */
  function grouped(items, keyOf) {
    const groups = new Map();
    for (const item of items) groups.set(keyOf(item), [...(groups.get(keyOf(item)) ?? []), item]);
    return groups;
  }

  const hasClass = (reply, name, judge) => (reply.judges.length
    ? reply.judges.some((one) => (!judge || one.judge === judge) && (!name || one.classes.includes(name)))
    : !judge && (!name || name === "unscored"));

  /** Return pairs of replies to a request with one seed: the first method's refuses (or so), the second's does not. */
  function contrasts(one, filters) {
    const pairs = [];
    const name = Object.hasOwn(OPPOSITES, filters.differ ?? "") ? filters.differ : "refused";
    for (const first of one.replies) {
      if (first.method !== filters.first || !hasClass(first, name, filters.judge)) continue;
      for (const second of one.replies) {
        const paired = first.sample === second.sample
          && (first.seed === second.seed || first.seed === null || second.seed === null);
        if (second.method === filters.second && paired && hasClass(second, OPPOSITES[name], filters.judge)) {
          pairs.push([first, second]);
        }
      }
    }
    return pairs;
  }

  const lower = (texts) => texts.join("\n").toLowerCase();

  function mentions(one, reply, text) {
    const prompts = () => one.prompts.flatMap((prompt) => prompt.parts.map((part) => part.text));
    one.words ??= lower([one.id, one.category, one.request.text, ...prompts()]);
    const reasons = () => reply.judges.map((judge) => judge.text);
    const answer = reply.before + (reply.after ?? "");
    reply.words ??= lower([reply.prefill?.text ?? "", answer, reply.missing, ...reasons()]);
    return one.words.includes(text) || reply.words.includes(text);
  }

  /** Return the replies to a request that match the filters. */
  function matching(one, filters) {
    const { suite, attack, variant, dataset } = one.group;
    const place = { suite, attack, variant, dataset, category: one.category, request: one.id };
    for (const [key, value] of Object.entries(place)) if (filters[key] && filters[key] !== String(value)) return [];
    const text = (filters.text ?? "").toLowerCase();
    const matches = (reply) => (!filters.method || reply.method === filters.method)
      && (!filters.seed || String(reply.seed) === filters.seed)
      && (!filters.disagree || reply.disagree)
      && ((!filters.class && !filters.judge) || hasClass(reply, filters.class, filters.judge))
      && (!text || mentions(one, reply, text));
    if (!filters.first || !filters.second) return one.replies.filter(matches);
    const pairs = contrasts(one, filters).filter((pair) => pair.some(matches)); // both sides stay to be compared
    return [...new Set(pairs.flat())];
  }

  const most = (value) => (match) => -Math.max(...match.replies.map(value));
  const SORTS = {
    harmful: (match) => -match.replies.filter((reply) => hasClass(reply, "harmful")).length,
    disagree: (match) => -match.replies.filter((reply) => reply.disagree).length,
    late: most((reply) => (reply.after === null ? -1 : reply.before.length)),
    long: most((reply) => reply.before.length + (reply.after ?? "").length + reply.omitted),
    request: (match) => match.one.id,
    category: (match) => match.one.category,
  };
  const collator = new Intl.Collator("en", { numeric: true });

  function sorted(matches, name) {
    if (!Object.hasOwn(SORTS, name ?? "")) return matches;
    const value = SORTS[name];
    const keyed = matches.map((match) => ({ match, key: value(match) }));
    const compare = (a, b) => (typeof a === "number" ? a - b : collator.compare(a, b));
    keyed.sort((a, b) => compare(a.key, b.key) || a.match.one.index - b.match.one.index);
    return keyed.map(({ match }) => match);
  }

  // --- display ------------------------------------------------------------------------------------------------------

  function more() {
    const next = found.slice(displayed, displayed + PAGE);
    list.append(...next.map(caseView));
    displayed += next.length;
    const rest = found.length - displayed;
    find("more").hidden = rest === 0;
    find("more").textContent = `Show ${count(Math.min(PAGE, rest))} more of ${plural(rest, "row", "rows")}`;
  }

  function show() {
    found = [];
    let replies = 0;
    for (const one of cases) {
      const matches = matching(one, state);
      if (matches.length) found.push({ one, replies: matches });
      replies += matches.length;
    }
    found = sorted(found, state.sort);
    if (typeof Highlight !== "undefined") CSS.highlights.delete("found");
    const nothing = make("li", { class: "empty" }, "No reply has all of this; clear a filter.");
    list.replaceChildren(...(found.length ? [] : [nothing]));
    displayed = 0;
    more();
    const missing = data.total - included;
    const rest = missing ? ` The page has no room for ${count(missing)} more; they are in the run folder.` : "";
    const rows = plural(found.length, "row", "rows");
    find("shown").textContent = `${count(replies)} of ${count(included)} replies, in ${rows}.${rest}`;
    find("save").disabled = replies === 0;
    find("clear").disabled = Object.keys(state).length === 0;
    const half = Boolean(state.first) !== Boolean(state.second) || (state.first && state.first === state.second);
    find("pair-hint").hidden = !half;
    find("only").hidden = !state.request;
    find("only").textContent = state.request ? `Only request ${state.request} ×` : "";
  }

  // --- address ------------------------------------------------------------------------------------------------------

  function address(filters) {
    const parts = KEYS.filter((key) => filters[key]).map((key) => `${key}=${encodeURIComponent(filters[key])}`);
    return `#transcripts${parts.length ? "?" : ""}${parts.join("&")}`;
  }

  /** Return the filters that a fragment names; null if it is another place of the page. */
  function parse(fragment) {
    if (fragment === "" || fragment === "#" || fragment === "#transcripts") return {};
    if (fragment.startsWith("#t-")) {
      const group = data.groups.find((one) => `#t-${one.slug}` === fragment);
      if (group === undefined) return null;
      const { suite, attack, variant, dataset } = group;
      return { suite, attack, variant, dataset };
    }
    if (!fragment.startsWith("#transcripts?")) return null;
    const query = new URLSearchParams(fragment.slice("#transcripts?".length));
    return Object.fromEntries(KEYS.filter((key) => query.get(key)).map((key) => [key, query.get(key)]));
  }

  function follow() {
    const filters = parse(location.hash);
    const scroll = !inPage && /^#(t-|transcripts\?)/.test(location.hash);
    inPage = false;
    if (filters === null) return;
    state = filters;
    setControls();
    show();
    if (scroll) {
      root.scrollIntoView({ block: "start" });
      root.focus({ preventScroll: true });
    }
  }

  /** Set a filter by a control; typed text replaces the entry of the history, a choice adds one. */
  function choose(key, value, replace = false) {
    const next = address({ ...state, [key]: value });
    if (next === address(state)) return;
    inPage = true;
    if (replace) location.replace(next);
    else location.hash = next;
  }

  // --- controls -----------------------------------------------------------------------------------------------------

  const unique = (values) => [...new Set(values)].filter((value) => value !== "" && value !== null);
  const all = cases.flatMap((one) => one.replies);
  const methods = unique(all.map((reply) => reply.method)).map((name) => [name, name]);
  const same = (values) => unique(values).map((value) => [String(value), String(value)]);
  const OPTIONS = {
    suite: data.groups.map((group) => [group.suite, group.title]),
    attack: same(data.groups.map((group) => group.attack)),
    variant: same(data.groups.map((group) => group.variant)),
    dataset: same(data.groups.map((group) => group.dataset)),
    category: same(cases.map((one) => one.category)).sort((a, b) => collator.compare(a[0], b[0])),
    method: methods,
    judge: same(all.flatMap((reply) => reply.judges.map((judge) => judge.judge))),
    class: data.classes,
    seed: same(all.map((reply) => reply.seed)).sort((a, b) => collator.compare(a[0], b[0])),
    first: methods,
    second: methods,
  };

  function setControls() {
    for (const control of root.querySelectorAll("select, input")) {
      const value = state[control.name] ?? "";
      if (control.type === "checkbox") control.checked = value !== "";
      else if (control.tagName === "INPUT") {
        if (document.activeElement !== control) control.value = value;
      } else {
        if (![...control.options].some((option) => option.value === value)) {
          control.append(make("option", { value }, `${value} (none)`));
        }
        control.value = value;
      }
      control.classList.toggle("set", value !== "");
    }
  }

  function fillControls() {
    for (const [key, options] of Object.entries(OPTIONS)) {
      const control = root.querySelector(`select[name="${key}"]`);
      for (const [value, title] of new Map(options)) control.append(make("option", { value }, title));
      const few = new Map(options).size < 2;
      control.closest(".field").hidden = few;
      if (few && (key === "first" || key === "second")) find("pair").hidden = true;
    }
    if (!all.some((reply) => reply.disagree)) {
      const control = root.querySelector("[name=disagree]");
      control.disabled = true;
      control.parentElement.append(" (nowhere)");
    }
  }

  // --- table of what is shown ---------------------------------------------------------------------------------------

  /** Return a cell of a CSV file; a text that a program for tables would run as a formula gets an apostrophe. */
  function cell(value) {
    const text = String(value ?? "");
    const safe = /^[\s\u00a0]*[=+\-@\uff1d\uff0b\uff0d\uff20]|^[\t\r\n]/.test(text) ? `'${text}` : text;
    return `"${safe.replaceAll('"', '""')}"`;
  }

  function table() {
    const judges = OPTIONS.judge.map(([name]) => name);
    const header = [
      "suite", "attack", "variant", "dataset", "category", "request_id", "method", "seed", "sample", "outcome",
      ...judges.flatMap((name) => [`${name}: classes`, `${name}: reason`]),
      "judges_disagree", "refusal", "request", "prefill", "reply",
    ];
    const rows = found.flatMap(({ one, replies }) => replies.map((reply) => {
      const { suite, attack, variant, dataset } = one.group;
      const verdicts = judges.flatMap((name) => {
        const judge = reply.judges.find((each) => each.judge === name);
        return [judge?.classes.join(" "), judge?.text];
      });
      const answer = reply.before + (reply.after ?? "");
      return [
        suite, attack, variant, dataset, one.category, one.id, reply.method, reply.seed, reply.sample, reply.outcome[0],
        ...verdicts, reply.disagree, reply.position, one.request.text, reply.prefill?.text, answer,
      ];
    }));
    return `\ufeff${[header, ...rows].map((row) => row.map(cell).join(",")).join("\r\n")}\r\n`;
  }

  function save() {
    const url = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
    make("a", { href: url, download: "replies.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  // --- keys ---------------------------------------------------------------------------------------------------------

  function focusCase(item) {
    item?.querySelector("summary")?.focus();
  }

  /** Move between requests while one of them has the focus; Escape closes the one with the focus. */
  function press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const item = event.target.closest("#cases > li");
    const onSummary = event.target === item?.querySelector("summary");
    if (item === null) return;
    if (event.key === "Escape") {
      item.querySelector("details").open = false;
      focusCase(item);
    } else if (event.key === "j" || (event.key === "ArrowDown" && onSummary)) {
      if (item.nextElementSibling === null) more();
      focusCase(item.nextElementSibling);
    } else if (event.key === "k" || (event.key === "ArrowUp" && onSummary)) {
      focusCase(item.previousElementSibling);
    } else return;
    event.preventDefault();
  }

  fillControls();
  for (const control of root.querySelectorAll("select, input[type=checkbox]")) {
    const value = () => (control.type !== "checkbox" ? control.value : control.checked ? "1" : "");
    control.addEventListener("change", () => choose(control.name, value()));
  }
  const search = root.querySelector("[name=text]");
  let timer = 0;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => choose("text", search.value.trim(), true), 200);
  });
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    clearTimeout(timer);
    choose("text", search.value.trim(), true);
    setTimeout(() => focusCase(list.firstElementChild), 50);
  });
  find("clear").addEventListener("click", () => {
    search.value = "";
    inPage = true;
    location.hash = "#transcripts";
  });
  find("only").addEventListener("click", () => choose("request", ""));
  find("more").addEventListener("click", () => {
    const last = list.lastElementChild;
    more();
    focusCase(last.nextElementSibling);
  });
  find("save").addEventListener("click", save);
  list.addEventListener("keydown", press);
  window.addEventListener("hashchange", follow);
  for (const link of document.querySelectorAll("a[data-filter]")) {
    link.setAttribute("href", `#transcripts?${link.dataset.filter}`);
  }

  show(); // if anything above is wrong, the page without script stays
  find("static-transcripts").remove();
  root.hidden = false;
  follow();
  root.dataset.ready = "";
  performance.mark("replies-listed");
})();
