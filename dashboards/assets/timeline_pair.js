// Two steps of two runs above each other on one axis that begins where each step begins.
window.tracelensTimeline = window.tracelensTimeline || {};
(() => {
  "use strict";
  const T = window.tracelensTimeline;
  const HEIGHT = { band: 14, whole: 18, stream: 20, range: 14, thread: 14 };
  const HEAD = 20, GAP = 3, BETWEEN = 26, MARGIN = 0.25, LEAST_NS = 40, POLL_MS = 250, HOVER_MS = 40;
  const MOST_HIGH = 360; // of a side, pixels; more lanes are on the timeline

  class Pair {
    constructor(root) {
      this.root = root;
      this.sides = ["before", "after"].map((word) => {
        const told = JSON.parse(root.dataset[word]);
        const server = new T.Server(root.dataset.routes, told.run, String(told.rank));
        return { ...told, word, server, lanes: [], rows: new Map(), state: "reading" };
      });
      this.drawn = 0;
      this.home = this.everything();
      const { w0, w1 } = readUrl();
      const [t0, t1] = w0 !== null && w1 > w0 ? [w0, w1] : this.home;
      this.view = { t0, t1, w: 1 };
      this.held = new Set();
      this.build();
      for (const side of this.sides) this.ask(side, true);
    }

    /** Both steps whole, with a little room. */
    everything() {
      const longest = Math.max(...this.sides.map((s) => s.t1 - s.t0), 1);
      return [-0.02 * longest, 1.04 * longest];
    }

    build() {
      const { el } = T;
      this.canvas = el("canvas", { class: "tl-canvas", tabindex: "0", "aria-label": "Two steps, aligned" });
      this.tip = el("div", { class: "tl-tip", hidden: "" });
      this.legend = el("div", { class: "tl-legend" });
      this.where = el("span", { class: "tl-dim" });
      for (const side of this.sides) {
        side.link = el("a", { class: "tl-pair-link" }, `${side.word} on the timeline →`);
        side.cancel = el("button", { class: "tl-button", type: "button", onclick: () => this.cancel(side) }, `Cancel reading ${side.word}`);
        side.cancel.hidden = true;
      }
      const button = (text, title, act) => el("button", { class: "tl-button", title, type: "button", onclick: act }, text);
      this.bar = el("div", { class: "tl-bar" }, button("Fit", "Fit both steps (F)", () => this.fit()), this.where,
        ...this.sides.map((s) => s.cancel), el("span", { class: "tl-space" }), ...this.sides.map((s) => s.link));
      this.stage = el("div", { class: "tl-pair-stage" }, this.canvas);
      this.root.replaceChildren(this.bar, this.legend, this.stage, this.tip);
      this.ends = new AbortController();
      const on = (target, type, act, more = {}) => target.addEventListener(type, act, { signal: this.ends.signal, ...more });
      on(this.canvas, "wheel", (e) => this.wheel(e), { passive: false });
      on(this.canvas, "pointerdown", (e) => this.press(e));
      on(this.canvas, "pointermove", (e) => this.move(e));
      on(this.canvas, "pointerup", () => (this.drag = null));
      on(this.canvas, "pointerleave", () => this.leave());
      on(this.canvas, "dblclick", () => this.fit());
      on(this.canvas, "keydown", (e) => this.key(e));
      this.sizes = new ResizeObserver(() => this.resize());
      this.sizes.observe(this.stage);
      this.scheme = new MutationObserver(() => this.recolor());
      this.scheme.observe(document.documentElement, { attributes: true, attributeFilter: ["data-mantine-color-scheme"] });
    }

    end() {
      this.gone = true;
      this.ends.abort();
      this.sizes.disconnect();
      this.scheme.disconnect();
      clearTimeout(this.keeping);
    }

    recolor() {
      if (!this.classes) return;
      this.look = T.look(this.classes);
      this.paint();
    }

    // --------------------------------------------------------------------------- what there is
    async ask(side, first) {
      if (this.gone) return;
      const meta = await side.server.json("meta", first ? { load: String(side.rank) } : {}).catch(() => null);
      if (this.gone) return;
      const mine = meta && meta.ranks.find((r) => r.rank === side.rank);
      if (meta && !this.classes) {
        this.classes = meta.classes;
        this.showLegend();
        this.recolor();
      }
      const state = !meta ? { status: "failed", message: "The server does not answer." } : mine ? mine.state : meta.state;
      side.cancel.hidden = !["running", "waiting"].includes(state.status);
      side.state = mine && mine.lanes ? "" : T.stateText(state);
      if (mine && mine.lanes) {
        side.lanes = mine.lanes.map((info, lane) => ({ info, lane })).filter(({ info }) => !info.hidden);
        this.layout();
        this.refresh();
      } else if (!side.cancel.hidden || (meta && meta.state.status === "running")) setTimeout(() => this.ask(side), POLL_MS);
      this.paint();
    }

    async cancel(side) {
      await side.server.cancel([side.rank]);
      this.ask(side);
    }

    layout() {
      let y = T.RULER;
      for (const side of this.sides) {
        side.y = y;
        y += HEAD;
        const until = y + MOST_HIGH;
        side.items = [];
        side.left = 0;
        for (const { info, lane } of side.lanes) {
          for (let depth = 0; depth < info.rows; depth++) {
            const h = HEIGHT[info.kind];
            if (y + h > until) side.left += 1;
            else {
              side.items.push({ key: `${side.rank}.${lane}.${depth}`, label: depth ? "" : info.label, kind: info.kind, y, h });
              y += h + GAP;
            }
          }
        }
        if (!side.items.length) y += 60;
        side.bottom = y;
        y += BETWEEN;
      }
      const high = y - BETWEEN + 8;
      if (this.stage.style.height !== `${high}px`) this.stage.style.height = `${high}px`;
      else this.resize();
    }

    resize() {
      const ratio = window.devicePixelRatio || 1;
      this.w = Math.max(this.stage.clientWidth, T.LABELS + 100);
      this.h = this.stage.clientHeight;
      this.canvas.width = Math.round(this.w * ratio);
      this.canvas.height = Math.round(this.h * ratio);
      this.canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
      this.view.w = this.w - T.LABELS;
      this.refresh();
    }

    refresh() {
      if (this.gone || !this.w) return;
      this.paint();
      for (const side of this.sides) {
        this.fetch(side);
        const q = new URLSearchParams({ run: side.run, rank: side.rank, t0: Math.round(side.t0 + this.view.t0), t1: Math.round(side.t0 + this.view.t1) });
        side.link.href = `/timeline?${q}`;
      }
      clearTimeout(this.keeping);
      this.keeping = setTimeout(() => keepUrl(this.view, this.home), 200);
    }

    async fetch(side) {
      if (!side.items || !side.items.length) return;
      if (side.busy) return void (side.again = true);
      side.busy = true;
      const room = MARGIN * (this.view.t1 - this.view.t0);
      const t0 = Math.floor(side.t0 + this.view.t0 - room), t1 = Math.ceil(side.t0 + this.view.t1 + room);
      const wide = Math.round(this.view.w * (1 + 2 * MARGIN));
      const told = await side.server.view(t0, Math.max(t1, t0 + 1), wide, side.items.map((i) => i.key)).catch(() => null);
      side.busy = false;
      if (this.gone) return;
      if (told) {
        side.rows = T.strips(told, this.look);
        side.drawn = true;
        this.drawn += 1;
        this.paint();
      }
      if (side.again) {
        side.again = false;
        this.fetch(side);
      }
    }

    // -------------------------------------------------------------------------------- moving
    show(t0, t1) {
      const [low, high] = this.home, most = 40 * (high - low);
      const span = Math.max(LEAST_NS, Math.min(t1 - t0, most));
      const middle = Math.max(-most, Math.min(most, (t0 + t1) / 2));
      Object.assign(this.view, { t0: middle - span / 2, t1: middle + span / 2 });
      this.refresh();
    }

    fit() {
      this.show(...this.home);
    }

    pan(share) {
      const d = share * (this.view.t1 - this.view.t0);
      this.show(this.view.t0 + d, this.view.t1 + d);
    }

    zoom(factor, x) {
      const v = this.view, share = Math.max(0, x - T.LABELS) / v.w;
      const at = v.t0 + share * (v.t1 - v.t0), span = Math.max(LEAST_NS, (v.t1 - v.t0) * factor);
      this.show(at - share * span, at + (1 - share) * span);
    }

    wheel(e) {
      if (e.ctrlKey || e.metaKey) this.zoom(Math.exp(Math.max(-60, Math.min(60, e.deltaY)) / 150), e.offsetX);
      else if (e.shiftKey || Math.abs(e.deltaX) > Math.abs(e.deltaY)) this.pan((e.deltaX || e.deltaY) / this.view.w);
      else return; // the page scrolls
      e.preventDefault();
    }

    key(e) {
      if (e.ctrlKey || e.metaKey || e.altKey) return;
      const x = this.mouse ? this.mouse.x : T.LABELS + this.view.w / 2;
      const act = {
        KeyW: () => this.zoom(0.85, x), ArrowUp: () => this.zoom(0.85, x), KeyS: () => this.zoom(1 / 0.85, x),
        ArrowDown: () => this.zoom(1 / 0.85, x), KeyA: () => this.pan(-0.12), ArrowLeft: () => this.pan(-0.12),
        KeyD: () => this.pan(0.12), ArrowRight: () => this.pan(0.12), KeyF: () => this.fit(),
      }[e.code];
      if (!act) return;
      e.preventDefault();
      act();
    }

    place(e) {
      const box = this.canvas.getBoundingClientRect();
      return { x: e.clientX - box.left, y: e.clientY - box.top, px: e.clientX, py: e.clientY };
    }

    press(e) {
      if (e.button !== 0) return;
      this.canvas.focus({ preventScroll: true });
      this.canvas.setPointerCapture(e.pointerId);
      this.drag = { x: this.place(e).x, t0: this.view.t0, t1: this.view.t1 };
    }

    move(e) {
      this.mouse = this.place(e);
      const d = this.drag;
      if (d) {
        const shift = ((d.x - this.mouse.x) / this.view.w) * (d.t1 - d.t0);
        this.hide();
        this.show(d.t0 + shift, d.t1 + shift);
      } else {
        this.hover();
        this.paint(); // the line through both steps
      }
    }

    leave() {
      this.mouse = null;
      this.hide();
      this.paint();
    }

    // --------------------------------------------------------------------------------- hovering
    timeAt(x) {
      return this.view.t0 + ((x - T.LABELS) / this.view.w) * (this.view.t1 - this.view.t0);
    }

    at({ x, y }) {
      for (const side of this.sides) {
        const item = x < T.LABELS ? null : (side.items || []).find((i) => y >= i.y && y < i.y + i.h);
        const seen = item && side.rows.get(item.key);
        if (!seen) continue;
        const ns = (seen.t1 - seen.t0) / seen.w;
        const own = (side.t0 + this.timeAt(x) - seen.t0) / ns;
        const wide = Math.max((this.view.t1 - this.view.t0) / this.view.w / ns, 0.001);
        return { side, item, row: item.key, seen, own, wide, mark: T.markAt(seen, own, wide) };
      }
      return null;
    }

    hover() {
      const at = this.at(this.mouse);
      const key = at && `${at.side.word}/${at.item.key}/${at.mark >= 0 ? `m${at.mark}` : Math.floor(at.own)}`;
      if (key && key === this.hovered) return T.placeTip(this.tip, this.mouse);
      this.hide();
      if (!at || (at.mark < 0 && !at.seen.pixel)) return undefined;
      this.hovered = key;
      this.hovering = setTimeout(() => this.tell(at, key), HOVER_MS);
      return undefined;
    }

    async tell(at, key) {
      const lines = await T.told(at.side.server, at, this.classes);
      if (!lines || key !== this.hovered || !this.mouse || this.drag) return;
      this.tip.replaceChildren(...T.tip(lines, this.classes));
      this.tip.hidden = false;
      T.placeTip(this.tip, this.mouse);
    }

    hide() {
      clearTimeout(this.hovering);
      this.hovered = null;
      this.tip.hidden = true;
    }

    showLegend() {
      this.legend.replaceChildren(...T.legend(this.classes));
    }

    paint() {
      if (this.painting) return;
      this.painting = true;
      requestAnimationFrame(() => {
        this.painting = false;
        if (this.gone || !this.w || !this.look) return;
        T.paintPair(this);
        this.root.dataset.drawn = this.sides.every((s) => s.drawn) ? this.drawn : 0;
        this.where.textContent = `${T.time(this.view.t1 - this.view.t0)} shown, from the beginning of each step`;
      });
    }
  }

  function readUrl() {
    const q = new URLSearchParams(location.search);
    const number = (name) => (/^-?\d{1,15}$/.test(q.get(name) || "") ? Number(q.get(name)) : null);
    return { w0: number("w0"), w1: number("w1") };
  }

  /** The window in the URL, where it is not all of both steps. */
  function keepUrl(view, home) {
    if (!document.getElementById("pair")) return;
    const q = new URLSearchParams(location.search);
    const moved = Math.round(view.t0) !== Math.round(home[0]) || Math.round(view.t1) !== Math.round(home[1]);
    for (const [name, value] of [["w0", view.t0], ["w1", view.t1]]) {
      if (moved) q.set(name, Math.round(value));
      else q.delete(name);
    }
    history.replaceState(history.state, "", `${location.pathname}?${q}`);
  }

  T.Pair = Pair;
})();
