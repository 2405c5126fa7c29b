// What every part of the page needs. Texts of the archive are put in by textContent and by nothing else.

export const byId = (id) => document.getElementById(id);

export async function ask(path, values = {}, options = {}) {
  const answer = await fetch(path + "?" + new URLSearchParams(values), options);
  const told = await answer.json().catch(() => ({ error: "the page's server does not answer as it should" }));
  if (!answer.ok) throw new Error(told.error || "refused");
  return told;
}

export function make(tag, values = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(values)) {
    if (name === "text") element.textContent = value;
    else if (name === "className") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function draw(tag, values = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(values)) element.setAttribute(name, value);
  return element;
}

export function show(element, message) {
  element.textContent = message;
  element.hidden = !message;
}

export const grouped = (value) => Math.round(value).toLocaleString("en");
export const counted = (count, noun) => grouped(count) + " " + noun + (count === 1 ? "" : "s");

export function clock(seconds) {
  const whole = Math.floor(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  const two = (value) => String(value).padStart(2, "0");
  if (hours) return hours + ":" + two(minutes) + ":" + two(whole % 60);
  if (minutes) return minutes + ":" + two(whole % 60);
  return seconds.toFixed(1) + " s";
}

export function spell(seconds) {
  if (seconds < 60) return seconds.toFixed(1) + " s";
  if (seconds < 3600) return (seconds / 60).toFixed(1) + " min";
  return (seconds / 3600).toFixed(seconds < 36000 ? 1 : 0) + " h";
}

export function bytes(count) {
  if (count < 10000) return grouped(count) + " bytes";
  if (count < 1e6) return (count / 1e3).toFixed(1) + " kB";
  return (count / 1e6).toFixed(1) + " MB";
}
