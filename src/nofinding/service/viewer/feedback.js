// What readers say of the result: agree, disagree, a comment. It is stored with the result.

import { ApiError, at, get, post } from "./api.js";
import { button, el, say, section, toggle } from "./dom.js";
import { time } from "./format.js";

const LONGEST = 2000;

/** The form, and what was said before. */
export function feedback(job, signal) {
  const said = el("ul", { class: "said", "aria-label": "Stored feedback" });
  const note = el("p", { class: "note", role: "status" });
  const comment = el("textarea", {
    id: "comment", rows: 2, maxlength: LONGEST, placeholder: "Comment (no patient names)",
    "aria-label": "Comment",
  });
  let verdict = null;
  const choose = (chosen) => {
    verdict = chosen;
    agree.shows(chosen === "agree");
    disagree.shows(chosen === "disagree");
    save.disabled = chosen === null;
  };
  const agree = toggle("Agree", () => choose("agree"), { id: "agree" });
  const disagree = toggle("Disagree", () => choose("disagree"), { id: "disagree" });
  const show = (rows) => said.replaceChildren(...rows.map(remark));
  const path = `v1/jobs/${job.job}/feedback`;
  const send = async () => {
    save.disabled = true;
    try {
      await post(path, { verdict, comment: comment.value }, signal);
      show((await get(path, {}, signal)).feedback);
      comment.value = "";
      choose(null);
      note.textContent = "Stored.";
      say("Feedback stored");
    } catch (error) {
      if (!(error instanceof ApiError)) return;
      note.textContent = error.message;
      save.disabled = false;
    }
  };
  const save = button("Store", send, { class: "main", id: "store", disabled: true });
  get(path, {}, signal).then((answer) => show(answer.feedback)).catch((error) => {
    if (error instanceof ApiError) note.textContent = error.message;
  });
  return section("Your reading", "feedback",
    el("p", { class: "hint" }, "Does the result fit what you see on the film?"),
    el("div", { class: "acts" }, agree, disagree), comment,
    el("div", { class: "acts" }, save, note), said,
    el("p", { class: "hint" }, "All feedback: ",
      el("a", { href: at("v1/feedback", { format: "csv" }), download: "feedback.csv", id: "export" },
        "export as CSV")));
}

function remark({ verdict, comment, who, made }) {
  return el("li", { class: verdict },
    el("strong", {}, verdict), el("span", { class: "when" }, `${time(made)}${who ? `, ${who}` : ""}`),
    comment ? el("p", {}, comment) : null);
}
