// The page: which screen is shown, by the part of the address behind the #.

import { ApiError, get } from "./api.js";
import { drift, watch } from "./drift.js";
import { film } from "./film.js";
import { handle, help } from "./keys.js";
import { address } from "./list.js";
import { login, logout } from "./login.js";
import { worklist } from "./worklist.js";

const SCREENS = { worklist, drift, film };
const main = document.getElementById("main");
const connection = document.getElementById("connection");
const leaving = document.getElementById("sign-out");
let screen = { title: "", actions: {}, leave: () => {} };

const everywhere = {
  help,
  worklist: () => { location.hash = address(); },
  drift: () => { location.hash = "#/drift"; },
};

/** Shows the screen that the address names. */
function show() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, rest = ""] = path.split("/");
  const chosen = Object.hasOwn(SCREENS, name) ? name : "worklist";
  for (const each of ["worklist", "drift"]) {
    const link = document.getElementById(`to-${each}`);
    if (each === chosen) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  become(chosen, () => SCREENS[chosen](main, chosen === "film" ? rest : query));
}

/** Leaves the screen there is for another one. */
function become(name, make) {
  document.querySelector("dialog")?.close();
  screen.leave();
  connection.textContent = "";
  main.dataset.screen = name;
  screen = make();
  document.title = `${screen.title} \u2013 nofinding`;
}

function signIn() {
  if (main.dataset.screen === "login") return;
  leaving.hidden = true;
  become("login", () => {
    login(main, begin);
    return { title: "Sign in", actions: {}, leave: () => {} };
  });
}

/** Shows the first screen, once the service says that it lets this browser in. */
async function begin() {
  try {
    const session = await get("v1/session");
    leaving.hidden = !session.token_needed;
    show();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) return;
    connection.textContent = error.message;
    setTimeout(begin, 3000);
  }
}

async function signOut() {
  try {
    await logout();
    signIn();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    connection.textContent = error.message;
  }
}

document.addEventListener("keydown", (event) => {
  if (main.dataset.screen !== "login") {
    handle(event, screen.title, { ...everywhere, ...screen.actions });
  }
});
document.addEventListener("signed-out", signIn);
document.getElementById("help").addEventListener("click", help);
leaving.addEventListener("click", signOut);
window.addEventListener("hashchange", () => main.dataset.screen !== "login" && show());
begin().then(() => watch(document.getElementById("to-drift"), () => main.dataset.screen !== "login"));
