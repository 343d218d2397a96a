"""Style and script of the page. Everything is in the page: it opens without a network."""

from __future__ import annotations

from rung_porting.show.plot_parts import variable
from rung_porting.show.style import BEATEN, COLOURS, RAMP


def _colours(theme: str) -> str:
    named = [(variable(key), colour) for key, colour in COLOURS.items()]
    named += [(f"--r-{step}", colour) for step, colour in enumerate(RAMP)] + [("--beaten", BEATEN)]
    return " ".join(f"{name}: {getattr(colour, theme)};" for name, colour in named)


STYLE = (
    """
:root {
  --paper: #ffffff; --ground: #f6f7f9; --ink: #1c2430; --muted: #5d6776; --line: #d5dae1; --grid: #eceff3;
  --hover: #ffffff; --limit: #c0392b; --good: #22744e; --chip: #eef1f5; --step: #7d8794; --accent: #2f6db3;
  --note: #fff4d6; --note-ink: #6b5200;
  """
    + _colours("light")
    + """
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #171b21; --ground: #0f1216; --ink: #e7ebf0; --muted: #9ba5b3; --line: #38404b; --grid: #242a32;
    --hover: #20262e; --limit: #ef6a5b; --good: #63c093; --chip: #242a32; --step: #8b95a2; --accent: #6ba6e8;
    --note: #3a3115; --note-ink: #f0d98a;
    """
    + _colours("dark")
    + """
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink); font-size: 16px; line-height: 1.5;
  font-family: Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%;
}
main { max-width: 1120px; margin: 0 auto; padding: 36px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.02em; font-weight: 680;
  overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 40px 0 12px; letter-spacing: -.01em; font-weight: 650; }
p { margin: 0 0 12px; max-width: 76ch; overflow-wrap: anywhere; }
.lead { color: var(--muted); font-size: 17px; }
.small { color: var(--muted); font-size: 13.5px; }
.note { background: var(--note); color: var(--note-ink); border-radius: 8px; padding: 8px 14px; margin: 0 0 12px;
  max-width: none; font-size: 14.5px; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); margin: 20px 0; overflow: hidden; }
.tile { padding: 14px 18px; border-left: 1px solid var(--grid); }
.tile:first-child { border-left: 0; }
.tile b { display: block; font-size: 26px; line-height: 1.2; font-weight: 640; letter-spacing: -.02em; }
.tile span { color: var(--muted); font-size: 13.5px; display: block; line-height: 1.35; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { padding: 8px 10px; text-align: right; border-top: 1px solid var(--grid); white-space: nowrap; }
thead th { border-top: 0; color: var(--muted); font-weight: 560; font-size: 13px; }
th:first-child, td:first-child { text-align: left; }
td.words, th.words { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 15ch; }
td.method, th.method { text-align: left; }
tr.beaten td { color: var(--muted); }
tr.lost td { color: var(--muted); }
.bar { display: flex; flex-wrap: wrap; gap: 8px 14px; align-items: center; padding: 12px 16px 0; }
.switch { display: inline-flex; gap: 2px; background: var(--chip); border-radius: 9px; padding: 3px;
  flex-wrap: wrap; }
.switch button { font: inherit; font-size: 14px; color: var(--muted); background: none; border: 0; border-radius: 7px;
  padding: 6px 14px; cursor: pointer; }
.switch button[aria-pressed="true"], .switch button[aria-selected="true"] { background: var(--paper); color: var(--ink);
  font-weight: 580; box-shadow: 0 1px 2px rgba(0,0,0,.14); }
button:focus-visible, select:focus-visible, summary:focus-visible { outline: 2px solid var(--accent);
  outline-offset: 1px; }
.tabs { margin: 0 0 20px; }
select { font: inherit; font-size: 14px; color: var(--ink); background: var(--chip); border: 1px solid var(--line);
  border-radius: 8px; padding: 6px 10px; max-width: 100%; }
.keys { display: flex; flex-wrap: wrap; gap: 3px 16px; padding: 10px 18px 0; font-size: 13.5px; color: var(--muted); }
.key::before { content: ""; display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 6px;
  background: var(--colour); }
.key.int8::before { border-radius: 1px; transform: rotate(45deg) scale(.88); }
.key.ring::before { background: none; border: 2px solid var(--colour); }
.key.speck::before { transform: scale(.55); }
.key.rule::before { width: 16px; height: 0; border-radius: 0; border-top: 2px var(--dash, solid) var(--colour);
  background: none; vertical-align: middle; }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; background: var(--colour); margin-right: 7px;
  }
.dot.int8 { border-radius: 1px; transform: rotate(45deg); }
.plot { padding: 4px 8px; min-height: 300px; }
details summary { cursor: pointer; color: var(--muted); font-size: 14px; padding: 10px 16px; }
.refused li { overflow-wrap: anywhere; }
[hidden] { display: none !important; }
footer { margin-top: 40px; }
@media (max-width: 720px) {
  main { padding: 22px 12px 48px; }
  h1 { font-size: 24px; } .lead { font-size: 16px; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .tile { padding: 11px 14px; border-left: 0; }
  .tile:nth-child(even) { border-left: 1px solid var(--grid); }
  .tile:nth-child(n+3) { border-top: 1px solid var(--grid); }
  .tile b { font-size: 22px; }
  th, td { padding: 7px 9px; }
  table { font-size: 13px; }
  .plot { padding: 4px 0; }
  .bar { padding: 10px 12px 0; } .keys { padding: 10px 14px 0; gap: 2px 12px; font-size: 13px; }
}
@media print { body { background: #fff; } .switch, select { display: none; } .card { break-inside: avoid; } }
"""
)

