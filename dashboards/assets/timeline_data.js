// The timeline's talk with the server, the unpacking of viewports, and its place in the URL.
window.tracelensTimeline = window.tracelensTimeline || {};
(() => {
  "use strict";
  const T = window.tracelensTimeline;

  /** One run on the server, seen from its anchor rank. */
  T.Server = class {
    constructor(routes, run, rank) {
      Object.assign(this, { routes, run, rank });
    }

    url(what, params) {
      const all = new URLSearchParams({ run: this.run, rank: this.rank, ...params });
      return `${this.routes}/${what}?${all}`;
    }

    async json(what, params, signal) {
      const answer = await fetch(this.url(what, params), { signal });
      if (!answer.ok) throw new Error(`${what}: ${answer.status}`);
      return answer.json();
    }

    /** Stop reading ranks; they can be read again. */
    async cancel(ranks) {
      await fetch(this.url("cancel", { load: ranks.join(",") }), { method: "POST" }).catch(() => null);
    }

    /** A viewport of rows ("rank.lane.depth"): a Map from row to what it looks like. */
    async view(t0, t1, w, rows) {
      const answer = await fetch(this.url("view", { t0, t1, w, rows: rows.join(",") }));
      if (!answer.ok) throw new Error(`view: ${answer.status}`);
      return unpack(await answer.arrayBuffer(), rows);
    }
  };

  function unpack(buffer, rows) {
    const size = new DataView(buffer).getUint32(0, true);
    const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
    let at = 4 + size;
    const take = (Type, n) => {
      const found = new Type(buffer, at, n);
      at += Math.ceil(found.byteLength / 4) * 4;
      return found;
    };
    const told = new Map();
    head.rows.forEach((row, i) => {
      const m = row.marks;
      const seen = {
        t0: head.t0, t1: head.t1, w: head.w, n: row.n,
        names: head.names[rows[i].split(".")[0]],
        x0: take(Float32Array, m), x1: take(Float32Array, m),
        event: take(Int32Array, m), name: take(Int32Array, m), cls: take(Uint8Array, m),
      };
      if (row.pixels) {
        seen.pixel = take(Uint8Array, head.w);
        seen.cover = take(Uint8Array, head.w);
      }
      if (row.exposed) seen.exposed = take(Uint8Array, head.w);
      told.set(rows[i], seen);
    });
    return told;
  }

  /** What the URL says: numbers where they are numbers. */
  T.readUrl = () => {
    const q = new URLSearchParams(location.search);
    const number = (name) => (/^-?\d{1,18}$/.test(q.get(name) || "") ? Number(q.get(name)) : null);
    const list = (name) => (q.get(name) || "").split(",").filter((s) => /^[\d.]{1,20}$/.test(s));
    return {
      t0: number("t0"), t1: number("t1"), s0: number("s0"), s1: number("s1"),
      step: number("step"), sel: /^\d+\.\d+$/.test(q.get("sel") || "") ? q.get("sel") : null,
      cpu: list("cpu"), pins: list("pins"), q: (q.get("q") || "").slice(0, 200),
    };
  };

  let pending = null;
  /** Keep what is shown in the URL, so that a copy of it shows the same. */
  T.keepUrl = (state) => {
    clearTimeout(pending);
    pending = setTimeout(() => {
      if (!document.getElementById("timeline")) return;
      const q = new URLSearchParams(location.search);
      q.delete("step");
      for (const [name, value] of Object.entries(state)) {
        if (value === null || value === "" || value === undefined) q.delete(name);
        else q.set(name, value);
      }
      history.replaceState(history.state, "", `${location.pathname}?${q}`);
    }, 200);
  };
  T.forgetUrl = () => clearTimeout(pending);

  const UNITS = [[1e9, "s"], [1e6, "ms"], [1e3, "µs"], [1, "ns"]];
  /** ns as people read them. */
  T.time = (ns, digits = 3) => {
    const size = Math.abs(ns);
    const [one, unit] = UNITS.find(([u]) => size >= u) || UNITS[3];
    return `${(ns / one).toLocaleString("en", { maximumFractionDigits: one === 1 ? 0 : digits })} ${unit}`;
  };
  T.bytes = (n) => {
    const units = ["B", "kB", "MB", "GB", "TB"];
    const k = n > 0 ? Math.min(4, Math.floor(Math.log10(n) / 3)) : 0;
    return `${(n / 1000 ** k).toLocaleString("en", { maximumFractionDigits: 2 })} ${units[k]}`;
  };
  T.many = (n) => n.toLocaleString("en");

  /** An element; children that are text stay text, whatever is in them. */
  T.el = (tag, props = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(props)) {
      if (key === "class") made.className = value;
      else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else made.setAttribute(key, value);
    }
    made.append(...children.filter((c) => c !== null && c !== undefined && c !== ""));
    return made;
  };
})();
