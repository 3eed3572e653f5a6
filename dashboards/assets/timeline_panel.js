// What stands around the timeline's canvas: tooltip, details, sums of a range, help. Text only.
window.tracelensTimeline = window.tracelensTimeline || {};
(() => {
  "use strict";
  const T = window.tracelensTimeline;
  const el = T.el;

  const KEYS = [
    ["W S or ↑ ↓", "zoom in and out"], ["A D or ← →", "move"], ["drag", "select a range of time"],
    ["Shift + drag", "move"], ["Ctrl + wheel", "zoom"], ["click", "select an event"],
    ["F", "fit the selection, or everything"], ["/", "search by name"], ["N, Shift + N", "next, previous match"],
    ["C", "show or hide CPU threads"], ["P", "pin the lane under the mouse"],
    ["E", "exposed communication alone"], ["Esc", "give up the selection"], ["?", "this list"],
  ];

  T.help = (close) =>
    el("div", { class: "tl-help", role: "dialog", "aria-label": "Keys" },
      el("div", { class: "tl-help-head" }, el("b", {}, "Keys"),
        el("button", { class: "tl-button", onclick: close, "aria-label": "Close" }, "×")),
      el("dl", {}, ...KEYS.flatMap(([key, what]) => [el("dt", {}, key), el("dd", {}, what)])));

  function table(head, rows, classes = "") {
    const cell = (tag, value) => {
      const node = value instanceof Node ? value : document.createTextNode(String(value));
      return el(tag, typeof value === "string" && /^[\d.,]+( |$|%)/.test(value) ? { class: "num" } : {}, node);
    };
    return el("table", { class: `tl-table ${classes}` },
      el("thead", {}, el("tr", {}, ...head.map((h) => el("th", {}, h)))),
      el("tbody", {}, ...rows.map((r) => el("tr", {}, ...r.map((v) => cell("td", v))))));
  }

  const swatch = (classes, name) => {
    const found = classes.find(([n]) => n === name);
    const made = el("span", { class: name === "exposed communication" ? "tl-swatch tl-hatched" : "tl-swatch" });
    if (found) made.style.backgroundColor = found[1];
    return made;
  };
  T.swatch = swatch;

  /** The colours of GPU work, exposed communication first. */
  T.legend = (classes) => {
    const shown = classes.filter(([, , where]) => where === "gpu").map(([name]) => name).filter((name) => name !== "compute");
    const names = ["exposed communication", ...shown.filter((n) => n !== "exposed communication")];
    return names.map((n) => el("span", {}, swatch(classes, n), n));
  };

  const facts = (pairs) =>
    el("dl", { class: "tl-facts" }, ...pairs.filter(([, v]) => v !== null && v !== undefined && v !== "")
      .flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v instanceof Node ? v : String(v))]));

  /** Everything about one event; `go(place)` shows another one. */
  T.details = (e, go) => {
    const link = (text, place) => el("button", { class: "tl-link", onclick: () => go(place) }, text);
    const left = facts([
      ["what", e.means || e.kind], ["rank", `${e.rank}${e.stream !== undefined ? ` · stream ${e.stream}` : ` · ${e.thread}`}`],
      ["start", T.time(e.t0, 6)], ["duration", T.time(e.dur)],
      ["queued", e.queued_ns === undefined ? null : `${T.time(e.queued_ns)} after its launch`],
      ["step", e.step === undefined || e.step === null ? null : `${e.step}${e.phase ? ` · ${e.phase}` : ""}`],
      ["exposed", e.exposed_ns === undefined ? null : `${T.time(e.exposed_ns)} (${percent(e.exposed_ns, e.dur)})`],
      ["message", e.message_bytes ? `${T.bytes(e.message_bytes)}${e.dtype ? ` · ${e.dtype}` : ""}` : e.bytes ? T.bytes(e.bytes) : null],
      ["group", e.group ? `${e.group}${e.group_size ? ` · ${e.group_size} ranks` : ""}` : null],
      ["launched", e.kernels ? `${T.many(e.kernels)} on the GPU, ${T.time(e.kernels_ns)}` : null],
    ]);
    const links = e.links.slice(0, 12).map((l) =>
      el("div", { class: "tl-row" }, el("span", { class: "tl-how" }, l.how), link(l.name, l),
        el("span", { class: "tl-dim" }, T.time(l.dur))));
    const right = [];
    if (links.length) right.push(el("h4", {}, "Launch"), ...links);
    if (e.same.length) {
      right.push(el("h4", {}, "The same collective on all ranks"), table(["rank", "begins", "duration", "waits for others"],
        e.same.map((s) => [s.event === undefined ? `rank ${s.rank}` : link(`rank ${s.rank}`, s), T.time(s.t0, 6), T.time(s.dur),
          s.wait === null ? "–" : T.time(s.wait)])));
    }
    return [el("h3", { class: "tl-name" }, e.name), el("div", { class: "tl-columns" }, left, el("div", {}, ...right))];
  };

  const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)}%` : "–");

  /** How a range of time was spent. */
  T.sums = (s, span, classes) => {
    const parts = [["compute", "compute"], ["exposed_comm", "exposed communication"], ["exposed_copy", "copy"], ["idle", null]];
    const bar = (r) => {
      const made = el("div", { class: "tl-bar100" });
      for (const [key, cls] of parts) {
        const piece = el("span", { class: cls === "exposed communication" ? "tl-hatched" : "" });
        piece.style.width = `${(100 * r[key]) / r.wall}%`;
        const color = classes.find(([n]) => n === cls);
        piece.style.backgroundColor = color ? color[1] : "transparent";
        made.append(piece);
      }
      return made;
    };
    const ranks = table(["rank", "", "compute", "exposed comm", "exposed copies", "idle", "GPU events"],
      s.ranks.map((r) => [`rank ${r.rank}`, bar(r), ...parts.map(([k]) => `${T.time(r[k])} · ${percent(r[k], r.wall)}`), T.many(r.n)]), "tl-ranks");
    const total = s.names.rows.reduce((sum, r) => sum + r.total, 0);
    const names = table(["", "name", "events", "total", "mean", "longest"],
      s.names.rows.map((r) => [swatch(classes, r.class), el("span", { class: "tl-cut", title: r.name }, r.name), T.many(r.n), T.time(r.total), T.time(r.total / r.n), T.time(r.longest)]), "tl-names");
    return [el("h3", {}, `Selected ${T.time(span)}`), ranks,
      el("h4", {}, `By name, most time first (${T.many(Math.min(s.names.rows.length, s.names.names))} of ${T.many(s.names.names)}; ${T.time(total)})`), names];
  };

  /** The tooltip's lines. */
  T.tip = (lines, classes) =>
    lines.map(([text, cls, bold]) =>
      el("div", bold ? { class: "tl-tip-name" } : {}, cls ? swatch(classes, cls) : "", text));
})();
