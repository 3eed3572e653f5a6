// The timeline: layout of lanes, moving and zooming, selecting. Mounted wherever #timeline appears.
window.tracelensTimeline = window.tracelensTimeline || {};
(() => {
  "use strict";
  const T = window.tracelensTimeline;
  const HEIGHT = { band: 14, whole: 18, stream: 20, range: 14, thread: 14 };
  const HEAD = 18, GAP = 3, BETWEEN = 9, MOST_OPEN = 8, LEAST_NS = 40, MARGIN = 0.25, POLL_MS = 250;

  class Timeline {
    constructor(root) {
      this.root = root;
      this.server = new T.Server(root.dataset.routes, root.dataset.run, root.dataset.rank);
      this.anchor = Number(root.dataset.rank);
      this.url = T.readUrl();
      this.open = new Set(this.url.cpu.map(Number));
      this.pins = this.url.pins.filter((p) => /^\d+\.\d+$/.test(p));
      this.view = null;
      this.range = this.url.s0 !== null && this.url.s1 > this.url.s0 ? [this.url.s0, this.url.s1] : null;
      this.rows = new Map(); // "rank.lane.depth" -> what it looks like
      this.scroll = 0;
      this.meta = null;
      this.items = [];
      this.held = new Set();
      this.drawn = 0; // viewports drawn so far, and how long the last took from the wish to the pixels
      this.build();
      this.listen();
      this.ask(true);
    }

    // ------------------------------------------------------------------------------ the page
    build() {
      const { el } = T;
      const button = (text, title, act) => el("button", { class: "tl-button", title, type: "button", onclick: act }, text);
      this.input = el("input", { class: "tl-search", type: "search", placeholder: "Search events  /", maxlength: 200, "aria-label": "Search events", spellcheck: "false" });
      this.input.value = this.url.q;
      this.matches = el("span", { class: "tl-dim tl-matches" });
      this.where = el("span", { class: "tl-dim tl-where" });
      this.legend = el("div", { class: "tl-legend" });
      this.cpuButton = button("CPU threads", "Show or hide CPU threads (C)", () => this.toggleCpu());
      this.bar = el("div", { class: "tl-bar" }, this.input, this.matches, this.cpuButton,
        button("Fit", "Fit the selection, or everything (F)", () => this.fit()), this.where,
        el("span", { class: "tl-space" }),
        button("PNG", "Save this picture", () => this.savePng()),
        button("CSV", "Save the window as CSV", () => this.save("csv")),
        button("Chrome JSON", "Save the window for Perfetto", () => this.save("json")),
        button("?", "Keys", () => this.toggleHelp()));
      this.cancelButton = button("Cancel reading", "Stop reading ranks; a click on a rank's name reads it", () => this.cancel());
      this.cancelButton.hidden = true;
      this.cancelButton.classList.add("tl-cancel");
      this.where.after(this.cancelButton);
      this.mini = el("canvas", { class: "tl-mini" });
      this.canvas = el("canvas", { class: "tl-canvas", tabindex: "0", "aria-label": "Timeline" });
      this.tip = el("div", { class: "tl-tip", hidden: "" });
      this.panel = el("div", { class: "tl-panel", hidden: "" });
      this.stage = el("div", { class: "tl-stage" }, this.canvas);
      this.root.replaceChildren(this.bar, this.legend, this.mini, this.stage, this.panel, this.tip);
    }

    listen() {
      this.ends = new AbortController();
      const on = (target, type, act, more = {}) =>
        target.addEventListener(type, act, { signal: this.ends.signal, ...more });
      on(document, "keydown", (e) => this.key(e));
      on(document, "keyup", (e) => this.held.delete(e.code));
      on(window, "blur", () => this.held.clear());
      on(this.canvas, "wheel", (e) => this.wheel(e), { passive: false });
      on(this.canvas, "pointerdown", (e) => this.press(e));
      on(this.canvas, "pointermove", (e) => this.move(e));
      on(this.canvas, "pointerup", (e) => this.release(e));
      on(this.canvas, "pointerleave", () => this.hideTip());
      on(this.canvas, "dblclick", () => this.fit());
      on(this.mini, "pointerdown", (e) => this.pressMini(e));
      on(this.mini, "pointermove", (e) => e.buttons && this.pressMini(e));
      on(this.input, "input", () => this.search(true, true));
      on(this.input, "keydown", (e) => {
        if (e.key === "Enter") this.search(!e.shiftKey);
        if (e.key === "Escape") this.canvas.focus();
        e.stopPropagation();
      });
      this.sizes = new ResizeObserver(() => this.resize());
      this.sizes.observe(this.stage);
      this.scheme = new MutationObserver(() => this.recolor());
      this.scheme.observe(document.documentElement, { attributes: true, attributeFilter: ["data-mantine-color-scheme"] });
    }

    end() {
      this.ends.abort();
      this.sizes.disconnect();
      this.scheme.disconnect();
      T.forgetUrl();
      this.gone = true;
    }

    resize() {
      const ratio = window.devicePixelRatio || 1;
      const fit = (canvas, w, h) => {
        canvas.width = Math.round(w * ratio);
        canvas.height = Math.round(h * ratio);
        canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
      };
      this.w = Math.max(this.stage.clientWidth, T.LABELS + 100);
      this.h = this.stage.clientHeight;
      fit(this.canvas, this.w, this.h);
      fit(this.mini, this.w, this.mini.clientHeight);
      if (this.view) this.view.w = this.w - T.LABELS;
      this.layout();
      this.refresh();
      this.askMini();
    }

    recolor() {
      if (!this.meta) return;
      this.look = T.look(this.meta.classes);
      this.paint();
    }

    // --------------------------------------------------------------------------- what there is
    async ask(first) {
      if (this.gone) return;
      let load = {};
      if (first === true) load = { load: String(this.anchor) };
      else if (first) load = { load: first };
      try {
        this.meta = await this.server.json("meta", load);
      } catch {
        this.where.textContent = "The run is not there any more.";
        return;
      }
      if (this.gone) return;
      const ranks = this.meta.ranks;
      const busy = this.meta.state.status === "running" || ranks.some((r) => ["running", "waiting"].includes(r.state.status));
      const anchor = ranks.find((r) => r.rank === this.anchor);
      this.cancelButton.hidden = !this.reading().length;
      this.look = T.look(this.meta.classes);
      if (anchor && anchor.lanes && !this.view) this.begin(anchor);
      this.layout();
      this.refresh();
      if (anchor && anchor.lanes && !this.wanted) {
        this.wanted = true; // the others follow once there is something to see
        const others = ranks.filter((r) => r.rank !== this.anchor && r.state.status === "closed").slice(0, MOST_OPEN - 1);
        if (others.length) return void this.ask(others.map((r) => r.rank).join(","));
      }
      if (busy) setTimeout(() => this.ask(), POLL_MS);
      else this.settle();
    }

    /** The ranks that are being read, or wait for it. */
    reading() {
      return this.meta.ranks.filter((r) => ["running", "waiting"].includes(r.state.status)).map((r) => r.rank);
    }

    async cancel() {
      this.wanted = true; // nor read the others
      await this.server.cancel(this.reading());
      this.ask();
    }

    begin(anchor) {
      const { t0, t1, step } = this.url;
      this.view = { t0: 0, t1: 1, w: this.w - T.LABELS };
      const found = step === null ? null : anchor.steps.find(([n]) => n === step);
      if (t0 !== null && t1 > t0) Object.assign(this.view, { t0, t1 });
      else if (found) Object.assign(this.view, { t0: found[1], t1: found[2] });
      else Object.assign(this.view, { t0: anchor.t0, t1: anchor.t1 });
      this.clamp();
      this.showLegend();
    }

    /** All ranks are read: what the URL selected, and what was searched for. */
    settle() {
      this.askMini();
      if (this.settled) return;
      this.settled = true;
      if (this.url.sel) {
        const [rank, event] = this.url.sel.split(".").map(Number);
        if (this.rank(rank)?.lanes) this.select({ rank, event }, false);
      } else if (this.range) this.askSums();
      if (this.url.q) this.search(true, true);
    }

    rank(number) {
      return this.meta.ranks.find((r) => r.rank === number);
    }

    extent() {
      const read = this.meta.ranks.filter((r) => r.lanes);
      return [Math.min(...read.map((r) => r.t0)), Math.max(...read.map((r) => r.t1))];
    }

    /** Where each lane lies: pinned ones first, then rank by rank. */
    layout() {
      if (!this.meta) return;
      let y = 0;
      this.items = [];
      const put = (item, h) => {
        this.items.push({ ...item, y, h });
        y += h + GAP;
      };
      const lane = (r, i, pinned) => {
        const l = r.lanes[i];
        const one = HEIGHT[l.kind];
        put({ type: "lane", rank: r.rank, lane: i, info: l, one, pinned }, one * l.rows + (l.rows - 1));
      };
      for (const pin of this.pins) {
        const [rank, i] = pin.split(".").map(Number);
        const r = this.rank(rank);
        if (r?.lanes?.[i]) lane(r, i, true);
      }
      if (y) y += BETWEEN;
      for (const r of this.meta.ranks) {
        const steps = (r.lanes || []).findIndex((l) => l.label === "steps" && l.kind === "band");
        if (steps < 0) put({ type: "rank", rank: r.rank, info: r }, HEAD);
        else put({ type: "lane", rank: r.rank, lane: steps, info: r.lanes[steps], one: HEAD, head: r }, HEAD);
        (r.lanes || []).forEach((l, i) => {
          if (i !== steps && (!l.hidden || this.open.has(r.rank))) lane(r, i, false);
        });
        y += BETWEEN;
      }
      this.height = y;
      this.scroll = Math.max(0, Math.min(this.scroll, this.height - (this.h - T.RULER)));
    }

    visible() {
      const top = this.scroll, bottom = this.scroll + this.h - T.RULER;
      return this.items.filter((i) => i.y < bottom && i.y + i.h > top);
    }

    /** Change what lanes there are, with the topmost one staying where it is. */
    keepTop(change) {
      const top = this.items.find((i) => i.y + i.h > this.scroll);
      const off = top ? top.y - this.scroll : 0;
      change();
      this.layout();
      const now = top && this.items.find((i) => i.rank === top.rank && i.lane === top.lane && i.pinned === top.pinned);
      if (now) this.scroll = now.y - off;
      this.layout();
      this.refresh();
    }

    /** Rows in sight, as the server knows them. */
    rowsOf(items) {
      const rows = [];
      const top = this.scroll, bottom = this.scroll + this.h - T.RULER;
      for (const item of items) {
        if (item.type !== "lane") continue;
        for (let d = 0; d < item.info.rows; d++) {
          const y = item.y + d * (item.one + 1);
          if (y < bottom && y + item.one > top) rows.push(`${item.rank}.${item.lane}.${d}`);
        }
      }
      return [...new Set(rows)];
    }

    // -------------------------------------------------------------------------------- pixels
    /** Draw with what is there, and ask for what fits better. */
    refresh() {
      if (!this.view || this.gone) return;
      this.wished = this.wished || performance.now();
      this.paint();
      this.fetchView();
      T.keepUrl({
        rank: this.anchor, t0: Math.round(this.view.t0), t1: Math.round(this.view.t1),
        s0: this.range && Math.round(this.range[0]), s1: this.range && Math.round(this.range[1]),
        sel: this.event ? `${this.event.rank}.${this.event.event}` : this.settled ? null : this.url.sel,
        cpu: [...this.open].join(","), pins: this.pins.join(","), q: this.input.value,
      });
    }

    async fetchView() {
      if (this.busy) return void (this.again = true);
      const rows = this.rowsOf(this.visible());
      if (!rows.length) return;
      this.busy = true;
      const span = this.view.t1 - this.view.t0;
      const t0 = Math.floor(this.view.t0 - MARGIN * span), t1 = Math.ceil(this.view.t1 + MARGIN * span);
      const wished = this.wished;
      this.wished = 0;
      try {
        const told = await this.server.view(t0, Math.max(t1, t0 + 1), Math.round(this.view.w * (1 + 2 * MARGIN)), rows);
        for (const [key, seen] of T.strips(told, this.look)) this.rows.set(key, seen);
        this.arrived = wished || performance.now();
        this.paint();
      } catch {
        this.where.textContent = "The server does not answer.";
      }
      this.busy = false;
      if (this.again) {
        this.again = false;
        this.fetchView();
      }
    }

    paint() {
      if (this.painting) return;
      this.painting = true;
      requestAnimationFrame(() => {
        this.painting = false;
        if (this.gone || !this.w) return;
        T.paint(this);
        if (this.arrived) { // from the wish to see something to the picture of it, ms
          this.latency = performance.now() - this.arrived;
          this.arrived = 0;
          this.drawn += 1;
          this.root.dataset.drawn = this.drawn;
        }
      });
    }

    async askMini() {
      if (!this.meta || !this.view) return;
      const rows = this.meta.ranks.filter((r) => r.lanes)
        .flatMap((r) => r.lanes.map((l, i) => [l, i]).filter(([l]) => l.kind === "whole").map(([, i]) => `${r.rank}.${i}.0`));
      if (!rows.length) return this.paint();
      const [t0, t1] = this.extent();
      this.miniRows = await this.server.view(t0, t1, this.view.w, rows).then((told) => T.strips(told, this.look)).catch(() => null);
      this.paint();
    }

    // -------------------------------------------------------------------------------- moving
    clamp() {
      const [low, high] = this.extent();
      const v = this.view;
      const most = (high - low) * 1.5 + LEAST_NS;
      let span = Math.max(LEAST_NS, Math.min(v.t1 - v.t0, most));
      let middle = (v.t0 + v.t1) / 2;
      middle = Math.max(low, Math.min(high, middle));
      v.t0 = middle - span / 2;
      v.t1 = middle + span / 2;
    }

    zoom(factor, x) {
      const v = this.view;
      const at = v.t0 + ((x - T.LABELS) / v.w) * (v.t1 - v.t0);
      const span = Math.max(LEAST_NS, (v.t1 - v.t0) * factor);
      const share = (at - v.t0) / (v.t1 - v.t0);
      v.t0 = at - share * span;
      v.t1 = v.t0 + span;
      this.clamp();
      this.refresh();
    }

    pan(share) {
      const d = share * (this.view.t1 - this.view.t0);
      this.view.t0 += d;
      this.view.t1 += d;
      this.clamp();
      this.refresh();
    }

    show(t0, t1) {
      Object.assign(this.view, { t0, t1 });
      this.clamp();
      this.refresh();
    }

    fit() {
      if (!this.view) return;
      if (this.event) this.show(this.event.t0 - this.event.dur - 20, this.event.t0 + 2 * this.event.dur + 20);
      else if (this.range) {
        const room = 0.02 * (this.range[1] - this.range[0]);
        this.show(this.range[0] - room, this.range[1] + room);
      } else this.show(...this.extent());
    }

    wheel(e) {
      if (!this.view) return;
      e.preventDefault();
      if (e.ctrlKey || e.metaKey) this.zoom(Math.exp(Math.max(-60, Math.min(60, e.deltaY)) / 150), e.offsetX);
      else if (e.shiftKey || Math.abs(e.deltaX) > Math.abs(e.deltaY)) this.pan((e.deltaX || e.deltaY) / this.view.w);
      else {
        this.scroll = Math.max(0, Math.min(this.scroll + e.deltaY, this.height - (this.h - T.RULER)));
        this.refresh();
      }
    }

    key(e) {
      const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(e.target.tagName) || e.target.isContentEditable;
      if (typing || e.ctrlKey || e.metaKey || e.altKey || !this.view) return;
      const codes = { KeyW: 1, KeyS: 1, KeyA: 1, KeyD: 1, ArrowUp: 1, ArrowDown: 1, ArrowLeft: 1, ArrowRight: 1 };
      if (codes[e.code]) {
        e.preventDefault();
        if (!this.held.has(e.code)) {
          this.held.add(e.code);
          this.step(e.code, 0.12);
          this.glide();
        }
        return;
      }
      const act = {
        f: () => this.fit(), "/": () => this.input.focus(), "?": () => this.toggleHelp(),
        c: () => this.toggleCpu(), e: () => this.toggleExposed(), p: () => this.pin(),
        n: () => this.search(true), N: () => this.search(false), Escape: () => this.clear(),
      }[e.key.length === 1 && e.key !== "N" ? e.key.toLowerCase() : e.key];
      if (act) {
        e.preventDefault();
        act();
      }
    }

    step(code, amount) {
      const x = this.mouse ? Math.max(T.LABELS, this.mouse.x) : T.LABELS + this.view.w / 2;
      if (code === "KeyW" || code === "ArrowUp") this.zoom(1 - amount, x);
      if (code === "KeyS" || code === "ArrowDown") this.zoom(1 / (1 - amount), x);
      if (code === "KeyA" || code === "ArrowLeft") this.pan(-amount);
      if (code === "KeyD" || code === "ArrowRight") this.pan(amount);
    }

    glide() {
      if (this.gliding) return;
      this.gliding = true;
      let last = performance.now();
      const frame = (now) => {
        const amount = Math.min(0.3, (now - last) / 700);
        last = now;
        for (const code of this.held) if (amount > 0) this.step(code, amount);
        if (this.held.size && !this.gone) requestAnimationFrame(frame);
        else this.gliding = false;
      };
      requestAnimationFrame(frame);
    }
  }

  T.Timeline = Timeline;
  T.HEAD = HEAD;

  /** One of each kind where its place is on the page: `now` the timeline, `pair` two aligned steps. */
  function follow() {
    for (const [id, slot, kind] of [["timeline", "now", "Timeline"], ["pair", "pair", "Pair"]]) {
      const root = document.getElementById(id);
      if (T[slot] && T[slot].root !== root) {
        T[slot].end();
        T[slot] = null;
      }
      if (root && !T[slot]) {
        T.extend();
        T[slot] = new T[kind](root);
      }
    }
  }
  const start = () => {
    new MutationObserver(follow).observe(document.body, { childList: true, subtree: true });
    follow();
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else setTimeout(start); // the other files of the timeline come after this one
})();
