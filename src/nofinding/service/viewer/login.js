// Asks for the service's token; it is kept in a cookie that no script can read.

import { post } from "./api.js";
import { button, el } from "./dom.js";

/** Shows the form; `then` is called once the service has taken the token. */
export function login(main, then) {
  const wrong = el("p", { class: "error", role: "alert" });
  const token = el("input", {
    id: "token", type: "password", autocomplete: "current-password", required: true,
    spellcheck: "false", maxlength: 1000,
  });
  const enter = async (event) => {
    event.preventDefault();
    wrong.textContent = "";
    try {
      await post("v1/login", { token: token.value });
    } catch (error) {
      wrong.textContent = error.status === 401 ? "That is not the token." : error.message;
      token.select();
      return;
    }
    token.value = "";
    then();
  };
  main.replaceChildren(el("form", { class: "login", on: { submit: enter } },
    el("h1", {}, "Sign in"),
    el("p", {}, "This service asks for its token. Whoever runs it has it."),
    el("input", { type: "text", autocomplete: "username", value: "nofinding", hidden: true }),
    el("label", { for: "token" }, "Token"), token, wrong,
    button("Sign in", () => {}, { type: "submit", class: "main" })));
  token.focus();
}

/** Forgets the token. */
export async function logout() {
  await post("v1/logout", {});
}