SCRIPT = """
"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
function coloured(value, style) {
  if (typeof value === "string") return value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
  if (Array.isArray(value)) return value.map((item) => coloured(item, style));
  if (value !== null && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, style)]));
  return value;
}
function wrapped(text, most) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (lines.at(-1) && (lines.at(-1) + " " + word).length > most) lines.push(word);
    else lines[lines.length - 1] += (lines.at(-1) ? " " : "") + word;
  }
  return lines.join("<br>");
}
function draw(element) {
  if (element.closest("[hidden]")) return;
  const figure = coloured(figures[element.dataset.shown], getComputedStyle(document.documentElement));
  figure.layout.font.family = getComputedStyle(document.body).fontFamily;
  figure.layout.hoverlabel.font.family = figure.layout.font.family;
  if (element.clientWidth < 560) {
    figure.layout.margin.l = 46;
    figure.layout.margin.r = 26;
    figure.layout.font.size = 11;
    figure.layout.xaxis.dtick = 1;
    const title = figure.layout.xaxis.title;
    title.text = wrapped(title.text, 44);
    title.font = { size: 11.5 };
    figure.layout.yaxis.title.text = "";
    figure.layout.annotations?.forEach((each) => { each.font.size = 10; });
    figure.data.forEach((trace) => {
      if (trace.textfont) trace.textfont.size = 10;
      if (trace.mode === "lines+markers+text") trace.mode = "lines+markers";
    });
  }
  Plotly.newPlot(element, figure.data, figure.layout, { displayModeBar: false, responsive: true });
}
const plots = [...document.querySelectorAll(".plot")];
function press(buttons, chosen, attribute) {
  buttons.forEach((button) => button.setAttribute(attribute, String(button === chosen)));
}
document.querySelectorAll(".switch.axes").forEach((group) => {
  const buttons = [...group.querySelectorAll("button")];
  const section = group.closest("section");
  buttons.forEach((button) => button.addEventListener("click", () => {
    press(buttons, button, "aria-pressed");
    section.querySelectorAll("[data-axis]").forEach((part) => { part.hidden = part.dataset.axis !== button.value; });
    section.querySelectorAll("[data-axis] .plot").forEach(draw);
  }));
});
document.querySelectorAll("select.curves").forEach((select) => select.addEventListener("change", () => {
  const card = select.closest(".card");
  const plot = card.querySelector(".plot");
  plot.dataset.shown = select.value;
  draw(plot);
}));
const tabs = [...document.querySelectorAll("[role=tab]")];
function choose(tab) {
  press(tabs, tab, "aria-selected");
  tabs.forEach((each) => {
    each.tabIndex = each === tab ? 0 : -1;
    document.getElementById(each.getAttribute("aria-controls")).hidden = each !== tab;
  });
  plots.forEach(draw);
}
tabs.forEach((tab, place) => {
  tab.addEventListener("click", () => { choose(tab); history.replaceState(null, "", "#" + tab.textContent); });
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(place + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
});
const named = tabs.find((tab) => "#" + tab.textContent === location.hash);
if (named) choose(named); else plots.forEach(draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach(draw));
matchMedia("(max-width: 620px)").addEventListener("change", () => plots.forEach(draw));
"""
