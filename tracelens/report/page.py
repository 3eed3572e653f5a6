"""Style sheet and script of the HTML report. No address is named: the page opens offline."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1d2530; --soft: #5b6573; --line: #dfe3e8;
  --page: #f6f7f9; --card: #ffffff; --grid: rgba(90,100,115,.18); --warn: #a34400; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --soft: #9aa5b3; --line: #2c343f; --page: #12161b; --card: #1a2027;
    --grid: rgba(160,172,190,.18); --warn: #f0a35e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 48px; }
header h1 { font-size: 15px; font-weight: 600; margin: 0; }
header p, .note, footer { color: var(--soft); font-size: 13px; margin: 2px 0 16px; }
.note { margin: 8px 0; max-width: 105ch; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 18px 22px; margin: 16px 0; }
h2 { font-size: 17px; margin: 0 0 10px; }
.verdict .lead { font-size: 19px; line-height: 1.4; font-weight: 600; margin: 0 0 8px; }
.verdict ul { margin: 0; padding-left: 20px; }
.verdict li { margin: 5px 0; max-width: 105ch; }
.cause { display: grid; grid-template-columns: 116px minmax(0, 1fr); gap: 4px 16px;
  border-left: 5px solid var(--mark); padding: 2px 0 2px 14px; margin: 14px 0; }
.price b { display: block; font-size: 18px; font-variant-numeric: tabular-nums; line-height: 1.35; }
.price span { display: block; color: var(--soft); font-size: 13px; }
.price .severity { color: var(--ink); font-weight: 600; }
.cause h3 { font-size: 15px; margin: 1px 0 2px; }
.cause p { margin: 2px 0; max-width: 105ch; }
.cause .soft { color: var(--soft); font-size: 13.5px; }
.cause code { font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
@media (max-width: 560px) { .cause { grid-template-columns: 1fr; } }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 16px 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-left: 5px solid var(--mark);
  border-radius: 8px; padding: 10px 14px; }
.tile b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; line-height: 1.3; }
.tile span { color: var(--soft); font-size: 13px; }
section > :last-child { margin-bottom: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13.5px; margin-top: 8px; }
th, td { padding: 4px 14px 4px 0; text-align: left; vertical-align: top; white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; border-bottom: 1px solid var(--line); }
tbody tr + tr td, tbody tr + tr th { border-top: 1px solid var(--line); }
.n { text-align: right; font-variant-numeric: tabular-nums; }
.setup { width: 100%; }
.setup tbody th { font-weight: 600; }
.setup .evidence { white-space: normal; color: var(--soft); width: 60%; }
.setup .unknown td:nth-child(2), .setup .unknown td:nth-child(3) { color: var(--warn); }
.plot { width: 100%; margin: 0 -4px; }
ul.notes { margin: 0; padding-left: 20px; overflow-wrap: anywhere; }
@media print { section { break-inside: avoid; } }
"""

SCRIPT: Final = """
(function () {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const plots = Array.from(document.querySelectorAll(".plot"));
  function look() {
    const css = getComputedStyle(document.documentElement);
    const of = (name) => css.getPropertyValue(name).trim();
    return { "font.color": of("--ink"), "xaxis.gridcolor": of("--grid"),
      "hoverlabel.bgcolor": of("--card"), "hoverlabel.bordercolor": of("--line"),
      "hoverlabel.font.color": of("--ink") };
  }
  plots.forEach(function (div) {
    const figure = JSON.parse(document.getElementById(div.id + "-data").textContent);
    const config = { responsive: true, displaylogo: false,
      displayModeBar: div.id === "timeline", modeBarButtons: [["zoom2d", "pan2d"],
        ["zoomIn2d", "zoomOut2d", "resetScale2d"], ["toImage"]] };
    Plotly.newPlot(div, figure.data, figure.layout, config)
      .then(function () { return Plotly.relayout(div, look()); });
  });
  dark.addEventListener("change", function () {
    plots.forEach(function (div) { Plotly.relayout(div, look()); });
  });
})();
"""
