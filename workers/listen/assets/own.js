// Somebody's own voice: recorded here as plain samples, or a file as it is; what comes back opens in the player.
import { ask, byId, clock } from "./common.js";

const REFUSALS = {
  NotAllowedError: "The microphone was refused: allow it beside the address of this page, or drop a file.",
  NotFoundError: "No microphone was found: plug one in, or drop a file.",
  NotReadableError: "Another program holds the microphone: close it, or drop a file.",
};

export class Own {
  constructor(player) {
    this.player = player;
    this.recording = null;
    this.mostSeconds = Number(document.body.dataset.mostS);
    byId("record").addEventListener("click", () => (this.recording ? this.finish() : this.begin()));
    byId("file").addEventListener("change", () => {
      const file = byId("file").files[0];
      if (file) this.send(file, file.name);
      byId("file").value = "";
    });
    const drop = byId("drop");
    for (const name of ["dragenter", "dragover"]) {
      drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
    }
    for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      const file = event.dataTransfer.files[0];
      if (file) this.send(file, file.name);
      else this.tell("That was no file.", true);
    });
  }

  tell(message, bad = false) {
    byId("own-status").textContent = message;
    byId("own-status").classList.toggle("bad", bad);
  }

  async begin() {
    this.player.stop();
    this.tell("");
    let stream = null;
    try {
      if (!navigator.mediaDevices) throw new DOMException("no media devices", "NotFoundError");
      const plain = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
      stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
      const context = new AudioContext();
      await context.audioWorklet.addModule("/assets/capture.js");
      const node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
      this.recording = { stream, context, blocks: [], count: 0 };
      node.port.onmessage = (event) => this.take(event.data);
      context.createMediaStreamSource(stream).connect(node);
      byId("record").setAttribute("aria-pressed", "true");
      byId("record-name").textContent = "Stop";
      this.tell("Recording. Press stop to hear yourself.");
    } catch (error) {
      if (stream) stream.getTracks().forEach((track) => track.stop());
      this.recording = null;
      this.tell(REFUSALS[error.name] || "The microphone cannot be used (" + error.name + "): drop a file.", true);
    }
  }

  take(block) {
    const recording = this.recording;
    if (!recording) return;
    recording.blocks.push(block);
    recording.count += block.length;
    const seconds = recording.count / recording.context.sampleRate;
    if (recording.blocks.length % 8 === 0) {
      byId("recorded").textContent = clock(seconds);
      this.drawLevel(recording.blocks.slice(-8));
    }
    if (seconds >= this.mostSeconds - 0.5) this.finish();
  }

  drawLevel(blocks) {
    const canvas = byId("level");
    const paper = canvas.getContext("2d");
    const loudest = Math.max(...blocks.map((block) => block.reduce((most, value) => Math.max(most, Math.abs(value)), 0)));
    const shift = 6;
    paper.drawImage(canvas, -shift, 0);
    paper.clearRect(canvas.width - shift, 0, shift, canvas.height);
    const height = Math.max(2, Math.sqrt(loudest) * canvas.height);
    paper.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--ours");
    paper.fillRect(canvas.width - shift, (canvas.height - height) / 2, shift - 2, height);
  }

  async finish() {
    const { stream, context, blocks, count } = this.recording;
    this.recording = null;
    stream.getTracks().forEach((track) => track.stop());
    const rate = context.sampleRate;
    byId("recorded").textContent = clock(count / rate);
    await context.close();
    byId("record").setAttribute("aria-pressed", "false");
    byId("record-name").textContent = "Record";
    byId("level").getContext("2d").clearRect(0, 0, 240, 40);
    if (!count) this.tell("Nothing was recorded.", true);
    else await this.send(waveFile(blocks, count, rate), "My recording");
  }

  async send(data, name) {
    this.tell("Making tokens of it …");
    try {
      const made = await ask("/api/try", { name }, { method: "POST", body: data });
      this.tell("");
      await this.player.open({ try: made.try }, true);
      byId("hear").scrollIntoView({ block: "nearest" });
    } catch (error) {
      this.tell(error.message, true);
    }
  }
}

// A mono WAV file of 16-bit samples.
export function waveFile(blocks, count, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * count));
  const letters = (at, text) => [...text].forEach((letter, place) => view.setUint8(at + place, letter.charCodeAt(0)));
  letters(0, "RIFF");
  view.setUint32(4, 36 + 2 * count, true);
  letters(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  letters(36, "data");
  view.setUint32(40, 2 * count, true);
  let at = 44;
  for (const block of blocks) {
    for (const value of block) {
      view.setInt16(at, Math.max(-32768, Math.min(32767, Math.round(value * 32768))), true);
      at += 2;
    }
  }
  return new Blob([view], { type: "audio/wav" });
}
