// One picture of two aligned steps, from their state.
window.tracelensTimeline = window.tracelensTimeline || {};
(() => {
  "use strict";
  const T = window.tracelensTimeline;
  const LONGER = "#D55E00", SHORTER = "#009E73";

  T.paintPair = (pair) => {
    const ctx = pair.canvas.getContext("2d");
    const { look, view } = pair;
    const x = (t) => T.LABELS + ((t - view.t0) / (view.t1 - view.t0)) * view.w;
    ctx.fillStyle = look.page;
    ctx.fillRect(0, 0, pair.w, pair.h);
    T.drawRuler(ctx, look, view, pair.h);
    for (const side of pair.sides) paintSide(ctx, pair, side, x);
    paintEnds(ctx, pair, x);
    if (pair.mouse && pair.mouse.x >= T.LABELS) {
      ctx.fillStyle = look.faint;
      ctx.fillRect(pair.mouse.x, T.RULER, 1, pair.h);
    }
  };

  function paintSide(ctx, pair, side, x) {
    const { look, view } = pair;
    if (side.y === undefined) pair.layout();
    ctx.fillStyle = look.side;
    ctx.fillRect(0, side.y, pair.w, 18);
    ctx.font = `600 ${T.font}`;
    ctx.textBaseline = "middle";
    ctx.fillStyle = look.text;
    ctx.fillText(side.word, 6, side.y + 9.5);
    ctx.font = T.font;
    ctx.fillStyle = look.faint;
    const left = side.left ? ` · ${side.left} more rows on the timeline` : "";
    ctx.fillText(`${side.name} · rank ${side.rank}, step ${side.step}: ${T.time(side.t1 - side.t0)}${left}`, 56, side.y + 9.5);
    if (side.state) ctx.fillText(side.state, T.LABELS + 6, side.y + 40);
    const own = { t0: side.t0 + view.t0, t1: side.t0 + view.t1, w: view.w };
    ctx.save();
    ctx.beginPath();
    ctx.rect(T.LABELS, side.y + 18, view.w, side.bottom - side.y);
    ctx.clip();
    for (const item of side.items) {
      ctx.fillStyle = look.lane;
      ctx.fillRect(T.LABELS, item.y, view.w, item.h);
      const seen = side.rows.get(item.key);
      if (seen) T.drawRow(ctx, look, seen, own, item.y, item.h, false);
    }
    shade(ctx, pair, side, x);
    ctx.restore();
    for (const item of side.items) {
      ctx.font = T.font;
      ctx.fillStyle = item.kind === "whole" ? look.text : look.faint;
      T.label(ctx, item.label, 16, item.y + item.h / 2, T.LABELS - 6);
    }
  }

  /** What is not the step itself fades. */
  function shade(ctx, pair, side, x) {
    const a = x(0), b = x(side.t1 - side.t0), top = side.y + 18, high = side.bottom - top;
    ctx.fillStyle = pair.look.dark ? "rgba(31,33,36,.72)" : "rgba(255,255,255,.72)";
    if (a > T.LABELS) ctx.fillRect(T.LABELS, top, a - T.LABELS, high);
    if (b < pair.w) ctx.fillRect(Math.max(b, T.LABELS), top, pair.w, high);
  }

  /** Where each step ends, and how much longer the second is. */
  function paintEnds(ctx, pair, x) {
    const { look } = pair;
    const [before, after] = pair.sides;
    const ends = pair.sides.map((s) => x(s.t1 - s.t0));
    const low = before.bottom;
    ctx.save();
    ctx.beginPath();
    ctx.rect(T.LABELS, 0, pair.view.w, pair.h);
    ctx.clip();
    ctx.fillStyle = look.text;
    for (const side of pair.sides) ctx.fillRect(x(0), side.y + 18, 1, side.bottom - side.y - 18);
    ctx.fillRect(ends[0], before.y + 18, 1, low - before.y);
    ctx.fillRect(ends[1], after.y + 18, 1, after.bottom - after.y - 18);
    ctx.fillRect(ends[1], low + 6, 1, 12);
    const more = after.t1 - after.t0 - (before.t1 - before.t0);
    ctx.fillStyle = more > 0 ? LONGER : SHORTER;
    ctx.fillRect(Math.min(...ends), low + 8, Math.max(Math.abs(ends[1] - ends[0]), 2), 8);
    const share = (100 * more) / Math.max(before.t1 - before.t0, 1);
    const sign = more > 0 ? "+" : "";
    const text = `${sign}${T.time(more)} (${sign}${share.toFixed(1)} %)`;
    ctx.font = `600 ${T.font}`;
    ctx.textBaseline = "middle";
    ctx.textAlign = "right";
    ctx.fillText(text, Math.min(Math.min(...ends) - 6, pair.w - 6), low + 12.5);
    ctx.textAlign = "left";
    ctx.restore();
  }
})();
