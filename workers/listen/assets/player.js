// The player: takes of one clip that share a moment, salience to seek in, tokens of the moment, bytes.
import { ask, byId, bytes, clock, counted, draw, grouped, make, show, spell } from "./common.js";

const NAMES = { original: "Original", restored: "From its tokens" };
const WINDOW_S = 60;
const PEAKS = 500;
const PATIENCE_MS = 2000;

export class Player {
  constructor(onChange, onFilter) {
    this.onChange = onChange;
    this.onFilter = onFilter;
    this.query = null;
    this.clip = null;
    this.audios = {};
    this.preferred = "restored";
    this.window = [0, 0];
    this.frame = null;
    this.still = window.matchMedia("(prefers-reduced-motion: reduce)");
    for (const [id, span] of [["salience", () => this.window], ["overview", () => [0, this.clip.duration_s]]]) {
      byId(id).addEventListener("click", (event) => {
        const box = byId(id).getBoundingClientRect();
        const [from, to] = span();
        this.seek(from + ((event.clientX - box.left) / box.width) * (to - from));
        this.play();
      });
    }
    byId("frame-box").addEventListener("toggle", () => this.lookAtFrame());
    byId("range").addEventListener("submit", (event) => {
      event.preventDefault();
      const [start, end] = [byId("from").value || "0", byId("to").value];
      const range = { recording: this.query.recording, start };
      this.open(end ? { ...range, end } : range, true);
    });
  }

  key() { return this.query && new URLSearchParams(this.query).toString(); }

  get audio() { return this.audios[this.chosen]; }

  get playing() { return Boolean(this.audio && !this.audio.paused); }

  // Sound is asked for before anything else: it is what somebody waits for.
  async open(query, play) {
    this.stop();
    for (const audio of Object.values(this.audios)) {
      audio.remove();
      audio.removeAttribute("src");
      audio.load();
    }
    this.query = query;
    this.clip = this.frame = null;
    this.audios = {};
    const key = this.key();
    this.begun = Promise.resolve();
    if (play && this.takes.includes(this.preferred)) {
      this.choose(this.preferred);
      this.begun = this.sounding(this.audio);
      this.play();
    }
    byId("hear").scrollTop = 0;
    byId("nothing").hidden = true;
    document.querySelector(".columns").classList.add("chosen");
    show(byId("clip-fault"), "");
    history.replaceState(null, "", "#" + key);
    this.onChange();
    try {
      const clip = await ask("/api/clip", query);
      if (key === this.key()) this.render(clip);
    } catch (error) {
      if (key === this.key()) this.fail(error.message);
    }
  }

  fail(message) {
    byId("player").hidden = false;
    byId("clip-title").textContent = this.query.id || this.query.recording || "";
    show(byId("clip-fault"), message);
  }

  // Pictures wait for the sound: the same tokens are decoded for both, and the ear comes first.
  sounding(audio) {
    return new Promise((resolve) => {
      for (const name of ["playing", "error", "pause"]) audio.addEventListener(name, resolve, { once: true });
      window.setTimeout(resolve, PATIENCE_MS);
    });
  }

  element(take) {
    if (!this.audios[take]) {
      const audio = new Audio("/sound?" + new URLSearchParams({ ...this.query, take }));
      audio.preload = "auto";
      const query = this.query;
      audio.addEventListener("error", () => { if (audio.hasAttribute("src")) this.tellFault(query, take); });
      for (const name of ["play", "pause", "ended", "playing"]) audio.addEventListener(name, () => this.changed());
      audio.dataset.take = take;
      byId("player").append(audio);
      this.audios[take] = audio;
    }
    return this.audios[take];
  }

  async tellFault(query, take) {
    if (query !== this.query) return;
    const answer = await fetch("/sound?" + new URLSearchParams({ ...query, take })).catch(() => null);
    const told = answer && !answer.ok ? await answer.json().catch(() => null) : null;
    if (query === this.query) show(byId("clip-fault"), told ? told.error : "This browser cannot play it.");
  }

  choose(take) {
    this.chosen = take;
    this.element(take);
    for (const box of byId("takes").children) {
      const chosen = box.dataset.take === take;
      box.classList.toggle("chosen", chosen);
    }
  }

