// Which films the worklist shows, in which order: the service sorts, the page only asks.

import { get } from "./api.js";

export const MOST = 50; // films of a page
const PLAIN = { order: "p_value", descending: "", state: "", skip: 0 };

let query = PLAIN; // as last shown: the film screen goes through the films in that order
let jobs = [];

/** What is asked for, from the part of the address behind the question mark. */
export function queryOf(text) {
  const given = new URLSearchParams(text);
  const options = { ...PLAIN };
  for (const name of ["order", "descending", "state"]) options[name] = given.get(name) ?? options[name];
  options.skip = Math.max(0, Number.parseInt(given.get("skip") ?? "0", 10) || 0);
  return options;
}

/** The address of the worklist with that query. */
export function address(part = {}) {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries({ ...query, ...part })) {
    if (String(value) !== String(PLAIN[name])) given.set(name, value);
  }
  return `#/worklist${given.size ? `?${given}` : ""}`;
}

/** One page of films, and how many jobs there are of each state. */
export async function page(asked, signal) {
  const answer = await get("v1/jobs", { ...asked, most: MOST }, signal);
  query = asked;
  jobs = answer.jobs.map(({ job }) => job);
  return answer;
}

/** Where a film is in the worklist: its number there from 1, or null. */
export function placeOf(job) {
  const index = jobs.indexOf(job);
  return index < 0 ? null : query.skip + index + 1;
}

/** The job that is `step` films after that one, over the page's edge too; null where none is. */
export async function neighbour(job, step, signal) {
  const before = jobs.indexOf(job);
  await page(query, signal);
  let index = jobs.indexOf(job);
  if (index < 0) index = Math.max(0, before); // it has moved: go on from where it was
  const wanted = index + step;
  if (jobs[wanted]) return jobs[wanted];
  const skip = query.skip + step * MOST;
  const more = step > 0 ? jobs.length === MOST : query.skip > 0;
  if (!more) return null;
  await page({ ...query, skip: Math.max(0, skip) }, signal);
  return (step > 0 ? jobs[0] : jobs.at(-1)) ?? null;
}
