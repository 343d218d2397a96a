"""Style and script of the report's page. Everything is in the page: it opens without a network."""

from __future__ import annotations

STYLE = """
:root {
  --paper: #ffffff; --ground: #f6f7f9; --ink: #1c2430; --muted: #667080; --line: #d5dae1; --grid: #eceff3;
  --hover: #ffffff; --cpu: #4a5566; --cpu-fill: rgba(74,85,102,.10); --limit: #c0392b; --late: #e0a29b;
  --good: #22744e; --bad: #b03024; --note: #fff4d6; --note-ink: #6b5200; --chip: #eef1f5;
  --task-0: #2f6db3; --task-1: #c9771a; --task-2: #2d8a74; --task-3: #8a5aa8; --task-4: #b14a6b; --task-5: #6b7a2c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #171b21; --ground: #0f1216; --ink: #e7ebf0; --muted: #97a1af; --line: #38404b; --grid: #242a32;
    --hover: #20262e; --cpu: #b4becb; --cpu-fill: rgba(180,190,203,.12); --limit: #ef6a5b; --late: #8a4a45;
    --good: #63c093; --bad: #f0796b; --note: #3a3115; --note-ink: #f0d98a; --chip: #242a32;
    --task-0: #6ba6e8; --task-1: #eba355; --task-2: #5dc0a7; --task-3: #bd93d8; --task-4: #e287a5; --task-5: #b0c065;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink); font-size: 16px; line-height: 1.5;
  font-family: Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%;
}
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.02em; font-weight: 680; }
h2 { font-size: 18px; margin: 44px 0 12px; letter-spacing: -.01em; font-weight: 650; }
p { margin: 0 0 12px; max-width: 72ch; }
.lead { color: var(--muted); font-size: 17px; }
.small { color: var(--muted); font-size: 13.5px; }
.note { background: var(--note); color: var(--note-ink); border-radius: 8px; padding: 10px 14px; margin: 0 0 24px;
  font-weight: 560; max-width: none; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; }
.tiles { display: grid; grid-template-columns: repeat(5, 1fr); margin: 24px 0 0; overflow: hidden; }
.tile { padding: 16px 18px; border-left: 1px solid var(--grid); }
.tile:first-child { border-left: 0; }
.tile b { display: block; font-size: 26px; line-height: 1.2; font-weight: 640; letter-spacing: -.02em; }
.tile span { color: var(--muted); font-size: 13.5px; }
.good { color: var(--good); } .bad { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14.5px; }
th, td { padding: 9px 16px; text-align: right; border-top: 1px solid var(--grid); white-space: nowrap; }
thead th { border-top: 0; color: var(--muted); font-weight: 560; font-size: 13.5px; }
tbody th { text-align: left; font-weight: 450; color: var(--muted); }
th:first-child, td:first-child { text-align: left; }
td.first { font-weight: 620; }
thead th.first { color: var(--ink); }
.switch { display: inline-flex; gap: 2px; background: var(--chip); border-radius: 9px; padding: 3px; margin: 0 0 12px;
  flex-wrap: wrap; }
.switch button { font: inherit; font-size: 14px; color: var(--muted); background: none; border: 0; border-radius: 7px;
  padding: 6px 14px; cursor: pointer; }
.switch button[aria-pressed="true"] { background: var(--paper); color: var(--ink); font-weight: 580;
  box-shadow: 0 1px 2px rgba(0,0,0,.14); }
.switch button:focus-visible { outline: 2px solid var(--task-0); outline-offset: 1px; }
.keys { display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 14px 18px 0; font-size: 14px; }
.key::before { content: ""; display: inline-block; width: 14px; height: 3px; border-radius: 2px; margin-right: 7px;
  vertical-align: middle; background: var(--colour); }
.plot { padding: 6px 10px 4px; }
table.numbers { table-layout: fixed; }
.numbers tbody th { white-space: normal; }
.numbers thead th:first-child { width: 40%; }
.decisions th { text-align: left; padding: 9px 12px; }
.decisions td { white-space: normal; vertical-align: top; text-align: left; padding: 9px 12px; }
.decisions td:nth-child(-n+4) { white-space: nowrap; }
.decisions .words { color: var(--muted); min-width: 30ch; }
.tag { background: var(--chip); border-radius: 6px; padding: 1px 8px; font-size: 13px; white-space: nowrap; }
[hidden] { display: none !important; }
footer { margin-top: 40px; }
@media (max-width: 720px) {
  main { padding: 24px 14px 48px; }
  h1 { font-size: 24px; } .lead { font-size: 16px; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .tile { padding: 12px 14px; border-left: 0; border-top: 1px solid var(--grid); }
  .tile:first-child { grid-column: 1 / -1; border-top: 0; }
  .tile:nth-child(odd):not(:first-child) { border-left: 1px solid var(--grid); }
  .tile b { font-size: 22px; }
  th, td { padding: 8px 9px; }
  table.numbers { font-size: 13px; min-width: 452px; } .numbers th, .numbers td { white-space: normal; }
  .numbers thead th:first-child { width: 31%; }
  .plot { padding: 6px 2px 4px; }
  .decisions thead { display: none; }
  .decisions tr { display: flex; flex-wrap: wrap; gap: 2px 10px; padding: 10px 14px;
    border-top: 1px solid var(--grid); }
  .decisions td { border: 0; padding: 0; }
  .decisions .words { flex-basis: 100%; font-size: 14px; }
}
@media print { body { background: #fff; } .switch { display: none; } .card { break-inside: avoid; } }
"""

SCRIPT = """
const runs = JSON.parse(document.getElementById("runs").textContent);
function coloured(value, style) {
  if (typeof value === "string") return value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
  if (Array.isArray(value)) return value.map((item) => coloured(item, style));
  if (value !== null && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, style)]));
  return value;
}
function draw(number) {
  const style = getComputedStyle(document.documentElement);
  const element = document.getElementById("plot-" + number);
  const figure = coloured(runs[number], style);
  figure.layout.font.family = getComputedStyle(document.body).fontFamily;
  const narrow = element.clientWidth < 560;
  if (narrow) {
    figure.layout.margin.l = 52;
    figure.layout.font.size = 11.5;
    figure.layout.xaxis.dtick = 60;
    for (const heading of figure.layout.annotations) {
      heading.text = heading.text.replace(/ \\(.*\\)$/, "");
      heading.font.size = 12;
    }
  }
  Plotly.react(element, figure.data, figure.layout, { displayModeBar: false, responsive: true });
}
function show(number) {
  document.querySelectorAll("[data-run]").forEach((element) => {
    element.hidden = element.dataset.run !== String(number);
  });
  document.querySelectorAll(".switch button").forEach((button, place) =>
    button.setAttribute("aria-pressed", String(place === number)));
  shown = number;
  draw(number);
}
let shown = 0;
document.querySelectorAll(".switch button").forEach((button, place) =>
  button.addEventListener("click", () => show(place)));
const redraw = () => draw(shown);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
matchMedia("(max-width: 720px)").addEventListener("change", redraw);
show(0);
"""
