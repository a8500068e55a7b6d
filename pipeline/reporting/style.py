"""The look of the pages, light and dark, and of pictures on their own."""

CSS = """
:root {
  color-scheme: light dark;
  --ink: #1c2128; --soft: #5b6572; --line: #dfe3e8; --page: #f6f7f9; --card: #ffffff; --accent: #2f6fb4; --bad: #b3402f;
  --c0: #2f6fb4; --c1: #e08a1e; --c2: #c2453b; --c3: #3a9188; --c4: #8a5fb0;
  --c5: #7f8a2b; --c6: #c9679b; --c7: #6b7785; --c8: #98662f; --c9: #35a0c4;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e8ed; --soft: #9aa5b1; --line: #333b45; --page: #14181d; --card: #1c2229;
    --accent: #6aa9e9; --bad: #ef8a7b;
    --c0: #6aa9e9; --c1: #f0a94e; --c2: #ee7a6f; --c3: #5cc0b5; --c4: #b690db;
    --c5: #b6c255; --c6: #e596c0; --c7: #a3afbc; --c8: #cb9a63; --c9: #6fcbe8;
  }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif }
main { max-width: 1120px; margin: 0 auto; padding: 36px 20px 64px }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em; overflow-wrap: anywhere }
h2 { font-size: 20px; margin: 44px 0 12px; overflow-wrap: anywhere }
h3 { font-size: 15px; margin: 0 0 10px }
p { margin: 0 0 10px } p.soft, small, .soft { color: var(--soft) } p.soft { font-size: 13px; margin: 8px 0 0 }
h3.part { font-size: 17px; margin: 26px 0 10px }
h3 small { font-weight: 400; margin-left: 6px }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 12px; margin: 20px 0 }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px }
.tile b { display: block; font-size: 26px; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums }
.tile span { color: var(--soft); font-size: 13px }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 14px }
.grid > .card { min-width: 0 } section > * + :is(.grid, .card, .stack), .stack > * + * { margin-top: 14px }
section > h2 + * { margin-top: 0 }
.note { border-left: 3px solid var(--c1); padding: 8px 14px; background: var(--card); border-radius: 0 8px 8px 0;
  margin: 14px 0 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: 14px }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 13px }
th, td { padding: 6px 10px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top }
tbody tr:last-child > * { border-bottom: 0 }
th[scope=row] { white-space: nowrap; padding-right: 22px }
th.row { font-weight: 400; color: var(--ink); font-size: 14px; white-space: normal; padding-right: 10px;
  overflow-wrap: break-word }
td { font-variant-numeric: tabular-nums; overflow-wrap: break-word }
table.numbers :is(th, td):first-child { min-width: 9em }
table.numbers th { vertical-align: bottom }
table.numbers :is(th, td):not(:first-child) { text-align: right; overflow-wrap: normal }
table.numbers td:not(:first-child) { white-space: nowrap }
td.name { white-space: nowrap; padding-right: 18px }
td b.best { color: var(--accent) }
.confusion { table-layout: fixed; min-width: 320px; border-spacing: 2px; border-collapse: separate }
.confusion th { border: 0; padding: 4px 6px; overflow: hidden; text-overflow: ellipsis }
.confusion thead th { text-align: center } .confusion thead th:first-child { text-align: left; font-weight: 400 }
.confusion td { text-align: center; border: 0; border-radius: 6px; padding: 9px 2px; line-height: 1.2;
  background: color-mix(in srgb, var(--accent) calc(var(--v) * 92%), var(--page)) }
.confusion td.strong, .confusion td.strong small { color: var(--card) }
.confusion td b { display: block; font-weight: 600 }
.bar { display: inline-flex; align-items: center; gap: 8px; justify-content: flex-end; min-width: 110px }
.bar .track { display: inline-block; width: 64px; height: 7px; border-radius: 4px; background: var(--line);
  overflow: hidden }
.bar i { display: block; height: 100% } .bar .value { min-width: 38px; text-align: right }
table.tight { font-size: 13px } table.tight :is(th, td):first-child { min-width: 5em }
table.tight .bar { min-width: 0; gap: 5px } table.tight .bar .track { width: 36px }
table.tight .bar .value { min-width: 32px } table.tight :is(th, td) { padding-right: 8px }
.legend { font-size: 13px; margin: 8px 0 0 } .legend span { margin-right: 14px; white-space: nowrap }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 6px }
img.face { float: left; margin: 0 10px 4px 0; border-radius: 6px }
.wrong { color: var(--bad) } figure { margin: 0 }
.mono { font: 12.5px/1.5 ui-monospace, Menlo, Consolas, monospace }
svg { display: block; width: 100%; height: auto } svg.broad { min-width: 640px }
svg text { fill: var(--soft); font-size: 11px } svg .label { text-anchor: middle } svg .x { text-anchor: middle }
svg .y, svg .name { text-anchor: end } svg .name { fill: var(--ink); font-size: 12.5px }
svg .grid { stroke: var(--line); stroke-width: 1 } svg .reference { stroke: var(--soft); stroke-dasharray: 4 4 }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round } svg .faint { stroke-width: 1; opacity: .35 }
svg .interval { stroke-width: 3; stroke-linecap: round; opacity: .45 } svg .seed { fill: var(--soft); opacity: .7 }
svg .frame { fill: none; stroke: var(--line) } svg .share { fill-opacity: .8 } svg .agree { fill: var(--soft) }
svg .answer { fill: var(--ink) } svg .cursor { stroke: var(--ink); stroke-width: 1.5 } svg.lanes { cursor: pointer }
svg .point { stroke-width: 1.6; fill-opacity: .75 } svg .dot { stroke: var(--card) }
details summary { cursor: pointer; color: var(--soft) } details[open] summary { margin-bottom: 8px }
footer { margin-top: 48px; color: var(--soft); font-size: 13px }
@media print { body { background: none } .tile, .card { break-inside: avoid } }
@media print and (min-width: 700px) { .scroll { overflow: visible } }
"""

