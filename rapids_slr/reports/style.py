"""The look of the page. Hues differ for colour-blind readers too; a line has a mark of its own beside."""

from __future__ import annotations

import re

# Text, lines and hues stand out from page and card, and hues from one another for colour-blind readers too, in both
# schemes: tests/reports/test_drawings.py measures it.
LIGHT = {
    "page": "#ffffff",
    "card": "#f6f7f9",
    "edge": "#d5dae0",
    "text": "#1a2027",
    "soft": "#56606b",
    "grid": "#dfe3e8",
    "seq": "#08519c",
    "right": "#0a7a3d",
    "wrong": "#c4281b",
    "link": "#0a5cb0",
    **dict(
        zip(
            [f"c{i}" for i in range(8)],
            ["#0a6fc2", "#d04a02", "#0a5c3c", "#c2339a", "#5a2a00", "#1b93c4", "#4b1f96", "#59636e"],
            strict=True,
        )
    ),
}
DARK = {
    "page": "#0f1318",
    "card": "#171c23",
    "edge": "#323a45",
    "text": "#e7ebf0",
    "soft": "#a3adb9",
    "grid": "#2a313b",
    "seq": "#7cc0ff",
    "right": "#3fce7f",
    "wrong": "#ff7a6b",
    "link": "#7ab8ff",
    **dict(
        zip(
            [f"c{i}" for i in range(8)],
            ["#5b9dff", "#e8892b", "#35e0a0", "#d183bd", "#f6e36a", "#bfe6ff", "#9a6bff", "#7f8994"],
            strict=True,
        )
    ),
}
PAGE = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0 auto;max-width:1400px;padding:28px clamp(12px,3vw,36px) 60px;background:var(--page);color:var(--text);
 font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
a{color:var(--link)}
a:focus-visible,summary:focus-visible,.scroll:focus-visible{outline:2px solid var(--link);outline-offset:2px}
h1{font-size:26px;line-height:1.2;margin:0 0 6px;overflow-wrap:anywhere}
h2{font-size:20px;margin:44px 0 12px;padding-top:14px;border-top:1px solid var(--edge);overflow-wrap:anywhere}
h3{font-size:15px;line-height:1.35;margin:0}
h4{font-size:14px;margin:0 0 4px;font-weight:600}
p{margin:4px 0;max-width:76ch}
.soft,.note{color:var(--soft);font-size:13px}
.lead{font-size:13px;font-variant-numeric:tabular-nums}
nav{margin:14px 0}
nav p{display:flex;flex-wrap:wrap;gap:2px 16px;max-width:none}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(165px,1fr));gap:10px;margin:18px 0}
.tile{background:var(--card);border:1px solid var(--edge);border-radius:8px;padding:10px 12px}
.tile b{display:block;font-size:clamp(18px,4.6vw,22px);line-height:1.2;font-variant-numeric:tabular-nums}
.tile span{display:block;color:var(--soft);font-size:12.5px}
.missing{border:1px solid var(--edge);border-left:4px solid var(--c1);border-radius:6px;padding:8px 14px;margin:16px 0;
 background:var(--card)}
.missing ul{margin:4px 0;padding-left:20px}
.missing li{overflow-wrap:anywhere}
.grid{display:grid;grid-auto-flow:dense;grid-template-columns:repeat(auto-fill,minmax(min(100%,390px),1fr));gap:14px}
figure{margin:0;background:var(--card);border:1px solid var(--edge);border-radius:10px;padding:14px;min-width:0;
 display:flex;flex-direction:column;gap:8px;scroll-margin-top:12px}
figure.full{grid-column:1/-1}
.grid.two{grid-template-columns:repeat(auto-fill,minmax(min(100%,520px),1fr))}
.half{grid-column:span 2}
@media (max-width:860px){.grid.two{grid-template-columns:repeat(auto-fill,minmax(min(100%,520px),1fr))}
.half{grid-column:1/-1}}
.absent{color:var(--soft);border:1px dashed var(--edge);border-radius:6px;padding:16px;margin:0;overflow-wrap:anywhere}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,350px),1fr));gap:10px}
.panels>div{min-width:0}
svg{display:block;width:100%;height:auto;overflow:visible}
svg.square{max-width:560px;margin:auto}
svg.wide{max-width:960px;margin:auto}
svg.scale{width:290px}
svg.scale rect{shape-rendering:crispEdges}
@media (max-width:600px){svg.wide text,svg.wide .name,svg.wide .strong{font-size:16px}
 svg.square text,svg.square .name{font-size:15px}}
