// How the timeline looks: rows, ruler, arrows, minimap. Everything is drawn on a 2d canvas.
window.tracelensTimeline = window.tracelensTimeline || {};
(() => {
  "use strict";
  const T = window.tracelensTimeline;
  T.LABELS = 168; // width of the lanes' names
  T.RULER = 24;
  const FONT = "11px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif";
  const LEVELS = 16;
  const LEAST_STRIPED = 4; // pixels: stripes in less are not seen, and cost most of a picture

  /** Colours of the scheme that is on. */
  T.look = (classes) => {
    const dark = document.documentElement.dataset.mantineColorScheme === "dark";
    return {
      dark, classes,
      text: dark ? "#dee2e6" : "#212529",
      faint: dark ? "#8b929a" : "#6c757d",
      page: dark ? "#1f2124" : "#ffffff",
      side: dark ? "#26282c" : "#f6f7f9",
      line: dark ? "#35383d" : "#e3e6ea",
      lane: dark ? "#25272b" : "#fafbfc",
      select: dark ? "#ffd43b" : "#111111",
      range: dark ? "rgba(255,212,59,.14)" : "rgba(34,139,230,.12)",
      edge: dark ? "#ffd43b" : "#1c7ed6",
      fill: classes.map(([, color]) => color),
      ink: classes.map(([, color]) => (luminance(color) > 0.42 ? "#10151a" : "#ffffff")),
      shade: shades(classes),
      exposed: classes.findIndex(([name]) => name === "exposed communication"),
    };
  };

  function luminance(hex) {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);
    return 0.2126 * r ** 2.2 + 0.7152 * g ** 2.2 + 0.0722 * b ** 2.2;
  }

  let hatching = null;
  function hatch(ctx) {
    if (hatching) return hatching;
    const tile = document.createElement("canvas");
    tile.width = tile.height = 8;
    const c = tile.getContext("2d");
    c.strokeStyle = "rgba(255,255,255,.55)";
    c.lineWidth = 1.6;
    for (const at of [-8, 0, 8]) {
      c.beginPath();
      c.moveTo(at - 1, 9);
      c.lineTo(at + 9, -1);
      c.stroke();
    }
    hatching = ctx.createPattern(tile, "repeat");
    return hatching;
  }

  /** The merged pixels of an answer as one picture, a line a row: drawing a row is one copy of it. */
  T.strips = (told, look) => {
    const rows = [...told.values()].filter((seen) => seen.pixel);
    if (!rows.length) return told;
    const { w } = rows[0];
    const strip = document.createElement("canvas");
    strip.width = w;
    strip.height = rows.length;
    const ctx = strip.getContext("2d");
    const image = ctx.createImageData(w, rows.length);
    const out = new Uint32Array(image.data.buffer);
    rows.forEach((seen, k) => {
      Object.assign(seen, { strip, line: k });
      const { pixel, cover } = seen;
      for (let i = 0, at = k * w; i < w; i++, at++) {
        if (pixel[i] !== 255) out[at] = look.shade[pixel[i] * LEVELS + ((cover[i] * (LEVELS - 1)) / 255 | 0)];
      }
    });
    ctx.putImageData(image, 0, 0);
    return told;
  };

  /** Each class at each strength, as pixels of an ImageData. */
  function shades(classes) {
    const made = new Uint32Array(classes.length * LEVELS);
    const bytes = new DataView(made.buffer);
    classes.forEach(([, color], cls) => {
      for (let level = 0; level < LEVELS; level++) {
        const at = 4 * (cls * LEVELS + level);
        [1, 3, 5].forEach((i, k) => bytes.setUint8(at + k, parseInt(color.slice(i, i + 2), 16)));
        bytes.setUint8(at + 3, Math.round(255 * (0.22 + (0.78 * level) / (LEVELS - 1))));
      }
    });
    return made;
  }

  /** Runs of neighbouring pixels of one look: calls `paint(from, to, value)` for values > 0. */
  function runs(values, from, to, paint) {
    let start = from;
    for (let i = from + 1; i <= to; i++) {
      if (i === to || values(i) !== values(start)) {
        const value = values(start);
        if (value) paint(start, i, value);
        start = i;
      }
    }
  }

  /** One row of events at y, h pixels high; `seen` may be of another window than `view`. */
  T.drawRow = (ctx, look, seen, view, y, h, dim) => {
    const px = view.w / (view.t1 - view.t0);
    const scale = ((seen.t1 - seen.t0) / seen.w) * px; // pixels of the screen a pixel of the data
    const shift = T.LABELS + (seen.t0 - view.t0) * px;
    const from = Math.max(0, Math.floor((T.LABELS - shift) / scale));
    const to = Math.min(seen.w, Math.ceil((T.LABELS + view.w - shift) / scale));
    if (seen.strip && to > from) {
      ctx.globalAlpha = dim ? 0.25 : 1;
      ctx.imageSmoothingEnabled = false;
      ctx.drawImage(seen.strip, from, seen.line, to - from, 1, from * scale + shift, y, (to - from) * scale, h);
    }
    drawMarks(ctx, look, seen, { scale, shift, view, y, h, dim });
    if (seen.exposed && to > from) drawExposed(ctx, look, seen, { scale, shift, from, to, y, h });
    if (!dim) drawNames(ctx, look, seen, { scale, shift, view, y, h });
    ctx.globalAlpha = 1;
  };

  function drawMarks(ctx, look, seen, { scale, shift, view, y, h, dim }) {
    const right = T.LABELS + view.w;
    ctx.globalAlpha = dim ? 0.25 : 1;
    let shown = -1;
    for (let i = 0; i < seen.x0.length; i++) {
      const a = Math.max(seen.x0[i] * scale + shift, T.LABELS - 2);
      const b = Math.min(seen.x1[i] * scale + shift, right + 2);
      if (b < T.LABELS || a > right) continue;
      const gap = b - a > 4 ? 0.7 : 0; // neighbours stay apart
      if (seen.cls[i] !== shown) ctx.fillStyle = look.fill[(shown = seen.cls[i])];
      ctx.fillRect(a, y, Math.max(b - a - gap, 1), h);
    }
    ctx.globalAlpha = 1;
  }

  function drawExposed(ctx, look, seen, { scale, shift, from, to, y, h }) {
    const level = (i) => (seen.exposed[i] ? 1 + ((seen.exposed[i] * (LEVELS - 1)) / 255 | 0) : 0);
    const wide = [];
    ctx.fillStyle = look.fill[look.exposed];
    runs(level, from, to, (a, b, value) => { // as high as the pixel's share of it
      const high = Math.max(4, (h * value) / LEVELS);
      const box = [a * scale + shift, y + h - high, Math.max((b - a) * scale, 1), high];
      ctx.fillRect(...box);
      if (box[2] >= LEAST_STRIPED) wide.push(box);
    });
    ctx.fillStyle = hatch(ctx);
    for (const box of wide) ctx.fillRect(...box);
  }

  let letterWidth = 0;
  /** Width of a letter of such names, pixels. */
  function letter(ctx) {
    const sample = "exposed communication ncclDevKernel_AllReduce";
    letterWidth = letterWidth || ctx.measureText(sample).width / sample.length;
    return letterWidth;
  }

  function drawNames(ctx, look, seen, { scale, shift, view, y, h }) {
    if (h < 12) return;
    ctx.font = FONT;
    ctx.textBaseline = "middle";
    const right = T.LABELS + view.w;
    const wide = letter(ctx);
    for (let i = 0; i < seen.x0.length; i++) {
      const a = Math.max(seen.x0[i] * scale + shift, T.LABELS);
      const b = Math.min(seen.x1[i] * scale + shift, right);
      if (b - a < 26) continue;
      const name = seen.names && seen.names[seen.name[i]];
      if (!name) continue;
      const room = Math.floor((b - a - 8) / wide);
      const text = name.length > room ? `${name.slice(0, Math.max(room - 1, 1))}…` : name;
      const hatched = seen.exposed && seen.exposed[Math.min(seen.w - 1, Math.max(0, Math.round((a + 4 - shift) / scale)))];
      if (hatched) { // letters on stripes need a ground
        ctx.globalAlpha = 0.85;
        ctx.fillStyle = look.fill[look.exposed];
        ctx.fillRect(a + 2, y + 1, Math.min(ctx.measureText(text).width + 4, b - a - 2), h - 2);
        ctx.globalAlpha = 1;
      }
      ctx.fillStyle = hatched ? "#ffffff" : look.ink[seen.cls[i]];
      ctx.fillText(text, a + 4, y + h / 2 + 0.5);
    }
  }

  /** Round distances for ticks: about `wish` ns apart. */
  T.tick = (wish) => {
    const base = 10 ** Math.floor(Math.log10(Math.max(wish, 1)));
    return [1, 2, 5, 10].map((k) => k * base).find((d) => d >= wish) || 10 * base;
  };

  /** The ruler, and faint lines below it. */
  T.drawRuler = (ctx, look, view, height) => {
    ctx.fillStyle = look.side;
    ctx.fillRect(0, 0, T.LABELS + view.w, T.RULER);
    ctx.font = FONT;
    ctx.textBaseline = "middle";
    const px = view.w / (view.t1 - view.t0);
    const d = T.tick(110 / px);
    const digits = Math.max(0, Math.ceil(Math.log10(unitOf(view.t1) / d)));
    for (let t = Math.ceil(view.t0 / d) * d; t < view.t1; t += d) {
      const x = Math.round(T.LABELS + (t - view.t0) * px) + 0.5;
      ctx.fillStyle = look.line;
      ctx.fillRect(x - 0.5, T.RULER - 6, 1, height);
      ctx.fillStyle = look.faint;
      ctx.fillText(T.time(t || 0, digits), x + 4, T.RULER / 2);
    }
  };
  const unitOf = (ns) => [1e9, 1e6, 1e3, 1].find((u) => Math.abs(ns) >= u) || 1;

  /** A curve from one event to another, with a head. */
  T.drawArrow = (ctx, color, x0, y0, x1, y1) => {
    const bend = Math.max(24, Math.min(90, Math.abs(x1 - x0) / 2));
    ctx.strokeStyle = ctx.fillStyle = color;
    ctx.lineWidth = 1.5;
    ctx.beginPath();
    ctx.moveTo(x0, y0);
    ctx.bezierCurveTo(x0 + bend, y0, x1 - bend, y1, x1, y1);
    ctx.stroke();
    ctx.beginPath();
    ctx.moveTo(x1, y1);
    ctx.lineTo(x1 - 7, y1 - 4);
    ctx.lineTo(x1 - 7, y1 + 4);
    ctx.fill();
  };

  T.font = FONT;
  T.letter = letter;
  T.hatch = hatch;
})();
