// What can be done with the timeline's events: hover, select, search, pin, save.
window.tracelensTimeline = window.tracelensTimeline || {};
(() => {
  "use strict";
  const T = window.tracelensTimeline;
  const HOVER_MS = 40, CLICK_PX = 4;

  const more = {
    timeAt(x) {
      return this.view.t0 + ((x - T.LABELS) / this.view.w) * (this.view.t1 - this.view.t0);
    },

    xOf(t) {
      return T.LABELS + ((t - this.view.t0) / (this.view.t1 - this.view.t0)) * this.view.w;
    },

    /** The lane, row and mark (or merged pixel) at a place of the canvas. */
    at(x, y) {
      const inside = y - T.RULER + this.scroll;
      const item = y < T.RULER ? null : this.items.find((i) => inside >= i.y && inside < i.y + i.h);
      if (!item || item.type !== "lane" || x < T.LABELS) return { item };
      const depth = Math.min(item.info.rows - 1, Math.floor((inside - item.y) / (item.one + 1)));
      const row = `${item.rank}.${item.lane}.${depth}`;
      const seen = this.rows.get(row);
      if (!seen) return { item, row };
      const ns = (seen.t1 - seen.t0) / seen.w; // of a pixel of the data
      const own = (this.timeAt(x) - seen.t0) / ns;
      const wide = Math.max((this.view.t1 - this.view.t0) / this.view.w / ns, 0.001);
      return { item, row, seen, own, wide, mark: markAt(seen, own, wide) };
    },

    place(e) {
      const box = this.canvas.getBoundingClientRect();
      return { x: e.clientX - box.left, y: e.clientY - box.top, px: e.clientX, py: e.clientY };
    },

    // ----------------------------------------------------------------------------- the mouse
    press(e) {
      if (!this.view || e.button !== 0) return;
      this.canvas.focus({ preventScroll: true });
      this.canvas.setPointerCapture(e.pointerId);
      const at = this.place(e);
      this.drag = { ...at, t: this.timeAt(at.x), pan: e.shiftKey, t0: this.view.t0, t1: this.view.t1, moved: false };
    },

    move(e) {
      if (!this.view) return;
      this.mouse = this.place(e);
      const d = this.drag;
      if (!d) return this.hover();
      d.moved = d.moved || Math.abs(this.mouse.x - d.x) > CLICK_PX;
      if (!d.moved || d.x < T.LABELS) return;
      this.hideTip();
      if (d.pan) {
        const shift = ((d.x - this.mouse.x) / this.view.w) * (d.t1 - d.t0);
        this.show(d.t0 + shift, d.t1 + shift);
      } else {
        const t = this.timeAt(Math.max(T.LABELS, Math.min(this.w, this.mouse.x)));
        this.range = [Math.min(d.t, t), Math.max(d.t, t)];
        this.event = null;
        this.paint();
      }
    },

    release(e) {
      const d = this.drag;
      this.drag = null;
      if (!d || !this.view) return;
      if (!d.moved) this.click(this.place(e));
      else if (!d.pan && this.range) this.askSums();
      this.refresh();
    },

    async click({ x, y }) {
      const at = this.at(x, y);
      if (x < T.LABELS) return this.clickLabel(at.item, x);
      if (at.mark !== undefined && at.mark >= 0) {
        const event = at.seen.event[at.mark];
        if (event >= 0) return this.select({ rank: at.item.rank, event }, false);
        this.range = [at.seen.x0, at.seen.x1].map((s) => at.seen.t0 + (s[at.mark] * (at.seen.t1 - at.seen.t0)) / at.seen.w);
        this.event = null;
        return this.askSums();
      }
      if (at.seen?.pixel) {
        const told = await this.pixel(at);
        if (told?.longest?.event >= 0) return this.select({ rank: at.item.rank, event: told.longest.event }, false);
      }
      return this.clear();
    },

    clickLabel(item, x) {
      if (!item) return;
      if (item.type === "lane" && !item.head) return x > T.LABELS - 22 && this.pin(item);
      if (item.type === "rank" && !item.info.lanes) return void this.ask(String(item.rank));
      this.keepTop(() => (this.open.has(item.rank) ? this.open.delete(item.rank) : this.open.add(item.rank)));
    },

    hover() {
      const at = this.at(this.mouse.x, this.mouse.y);
      if (this.mouse.x < T.LABELS) this.paint(); // the star of the lane under it
      this.canvas.style.cursor = this.mouse.x < T.LABELS ? "pointer" : "crosshair";
      const key = at.seen ? `${at.row}/${at.mark >= 0 ? `m${at.seen.event[at.mark]}/${at.mark}` : Math.floor(at.own / at.wide)}` : null;
      if (key && key === this.hovered) return this.placeTip();
      this.hovered = key;
      clearTimeout(this.hovering);
      const empty = !at.seen || (at.mark < 0 && !at.seen.pixel);
      if (empty) return this.hideTip();
      const known = at.mark >= 0 && at.seen.names[at.seen.name[at.mark]];
      if (known) this.tell(this.linesOf(at, known));
      this.hovering = setTimeout(() => this.askHover(at, key), HOVER_MS);
    },

    linesOf(at, name) {
      const cls = this.meta.classes[at.seen.cls[at.mark]][0];
      const ns = (at.seen.t1 - at.seen.t0) / at.seen.w;
      const lasts = (at.seen.x1[at.mark] - at.seen.x0[at.mark]) * ns;
      return [[name, cls, true], [`${cls} · ${at.seen.event[at.mark] < 0 ? T.time(lasts) : "…"}`]];
    },

    async askHover(at, key) {
      const lines = await T.told(this.server, at, this.meta.classes);
      if (lines && key === this.hovered && !this.drag) this.tell(lines);
    },

    pixel(at) {
      return pixel(this.server, at);
    },

    tell(lines) {
      this.tip.replaceChildren(...T.tip(lines, this.meta.classes));
      this.tip.hidden = false;
      this.placeTip();
    },

    placeTip() {
      T.placeTip(this.tip, this.mouse);
    },

    hideTip() {
      clearTimeout(this.hovering);
      this.hovered = null;
      this.tip.hidden = true;
    },

    pressMini(e) {
      if (!this.view) return;
      const [low, high] = this.extent();
      const x = e.clientX - this.mini.getBoundingClientRect().left - T.LABELS;
      const at = low + Math.max(0, Math.min(1, x / this.view.w)) * (high - low);
      const half = (this.view.t1 - this.view.t0) / 2;
      this.show(at - half, at + half);
    },

    // ----------------------------------------------------------------------------- selecting
    async select({ rank, event }, move = true) {
      const e = await this.server.json("event", { of: rank, event }).catch(() => null);
      if (!e || this.gone) return;
      this.event = e;
      this.range = null;
      this.panel.replaceChildren(...T.details(e, (place) => this.select(place)));
      this.openPanel();
      if (move) this.reveal(e);
      this.refresh();
    },

    /** Make an event's lane and time visible. */
    reveal(e) {
      if (this.rank(e.rank).lanes[e.lane]?.hidden) this.open.add(e.rank);
      this.layout();
      const item = this.items.find((i) => i.type === "lane" && !i.pinned && i.rank === e.rank && i.lane === e.lane);
      if (item) {
        const y = item.y + e.depth * (item.one + 1);
        const room = this.h - T.RULER;
        if (y < this.scroll || y + item.one > this.scroll + room) this.scroll = Math.max(0, y - room / 3);
        this.layout();
      }
      const span = this.view.t1 - this.view.t0;
      if (e.t0 > this.view.t1 || e.t0 + e.dur < this.view.t0 || e.dur > span * 3) {
        const wide = Math.max(Math.min(span, 40 * e.dur + 200), 1.5 * e.dur);
        this.show(e.t0 + e.dur / 2 - wide / 2, e.t0 + e.dur / 2 + wide / 2);
      } else if (e.dur / span < 0.001) {
        const wide = 200 * e.dur + 200;
        this.show(e.t0 + e.dur / 2 - wide / 2, e.t0 + e.dur / 2 + wide / 2);
      }
    },

    async askSums() {
      const [t0, t1] = this.range.map(Math.round);
      if (t1 <= t0) return;
      const lanes = this.items.filter((i) => i.type === "lane").map((i) => `${i.rank}.${i.lane}.0`);
      const s = await this.server.json("stats", { t0, t1, rows: [...new Set(lanes)].join(",") }).catch(() => null);
      if (!s || this.gone || !this.range) return;
      this.panel.replaceChildren(...T.sums(s, t1 - t0, this.meta.classes));
      this.openPanel();
      this.refresh();
    },

    openPanel() {
      this.panel.prepend(T.el("button", { class: "tl-button tl-close", onclick: () => this.clear(), "aria-label": "Close" }, "×"));
      this.panel.hidden = false;
      this.panel.scrollTop = 0;
    },

    clear() {
      this.event = this.range = null;
      this.panel.hidden = true;
      this.panel.replaceChildren();
      this.root.querySelector(".tl-help")?.remove();
      this.refresh();
    },

    // ----------------------------------------------------------------------------- commands
    async search(forward, quiet = false) {
      const q = this.input.value;
      if (!q) {
        this.hits = null;
        this.matches.textContent = "";
        return this.refresh();
      }
      const from = this.event ? this.event.t0 : Math.floor(this.view.t0);
      const told = await this.server.json("find", { q, after: Math.round(from), forward: forward ? 1 : 0 }).catch(() => null);
      if (!told || q !== this.input.value) return;
      this.hits = told.n ? told : null;
      this.matches.textContent = told.n ? `${T.many(told.n)} ${told.n === 1 ? "match" : "matches"}` : "no match";
      if (told.next && !quiet) {
        this.matches.textContent = `${T.many(told.at)} of ${T.many(told.n)}`;
        await this.select(told.next);
      }
      this.refresh();
    },

    toggleCpu() {
      const read = this.meta.ranks.filter((r) => r.lanes).map((r) => r.rank);
      this.keepTop(() => (this.open = this.open.size ? new Set() : new Set(read)));
    },

    toggleExposed() {
      this.alone = !this.alone;
      this.paint();
    },

    toggleHelp() {
      const shown = this.root.querySelector(".tl-help");
      if (shown) shown.remove();
      else this.root.append(T.help(() => this.toggleHelp()));
    },

    pin(item) {
      const at = item || (this.mouse && this.at(this.mouse.x, this.mouse.y).item);
      if (!at || at.type !== "lane" || at.head) return;
      const key = `${at.rank}.${at.lane}`;
      const pinned = this.pins.includes(key);
      this.pins = pinned ? this.pins.filter((p) => p !== key) : [...this.pins, key];
      this.layout();
      if (!pinned) this.scroll = 0;
      this.refresh();
    },

    showLegend() {
      this.legend.replaceChildren(...T.legend(this.meta.classes));
    },

    save(format) {
      const [t0, t1] = (this.range || [this.view.t0, this.view.t1]).map(Math.round);
      const lanes = this.items.filter((i) => i.type === "lane").map((i) => `${i.rank}.${i.lane}.0`);
      const rows = [...new Set(lanes)].join(",");
      T.el("a", { href: this.server.url("export", { t0, t1: Math.max(t1, t0 + 1), rows, format }), download: "" }).click();
    },

    savePng() {
      this.canvas.toBlob((blob) => {
        const href = URL.createObjectURL(blob);
        T.el("a", { href, download: "timeline.png" }).click();
        setTimeout(() => URL.revokeObjectURL(href), 1000);
      });
    },
  };

  /** What is at a place of a row, in lines for the tooltip; null where nothing is. */
  T.told = async (server, at, classes) => {
    if (at.mark >= 0) {
      const event = at.seen.event[at.mark];
      if (event < 0) return at.lines || null;
      const e = await server.json("event", { of: at.row.split(".")[0], event }).catch(() => null);
      return e && linesOfEvent(e, classes[at.seen.cls[at.mark]][0]);
    }
    const p = await pixel(server, at);
    return p && p.n ? linesOfPixel(p) : null;
  };

  function pixel(server, at) {
    const ns = (at.seen.t1 - at.seen.t0) / at.seen.w;
    const t0 = Math.floor(at.seen.t0 + Math.floor(at.own / at.wide) * at.wide * ns);
    const t1 = Math.max(t0 + 1, Math.ceil(t0 + at.wide * ns));
    return server.json("pixel", { rows: at.row, t0, t1 }).catch(() => null);
  }

  function linesOfEvent(e, cls) {
    const lines = [[e.name, cls, true], [`${e.means || e.kind} · ${T.time(e.dur)} · at ${T.time(e.t0, 6)}`]];
    if (e.exposed_ns) lines.push([`exposed ${T.time(e.exposed_ns)}`, "exposed communication"]);
    if (e.message_bytes) lines.push([`${T.bytes(e.message_bytes)}${e.group ? ` · ${e.group}` : ""}`]);
    const mine = e.same.find((s) => s.rank === e.rank);
    if (mine && mine.wait !== null) lines.push([`waits ${T.time(mine.wait)} for other ranks`]);
    const by = e.links.find((l) => l.how !== "launched");
    if (by) lines.push([`${by.how} ${by.name}`]);
    if (e.kernels) lines.push([`launched ${T.many(e.kernels)} on the GPU, ${T.time(e.kernels_ns)}`]);
    return lines;
  }

  function linesOfPixel(p) {
    const lines = [[`${T.many(p.n)} ${p.n === 1 ? "event" : "events"} merged here`, null, true]];
    for (const [cls, ns] of p.classes.slice(0, 4)) lines.push([`${cls} ${T.time(ns)}`, cls]);
    if (p.exposed_ns) lines.push([`exposed ${T.time(p.exposed_ns)}`, "exposed communication"]);
    if (p.longest) lines.push([`longest: ${p.longest.name}, ${T.time(p.longest.dur)}`]);
    return lines;
  }

  /** The tooltip beside the mouse, within the window. */
  T.placeTip = (tip, { px, py }) => {
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(px + 14, innerWidth - box.width - 8))}px`;
    tip.style.top = `${py + 18 + box.height > innerHeight ? py - box.height - 10 : py + 18}px`;
  };

  T.markAt = markAt;
  function markAt(seen, own, wide) {
    let low = 0, high = seen.x0.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (seen.x0[middle] <= own) low = middle + 1;
      else high = middle;
    }
    const i = low - 1;
    if (i >= 0 && own < Math.max(seen.x1[i], seen.x0[i] + wide)) return i;
    if (seen.pixel) return -1;
    const near = 3 * wide; // thin marks can be caught
    if (low < seen.x0.length && seen.x0[low] - own < near) return low;
    return i >= 0 && own - seen.x1[i] < near ? i : -1;
  }

  T.extend = () => Object.assign(T.Timeline.prototype, more);
})();