PICTURE_CSS = """
svg { --ink: #1c2128; --soft: #5b6572; --line: #dfe3e8; --page: #ffffff; --card: #ffffff; --accent: #2f6fb4;
  --c0: #2f6fb4; --c1: #e08a1e; --c2: #c2453b; --c3: #3a9188; --c4: #8a5fb0;
  --c5: #7f8a2b; --c6: #c9679b; --c7: #6b7785; --c8: #98662f; --c9: #35a0c4; font-family: Helvetica, Arial, sans-serif }
text { fill: var(--soft); font-size: 11px } .label, .x { text-anchor: middle } .y, .name { text-anchor: end }
.name { fill: var(--ink); font-size: 12.5px } .answer { fill: var(--ink) }
.grid { stroke: var(--line); stroke-width: 1 } .reference { stroke: var(--soft); stroke-dasharray: 4 4 }
.line { fill: none; stroke-width: 2; stroke-linejoin: round } .faint { stroke-width: 1; opacity: .35 }
.interval { stroke-width: 3; stroke-linecap: round; opacity: .45 } .seed { fill: var(--soft); opacity: .7 }
.point { stroke-width: 1.6; fill-opacity: .75 } .dot { stroke: var(--card) }
.frame { fill: none; stroke: var(--line) } .share { fill-opacity: .8 } .agree { fill: var(--soft) }
.cursor { display: none }
"""
"""Style of an SVG file of its own: the light colours, on white."""

LIGHT_COLOURS = (
    "#2f6fb4", "#e08a1e", "#c2453b", "#3a9188", "#8a5fb0", "#7f8a2b", "#c9679b", "#6b7785", "#98662f", "#35a0c4",
)  # fmt: skip
"""`--c0` to `--c9` of the light look, for pictures that know no style."""