  async play() {
    if (!this.audio) return;
    const audio = this.audio;
    if (audio.ended) audio.currentTime = 0;
    try {
      await audio.play();
    } catch (error) {
      if (error.name === "NotAllowedError") show(byId("clip-fault"), "The browser wants a click before it plays.");
    }
  }

  stop() { if (this.audio) this.audio.pause(); }

  toggle() { if (this.playing) this.stop(); else this.play(); }

  switchTo(take) {
    if (take === this.chosen) return;
    const [at, playing] = [this.now(), this.playing];
    this.stop();
    this.choose(take);
    this.preferred = take;
    this.audio.currentTime = at;
    if (playing) this.play();
    this.changed();
  }

  swap() {
    const takes = this.clip ? this.clip.takes : [];
    if (takes.length > 1) this.switchTo(takes[(takes.indexOf(this.chosen) + 1) % takes.length]);
  }

  now() { return this.audio ? this.audio.currentTime : 0; }

  seek(seconds) {
    if (!this.clip || !this.audio) return;
    this.audio.currentTime = Math.min(Math.max(seconds, 0), Math.max(this.clip.duration_s - 0.01, 0));
    this.follow(true);
  }

  step(direction, byFrame) { this.seek(this.now() + direction * (byFrame && this.clip ? this.clip.frame_s : 1)); }

  changed() {
    for (const box of byId("takes").children) {
      const playing = this.playing && box.dataset.take === this.chosen;
      box.classList.toggle("playing", playing);
      box.querySelector(".play").setAttribute("aria-pressed", String(playing));
    }
    this.onChange();
    this.follow();
  }

  follow(once = false) {
    if (!this.clip) return;
    const at = Math.min(this.now(), this.clip.duration_s);
    if (at < this.window[0] || at > this.window[1]) this.look(Math.floor(at / WINDOW_S));
    const share = (at - this.window[0]) / (this.window[1] - this.window[0] || 1);
    for (const box of byId("takes").children) {
      box.querySelector(".playhead").style.transform = "translateX(" + 100 * share + "%)";
      if (box.dataset.take === this.chosen) box.querySelector(".clock").textContent = clock(at) + " / " + clock(this.clip.duration_s);
    }
    this.point(byId("salience"), share, at);
    this.point(byId("overview"), at / (this.clip.duration_s || 1), at);
    this.lookAtFrame();
    if (!once && this.playing && !this.following) {
      this.following = true;
      const again = () => { this.following = false; this.follow(); };
      if (this.still.matches) window.setTimeout(again, 500);
      else window.requestAnimationFrame(again);
    }
  }

  point(svg, share, at) {
    const needle = svg.querySelector(".needle");
    if (!needle) return;
    needle.setAttribute("x1", 1000 * share);
    needle.setAttribute("x2", 1000 * share);
    svg.setAttribute("aria-valuenow", at.toFixed(1));
    svg.setAttribute("aria-valuetext", clock(at) + " of " + clock(this.clip.duration_s));
  }

  render(clip) {
    this.clip = clip;
    byId("player").hidden = false;
    const single = "id" in this.query;
    byId("clip-kind").textContent = this.kind(clip);
    byId("clip-title").textContent = clip.title;
    byId("clip-text").textContent = (single && clip.utterances[0].columns.text) || "";
    this.renderMeta(single);
    byId("windows").hidden = !("recording" in this.query);
    const takes = byId("takes");
    takes.replaceChildren(...clip.takes.map((take) => this.take(take)));
    if (clip.takes.length) this.choose(clip.takes.includes(this.preferred) ? this.preferred : clip.takes[0]);
    for (const id of ["salience", "overview"]) byId(id).setAttribute("aria-valuemax", clip.duration_s.toFixed(1));
    byId("from").max = byId("to").max = clip.duration_s.toFixed(1);
    if (clip.duration_s > WINDOW_S) this.hills(byId("overview"), 0, clip.duration_s);
    byId("overview").style.display = clip.duration_s > WINDOW_S ? "" : "none";
    this.look(0);
    this.renderSizes();
    this.renderKnown(single);
    this.renderSave();
    this.changed();
  }

  kind(clip) {
    if ("try" in this.query) return "Your own voice";
    if ("id" in this.query) return "Utterance";
    if (!("start" in this.query)) return "Recording";
    const start = Number(this.query.start);
    return "Recording, " + clock(start) + " to " + clock(start + clip.duration_s);
  }

