"use strict";
(() => {
  const FORMAT = "medeyes reader study answers 1";
  const byId = (id) => document.getElementById(id);
  const form = byId("study");
  const { study, reader } = form.dataset;
  const place = `${FORMAT}/${study}/${reader}`;
  const pages = [...form.querySelectorAll(".page")];
  const cases = pages.filter((page) => page.dataset.page === "case");
  const last = pages.length - 1;
  let at = 0;
  let storing = true;

  // What a case holds: read from the form, and put into it.

  const groups = (page, name) => [...page.querySelectorAll(`fieldset[data-rating="${name}"]`)];
  const chosen = (group) => {
    const radio = group.querySelector("input:checked");
    return radio ? Number(radio.value) : null;
  };
  const choose = (group, value) => {
    group.querySelectorAll("input").forEach((radio) => { radio.checked = Number(radio.value) === value; });
  };
  const single = ["correctness", "confidence", "trust"];

  const answerOf = (page) => {
    const answer = { case: Number(page.dataset.case) };
    single.forEach((name) => { answer[name] = chosen(groups(page, name)[0]); });
    answer.usefulness = groups(page, "usefulness").map(chosen);
    answer.comment = page.querySelector("textarea").value;
    answer.left = page.querySelector("input[type=checkbox]").checked;
    return answer;
  };
  const restore = (page, answer) => {
    single.forEach((name) => choose(groups(page, name)[0], answer[name]));
    groups(page, "usefulness").forEach((group, n) => choose(group, answer.usefulness[n]));
    page.querySelector("textarea").value = answer.comment;
    page.querySelector("input[type=checkbox]").checked = answer.left;
  };
  const missing = (page) => [...page.querySelectorAll("fieldset")].filter((group) => chosen(group) === null);
  const stateOf = (page) => {
    if (missing(page).length === 0) return "rated";
    return answerOf(page).left ? "left without a full rating" : "open";
  };

  // What the browser keeps.

  const keep = () => {
    if (!storing) return;
    try {
      localStorage.setItem(place, JSON.stringify({ at, answers: cases.map(answerOf) }));
    } catch (error) {
      storing = false;
      byId("storage").hidden = false;
    }
  };
  const load = () => {
    let kept = null;
    try {
      kept = localStorage.getItem(place);
    } catch (error) {
      storing = false;
      byId("storage").hidden = false;
    }
    if (kept === null) return;
    try {
      const { at: page, answers } = JSON.parse(kept);
      cases.forEach((one, n) => restore(one, answers[n]));
      at = Math.min(Math.max(0, Number(page) || 0), last);
    } catch (error) {
      say("What this browser kept of your answers could not be read; please look through all cases again.");
    }
  };

  // Going from page to page.

  const say = (text) => { byId("message").textContent = text; };
  const unmark = () => form.querySelectorAll(".missing").forEach((group) => group.classList.remove("missing"));

  const summarise = () => {
    const states = cases.map(stateOf);
    const rated = states.filter((state) => state === "rated").length;
    const open = states.filter((state) => state === "open").length;
    byId("progress").value = cases.length - open;
    byId("done").textContent = `${cases.length - open} of ${cases.length} cases done`;
    byId("summary").textContent = `${rated} of ${cases.length} cases are rated in full, ` +
      `${cases.length - rated - open} are left without, ${open} are open.`;
    const items = states.map((state, n) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `Case ${n + 1}: ${state}`;
      button.addEventListener("click", () => show(pages.indexOf(cases[n])));
      const item = document.createElement("li");
      item.append(button);
      return item;
    });
    byId("cases").replaceChildren(...items);
    byId("finish").hidden = open > 0 || at === last;
  };
  const show = (page, focus = true) => {
    at = page;
    unmark();
    pages.forEach((one, n) => { one.hidden = n !== at; });
    byId("back").disabled = at === 0;
    byId("next").hidden = at === last;
    byId("next").textContent = at === 0 ? "Begin" : "Next";
    byId("state").hidden = false;
    summarise();
    keep();
    if (!focus) return;
    say("");
    pages[at].querySelector("h2").focus();
    window.scrollTo(0, 0);
  };
  const leave = (target) => {
    const page = pages[at];
    if (page.dataset.page !== "case" || stateOf(page) !== "open") return show(target);
    const gaps = missing(page);
    unmark();
    gaps.forEach((group) => group.classList.add("missing"));
    say(`Not rated yet: ${gaps.map((group) => group.querySelector("legend").textContent).join(" ")} ` +
      "Choose, or tick the box that says that you go on without.");
    gaps[0].querySelector("input").focus();
  };

  // The file.

  const save = () => {
    const content = { format: FORMAT, study, reader, cases: cases.map(answerOf) };
    const blob = new Blob([`${JSON.stringify(content, null, 1)}\n`], { type: "application/json" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `answers-${reader}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    byId("saved").textContent = `Handed to the browser as ${link.download}; give this file to the organiser.`;
  };

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    const group = event.target.closest("fieldset");
    if (group) group.classList.remove("missing");
    summarise();
    keep();
  });
  byId("back").addEventListener("click", () => show(at - 1));
  byId("next").addEventListener("click", () => leave(at + 1));
  byId("finish").addEventListener("click", () => leave(last));
  byId("save").addEventListener("click", save);
  load();
  show(at, false);
})();
