// One picture of the timeline, from its state.
window.tracelensTimeline = window.tracelensTimeline || {};
(() => {
  "use strict";
  const T = window.tracelensTimeline;

  T.paint = (tl) => {
    const ctx = tl.canvas.getContext("2d");
    const look = tl.look;
    if (!look) return;
    ctx.fillStyle = look.page;
    ctx.fillRect(0, 0, tl.w, tl.h);
    if (tl.view) {
      T.drawRuler(ctx, look, tl.view, tl.h);
      ctx.save();
      ctx.beginPath();
      ctx.rect(0, T.RULER, tl.w, tl.h - T.RULER);
      ctx.clip();
      for (const item of tl.visible()) paintItem(ctx, tl, item, item.y - tl.scroll + T.RULER);
      paintRange(ctx, tl);
      paintEvent(ctx, tl);
      ctx.restore();
      paintMini(tl);
      tl.where.textContent = `${T.time(tl.view.t1 - tl.view.t0)} shown`;
    } else {
      for (const item of tl.visible()) paintItem(ctx, tl, item, item.y - tl.scroll + T.RULER);
    }
  };

  function paintItem(ctx, tl, item, y) {
    const look = tl.look;
    ctx.font = T.font;
    ctx.textBaseline = "middle";
    if (item.type === "rank") return paintHead(ctx, tl, item, y);
    if (item.head) paintHead(ctx, tl, { ...item, info: item.head }, y);
    ctx.fillStyle = look.lane;
    ctx.fillRect(T.LABELS, y, tl.view.w, item.h);
    ctx.save();
    ctx.beginPath();
    ctx.rect(T.LABELS, y, tl.view.w, item.h);
    ctx.clip();
    for (let d = 0; d < item.info.rows; d++) {
      const seen = tl.rows.get(`${item.rank}.${item.lane}.${d}`);
      const top = y + d * (item.one + 1);
      if (seen && top + item.one > T.RULER && top < tl.h) {
        T.drawRow(ctx, look, seen, tl.view, top, item.one, tl.alone && item.info.kind !== "band");
      }
    }
    ctx.restore();
    if (item.head) return undefined;
    ctx.fillStyle = look.page;
    ctx.fillRect(0, y, T.LABELS, item.h);
    ctx.fillStyle = item.info.kind === "whole" ? look.text : look.faint;
    const name = item.pinned ? `★ ${item.rank}: ${item.info.label}` : item.info.label;
    label(ctx, name, item.pinned ? 6 : 16, y + Math.min(item.h, item.one) / 2, T.LABELS - 24);
    if (tl.mouse && tl.mouse.x < T.LABELS && tl.mouse.y >= y && tl.mouse.y < y + item.h) {
      ctx.fillText(item.pinned ? "★" : "☆", T.LABELS - 18, y + Math.min(item.h, item.one) / 2);
    }
    return undefined;
  }

  const label = (ctx, text, x, y, room) => {
    const most = Math.floor((room - x) / T.letter(ctx));
    ctx.fillText(text.length > most ? `${text.slice(0, most - 1)}…` : text, x, y + 0.5);
  };
  T.label = label;

  /** How far the reading of a rank is, in words. */
  T.stateText = (state) => ({
    closed: "not read yet: click its name to read it", running: `${state.what} …`, waiting: "waiting …",
    failed: `${state.message} ${state.hint || ""}`, cancelled: "cancelled: click its name to read it",
  })[state.status];

  function paintHead(ctx, tl, item, y) {
    const { look } = tl;
    const r = item.info;
    ctx.fillStyle = look.side;
    ctx.fillRect(0, y, tl.w, item.h);
    ctx.fillStyle = look.text;
    ctx.font = `600 ${T.font}`;
    const mark = r.lanes ? (tl.open.has(r.rank) ? "▾" : "▸") : "·";
    ctx.fillText(`${mark} rank ${r.rank}`, 6, y + item.h / 2 + 0.5);
    ctx.font = T.font;
    ctx.fillStyle = look.faint;
    const told = T.stateText(r.state);
    const hidden = r.lanes ? r.lanes.filter((l) => l.hidden) : [];
    const rest = hidden.length ? `${hidden.length} host lanes` : "";
    if (told) ctx.fillText(told, T.LABELS + 6, y + item.h / 2 + 0.5);
    else if (!tl.open.has(r.rank)) label(ctx, rest, 72, y + item.h / 2, T.LABELS);
  }

  function paintRange(ctx, tl) {
    if (!tl.range) return;
    const [a, b] = tl.range.map((t) => tl.xOf(t));
    const x0 = Math.max(a, T.LABELS), x1 = Math.min(b, tl.w);
    if (x1 < x0) return;
    ctx.fillStyle = tl.look.range;
    ctx.fillRect(x0, T.RULER, x1 - x0, tl.h);
    ctx.fillStyle = tl.look.edge;
    if (a >= T.LABELS) ctx.fillRect(a, T.RULER, 1, tl.h);
    if (b <= tl.w) ctx.fillRect(b - 1, T.RULER, 1, tl.h);
    const text = T.time(tl.range[1] - tl.range[0]);
    const wide = ctx.measureText(text).width + 10;
    const x = Math.max(T.LABELS, Math.min((x0 + x1 - wide) / 2, tl.w - wide));
    ctx.fillRect(x, T.RULER + 2, wide, 16);
    ctx.fillStyle = tl.look.dark ? "#10151a" : "#ffffff";
    ctx.fillText(text, x + 5, T.RULER + 10.5);
  }

  /** The box of an event on the screen; null where its lane is not shown. */
  function box(tl, e) {
    const item = tl.items.find((i) => i.type === "lane" && i.rank === e.rank && i.lane === e.lane);
    if (!item) return null;
    const y = item.y - tl.scroll + T.RULER + (e.depth || 0) * (item.one + 1);
    const x = tl.xOf(e.t0);
    return { x, y, w: Math.max(tl.xOf(e.t0 + e.dur) - x, 2), h: item.one };
  }

  function paintEvent(ctx, tl) {
    const e = tl.event;
    if (!e) return;
    ctx.save();
    ctx.beginPath();
    ctx.rect(T.LABELS, T.RULER, tl.view.w, tl.h);
    ctx.clip();
    const mine = box(tl, e);
    const same = e.same.filter((s) => s.event !== undefined).map((s) => box(tl, s)).filter(Boolean);
    ctx.strokeStyle = tl.look.select;
    ctx.lineWidth = 1;
    ctx.setLineDash([3, 3]);
    ctx.beginPath();
    same.forEach((b, i) => (i ? ctx.lineTo(b.x, b.y + b.h / 2) : ctx.moveTo(b.x, b.y + b.h / 2)));
    ctx.stroke();
    ctx.setLineDash([]);
    ctx.lineWidth = 1.5;
    for (const b of same) outline(ctx, b);
    ctx.lineWidth = 2.5;
    if (mine) outline(ctx, mine);
    for (const l of e.links) {
      const other = box(tl, l);
      if (!other || !mine || l.how === "within") continue;
      const [from, to] = l.how === "launched" ? [mine, other] : [other, mine];
      T.drawArrow(ctx, tl.look.select, from.x + Math.min(from.w, 6), from.y + from.h / 2, to.x, to.y + to.h / 2);
    }
    ctx.restore();
  }

  const outline = (ctx, b) => ctx.strokeRect(b.x - 1, b.y - 1, b.w + 2, b.h + 2);

  /** The whole run, drawn again only where something of it has changed. */
  function miniPicture(tl, h) {
    const { look } = tl;
    const [t0, t1] = tl.extent();
    const now = [tl.miniRows, look, tl.mini.width, h, t0, t1];
    if (tl.miniOf && now.every((value, i) => value === tl.miniOf[i])) return tl.miniPicture;
    tl.miniOf = now;
    const picture = document.createElement("canvas");
    picture.width = tl.mini.width;
    picture.height = tl.mini.height;
    const ctx = picture.getContext("2d");
    ctx.scale(picture.width / tl.w, picture.height / h);
    ctx.fillStyle = look.side;
    ctx.fillRect(0, 0, tl.w, h);
    const all = { t0, t1, w: tl.view.w };
    const rows = tl.miniRows ? [...tl.miniRows.values()] : [];
    const top = 6, each = rows.length ? (h - top - 4) / rows.length : 0;
    rows.forEach((seen, i) => T.drawRow(ctx, look, seen, all, top + i * each, Math.max(each - 1, 1), false));
    tl.miniPicture = picture;
    return picture;
  }

  function paintMini(tl) {
    const ctx = tl.mini.getContext("2d");
    const { look } = tl;
    const h = tl.mini.clientHeight;
    const [t0, t1] = tl.extent();
    ctx.drawImage(miniPicture(tl, h), 0, 0, tl.w, h);
    ctx.fillStyle = look.faint;
    ctx.font = T.font;
    ctx.textBaseline = "middle";
    ctx.fillText(`whole run · ${T.time(t1 - t0, 1)}`, 6, h / 2);
    const x = (t) => T.LABELS + ((t - t0) / (t1 - t0)) * tl.view.w;
    if (tl.hits) paintHits(ctx, tl, x);
    const a = Math.max(T.LABELS, x(tl.view.t0)), b = Math.min(tl.w, x(tl.view.t1));
    ctx.fillStyle = look.dark ? "rgba(20,21,23,.6)" : "rgba(255,255,255,.65)";
    ctx.fillRect(T.LABELS, 0, Math.max(0, a - T.LABELS), h);
    ctx.fillRect(b, 0, Math.max(0, tl.w - b), h);
    ctx.strokeStyle = look.edge;
    ctx.lineWidth = 1.5;
    ctx.strokeRect(a, 1, Math.max(b - a, 3), h - 2);
  }

  function paintHits(ctx, tl, x) {
    const { bins, span } = tl.hits;
    const wide = (x(span[1]) - x(span[0])) / bins.length;
    ctx.fillStyle = tl.look.select;
    bins.forEach((n, i) => n && ctx.fillRect(x(span[0]) + i * wide, 0, Math.max(wide, 1.5), 5));
  }
})();