.chart{max-width:520px;margin:auto auto 0}
figure>.panels{margin-top:auto}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;list-style:none;margin:0;padding:0;font-size:13px}
.legend li{display:flex;align-items:center;gap:6px;min-width:0;overflow-wrap:anywhere}
.legend i{flex:none;width:14px;height:12px;border-radius:2px;background:var(--c)}
.legend i.grey{background:var(--soft)}
.swatch{width:28px;height:14px;flex:none}
.scroll{overflow-x:auto;max-width:100%}
.scroll+.scroll,.note+.scroll{margin-top:20px}
header p{max-width:none;overflow-wrap:anywhere}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);font-size:13px;padding-bottom:4px}
th,td{padding:4px 12px 4px 0;border-bottom:1px solid var(--grid);text-align:right;white-space:nowrap;vertical-align:top}
th:first-child,td:first-child,td.text,th.text{text-align:left}
td.text{white-space:normal;overflow-wrap:anywhere;min-width:90px}
thead th{font-weight:600;white-space:normal;vertical-align:bottom;border-bottom:1px solid var(--edge)}
tbody th{font-weight:400;white-space:normal;min-width:110px}
td.bar{width:34%;min-width:90px;padding-right:0}
td.bar i{display:block;height:12px;margin-top:4px;background:var(--c);border-radius:2px;min-width:1px}
table.fill{width:100%}
details{background:var(--card);border:1px solid var(--edge);border-radius:8px;padding:8px 14px;margin:10px 0;
 min-width:0}
summary{cursor:pointer;font-weight:600}
pre{overflow-x:auto;font:12.5px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;margin:8px 0}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr));gap:14px 22px}
.sheet.long{grid-template-columns:repeat(auto-fill,minmax(min(100%,600px),1fr))}
.sheet.long .parts{gap:10px 14px}
.strip{min-width:0;border-top:1px solid var(--grid);padding-top:8px}
.strip h4 span{color:var(--soft);font-weight:400;font-size:13px}
.strip h4{font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.parts{display:flex;flex-wrap:wrap;gap:6px 16px}
.part>span{display:block;color:var(--soft);font-size:12px}
.part>div{display:flex;flex-wrap:wrap;gap:4px;align-items:flex-start}
.thumb{position:relative;display:inline-block;border:2px solid var(--edge);border-radius:4px;line-height:0;
 background:#000}
.thumb img{display:block;width:48px;height:auto;border-radius:2px}
.thumb.right{border-color:var(--right)}
.thumb.wrong{border-color:var(--wrong);border-style:dashed}
.thumb b{position:absolute;right:-5px;bottom:-5px;width:16px;height:16px;border-radius:50%;color:var(--page);
 font:700 11px/16px system-ui,sans-serif;text-align:center}
.thumb.right b{background:var(--right)}
.thumb.wrong b{background:var(--wrong)}
.more{align-self:center;color:var(--soft);font-size:12px;line-height:1.2}
footer{margin-top:48px;color:var(--soft);font-size:12.5px;border-top:1px solid var(--edge);padding-top:12px}
@media print{body{max-width:none}figure{break-inside:avoid}}
"""


DRAWING = """
svg text{font-size:12px;fill:var(--soft);font-variant-numeric:tabular-nums}
svg .name{fill:var(--text);font-size:12.5px}
svg .value{font-size:11px;fill:var(--text)}
svg .halo{fill:var(--text);paint-order:stroke;stroke:var(--card);stroke-width:3px;stroke-linejoin:round}
svg .strong{font-weight:700;font-size:12px}
.rule{stroke:var(--grid);stroke-width:1}
.axis{stroke:var(--text);stroke-width:1}
.line{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round}
.dashed{stroke-dasharray:5 4;stroke-width:1.6}
.level{stroke:var(--soft);stroke-width:1.4;stroke-dasharray:2 3}
.mark{fill:var(--c);stroke:var(--card);stroke-width:1}
.hollow .mark{fill:var(--card);stroke:var(--c);stroke-width:1.4}
.hit{fill:transparent}
g:hover>.mark{stroke:var(--text);stroke-width:2}
rect{fill:var(--c)}
.ground{fill:var(--page);stroke:var(--edge)}
.cell{fill:var(--seq)}
.cell:hover,.dot:hover{stroke:var(--text);stroke-width:1.5}
.stream{fill:var(--c);fill-opacity:.5}
.stream:hover{fill-opacity:.85}
.node{fill:var(--text)}
.dot{fill:var(--c);fill-opacity:.8}
.dot.grey{fill:var(--soft);fill-opacity:.45}
"""
"""Rules of everything that is drawn; `--c` is the hue of an element or of what holds it."""


def stylesheet() -> str:
    """The rules of the page, with the colours of both schemes."""

    def variables(colours: dict[str, str]) -> str:
        return "".join(f"--{name}:{value};" for name, value in colours.items())

    hues = "".join(f".c{i}{{--c:var(--c{i})}}" for i in range(8))
    dark = f"@media (prefers-color-scheme:dark){{:root{{{variables(DARK)}}}}}"
    return f":root{{color-scheme:light dark;{variables(LIGHT)}}}{dark}{hues}{PAGE}{DRAWING}"


def drawing_stylesheet() -> str:
    """The rules of a drawing in a file of its own: light, and dark where the viewer asks for it.

    Without variables, which few viewers but browsers know: a hue is the `color` of an element or of what holds it.
    """

    # `--c`, the hue of an element, is none of the colours: it becomes currentColor.
    def rules(colours: dict[str, str]) -> str:
        hues = "".join(f".c{i}{{color:{colours[f'c{i}']}}}" for i in range(8))
        return hues + re.sub(r"var\(--(\w+)\)", lambda name: colours.get(name[1], "currentColor"), DRAWING)

    return f"text{{font-family:system-ui,sans-serif}}{rules(LIGHT)}@media (prefers-color-scheme:dark){{{rules(DARK)}}}"
