// Players: one sound at a time; moving to another system of the same utterance goes on at the same moment.
(function () {
  "use strict";
  document.documentElement.classList.add("js");
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  let current = null;

  function take(button) {
    const box = button.closest(".take");
    return {
      box: box,
      button: button,
      audio: box.querySelector("audio"),
      head: box.querySelector(".playhead"),
      clock: box.querySelector(".clock"),
    };
  }

  function show(part) {
    const length = part.audio.duration || 1;
    part.head.style.transform = "translateX(" + (100 * part.audio.currentTime) / length + "%)";
    part.clock.textContent = part.audio.currentTime.toFixed(1) + " s";
  }

  function follow() {
    if (!current) return;
    show(current);
    // Whoever asked for less motion gets a playhead that steps with the clock instead of gliding.
    if (still.matches) window.setTimeout(follow, 500);
    else window.requestAnimationFrame(follow);
  }

  function stop() {
    if (!current) return;
    const part = current;
    current = null;
    part.audio.pause();
    part.box.classList.remove("playing");
    part.button.setAttribute("aria-pressed", "false");
  }

  function play(part, from) {
    stop();
    current = part;
    if (from !== undefined) part.audio.currentTime = from;
    part.box.classList.add("playing");
    part.button.setAttribute("aria-pressed", "true");
    part.audio.play().catch(function (reason) {
      if (reason.name !== "AbortError") part.clock.textContent = "cannot play";
      if (current === part) stop();
    });
    follow();
  }

  function moveTo(button, buttons) {
    buttons.forEach(function (other) { other.tabIndex = other === button ? 0 : -1; });
    button.focus();
    if (current && current.button !== button && buttons.includes(current.button)) {
      play(take(button), Math.min(current.audio.currentTime, take(button).audio.duration || Infinity));
    }
  }

  function seek(part, seconds) {
    const last = part.audio.duration || 0;
    part.audio.currentTime = Math.min(Math.max(seconds, 0), last);
    show(part);
  }

  function onKey(event, button, buttons) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const part = take(button);
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step && event.shiftKey) seek(part, part.audio.currentTime + step);
    else if (step) moveTo(buttons[(buttons.indexOf(button) + step + buttons.length) % buttons.length], buttons);
    else if (event.key === "Home") seek(part, 0);
    else if (event.key === "Escape") stop();
    else return;
    event.preventDefault();
  }

  function onClick(event, button, buttons) {
    const part = take(button);
    const picture = event.target.closest(".picture");
    buttons.forEach(function (other) { other.tabIndex = other === button ? 0 : -1; });
    if (picture && event.detail > 0) {
      const frame = picture.getBoundingClientRect();
      play(part, ((event.clientX - frame.left) / frame.width) * part.audio.duration);
    } else if (current && current.button === button) stop();
    else play(part, part.audio.ended ? 0 : undefined);
  }

  document.querySelectorAll(".takes").forEach(function (group) {
    const buttons = Array.from(group.querySelectorAll(".play"));
    buttons.forEach(function (button, place) {
      button.tabIndex = place ? -1 : 0;
      button.addEventListener("click", function (event) { onClick(event, button, buttons); });
      button.addEventListener("keydown", function (event) { onKey(event, button, buttons); });
      const part = take(button);
      part.audio.addEventListener("ended", function () {
        show(part);
        if (current && current.button === button) stop();
      });
    });
  });
})();