  renderMeta(single) {
    const columns = this.clip.utterances[0] ? this.clip.utterances[0].columns : {};
    const parts = [document.createTextNode(spell(this.clip.duration_s))];
    const link = (text, action) => parts.push(" · ", make("button", { type: "button", className: "link-button", text, onclick: action }));
    if (!("try" in this.query)) {
      if (columns.speaker) link("speaker " + columns.speaker, () => this.onFilter({ speaker: columns.speaker }));
      if (single) link("its whole recording", () => this.open({ recording: columns.recording_id }, true));
      else link("its " + counted(this.clip.utterances.length, "utterance"), () => this.onFilter({ recording: this.query.recording }));
    }
    if (this.clip.lacks_original) parts.push(" · the original is not at hand");
    byId("clip-meta").replaceChildren(...parts);
  }

  take(name) {
    const length = clock(this.clip.duration_s);
    const picture = make("span", { className: "picture" },
      make("img", { alt: "Spectrogram, " + NAMES[name].toLowerCase(), width: 480, height: 88 }),
      make("span", { className: "playhead" }));
    const button = make("button", { type: "button", className: "play", "aria-pressed": "false", "aria-label": NAMES[name] + ", " + length },
      make("span", { className: "heading" }, make("span", { className: "sign", "aria-hidden": "true" }),
        make("span", { className: "system", text: NAMES[name] }), make("span", { className: "clock", text: length })), picture);
    button.addEventListener("click", (event) => this.pressed(name, event, picture));
    return make("div", { className: "take waiting", "data-take": name }, button);
  }

  pressed(name, event, picture) {
    const same = name === this.chosen;
    if (!same) this.switchTo(name);
    if (event.target.closest(".picture") && event.detail > 0) {
      const box = picture.getBoundingClientRect();
      this.seek(this.window[0] + ((event.clientX - box.left) / box.width) * (this.window[1] - this.window[0]));
      this.play();
    } else if (same) this.toggle();
    else this.play();
  }

  // The part of a long clip that pictures and salience show.
  look(number) {
    const last = Math.max(Math.ceil(this.clip.duration_s / WINDOW_S) - 1, 0);
    const from = Math.min(number, last) * WINDOW_S;
    this.window = [from, Math.min(from + WINDOW_S, this.clip.duration_s)];
    const [start, end] = this.window;
    this.hills(byId("salience"), start, end);
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => make("span", { text: clock(start + share * (end - start)) }));
    byId("ruler").replaceChildren(...ticks);
    byId("window-note").textContent = last ? "Below: " + clock(start) + " to " + clock(end) + " of " + clock(this.clip.duration_s) : "";
    const overview = byId("overview");
    overview.querySelectorAll(".window").forEach((old) => old.remove());
    const scale = 1000 / (this.clip.duration_s || 1);
    overview.prepend(draw("rect", { class: "window", x: start * scale, width: (end - start) * scale, y: 0, height: 100 }));
    for (const box of byId("takes").children) this.picture(box, start, end);
  }

  picture(box, start, end) {
    if (end <= start) return;
    const image = box.querySelector("img");
    const query = { ...this.query, take: box.dataset.take, from: start, to: end };
    box.classList.add("waiting");
    this.begun.then(() => { image.src = "/picture?" + new URLSearchParams(query); });
    image.onload = () => box.classList.remove("waiting");
    image.onerror = () => ask("/picture", query).catch((error) => {
      box.querySelector(".clock").textContent = "not at hand";
      box.title = error.message;
    });
  }

  hills(svg, from, to) {
    const scale = 1000 / (to - from || 1);
    svg.replaceChildren();
    for (const one of this.clip.utterances) {
      const begin = one.start_s;
      if (begin > to || begin + one.duration_s < from) continue;
      const points = [];
      const stride = Math.max(1, Math.floor(((to - from) / this.clip.frame_s) / PEAKS));
      for (let i = 0; i < one.salience.length; i += stride) {
        const value = Math.max(...one.salience.slice(i, i + stride));
        for (const edge of [i, Math.min(i + stride, one.salience.length)]) {
          const second = Math.min(begin + edge * this.clip.frame_s, begin + one.duration_s);
          points.push(((second - from) * scale).toFixed(1) + "," + (96 - (90 * value) / 255).toFixed(1));
        }
      }
      if (!points.length) continue;
      const edges = [begin, begin + one.duration_s].map((second) => ((second - from) * scale).toFixed(1) + ",100");
      svg.append(draw("polygon", { class: "hill", points: [edges[0], ...points, edges[1]].join(" ") }));
      svg.append(draw("polyline", { class: "ridge", points: points.join(" ") }));
    }
    svg.append(draw("rect", { class: "here", x: 0, y: 0, width: 0, height: 100 }));
    svg.append(draw("line", { class: "needle", x1: 0, x2: 0, y1: 0, y2: 100 }));
  }

  // Tokens are asked for when their box is open and another frame sounds.
  async lookAtFrame() {
    if (!byId("frame-box").open || !this.clip || this.asking) return;
    const at = Math.min(this.now(), Math.max(this.clip.duration_s - 0.001, 0));
    if (this.frame && this.frame.of === this.key() && at >= this.frame.start_s && at < this.frame.end_s) return;
    this.asking = true;
    const key = this.key();
    try {
      const { frame } = await ask("/api/frame", { ...this.query, at });
      if (key !== this.key()) return;
      if (frame) this.renderFrame({ ...frame, of: key });
      else this.tellSilence("Silence: nothing is stored for this moment.", at);
    } catch (error) {
      if (key === this.key()) this.tellSilence(error.message, at);
    } finally {
      this.asking = false;
    }
  }

  tellSilence(message, at) {
    byId("frame-note").textContent = message;
    byId("tokens").replaceChildren();
    this.frame = { of: this.key(), start_s: at, end_s: at + this.clip.frame_s / 4 };
  }

  renderFrame(frame) {
    this.frame = frame;
    byId("frame-note").textContent = "Frame " + (frame.number + 1) + " of " + frame.num_frames + ", " +
      frame.start_s.toFixed(2) + " to " + frame.end_s.toFixed(2) + " s, salience " + Math.round((100 * frame.salience) / 255) +
      " %: " + frame.tokens.length + " tokens, below each the levels it packs.";
    const size = Math.ceil(frame.digits.length / frame.tokens.length);
    byId("tokens").replaceChildren(...frame.tokens.map((token, place) => make("li", { text: String(token) },
      make("span", { className: "digits", text: frame.digits.slice(place * size, (place + 1) * size).join(" ") }))));
    const here = byId("salience").querySelector(".here");
    const scale = 1000 / (this.window[1] - this.window[0] || 1);
    here.setAttribute("x", (frame.start_s - this.window[0]) * scale);
    here.setAttribute("width", (frame.end_s - frame.start_s) * scale);
  }

  renderSizes() {
    const { sound, stored, payload } = this.clip.sizes;
    const rows = [["Sound, 16 bit", sound, "of-sound"], ["Tokens, as stored", stored, "of-tokens"], ["Tokens, packed tight", payload, "of-tokens"]];
    byId("less").textContent = payload ? "The tokens need " + grouped(sound / payload) + " times less than the sound." : "";
    byId("sizes").replaceChildren(...rows.map(([name, count, kind]) => {
      const bar = draw("svg", { viewBox: "0 0 1000 10", preserveAspectRatio: "none", "aria-hidden": "true" });
      bar.append(draw("rect", { class: kind, width: sound ? Math.max((1000 * count) / sound, count ? 2 : 0) : 0, height: 10 }));
      const each = this.clip.duration_s ? grouped(count / this.clip.duration_s) + " a second" : "";
      const cell = make("td", { className: "bar-cell" });
      cell.append(bar);
      return make("tr", {}, make("th", { scope: "row", text: name }), make("td", { text: bytes(count) }), make("td", { className: "each", text: each }), cell);
    }));
  }

  renderKnown(single) {
    const known = single ? { ...this.clip.utterances[0].columns, start_s: undefined } : { utterances: this.clip.utterances.length };
    const items = Object.entries({ ...known, frames_of: this.clip.frame_s + " s" });
    byId("known").replaceChildren(...items.filter(([, value]) => value !== undefined).flatMap(([name, value]) => [
      make("dt", { text: name.replaceAll("_", " ") }), make("dd", { text: String(value) })]));
  }

  renderSave() {
    const links = this.clip.takes.flatMap((take, place) => [place ? " · " : "Save as FLAC: ", make("a", {
      href: "/saved?" + new URLSearchParams({ ...this.query, take }), download: "", text: NAMES[take].toLowerCase() })]);
    byId("save").replaceChildren(...links);
  }
}
