"""Pieces of a page. Whatever comes from outside is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1c2227; --soft: #5d6872; --line: #d9dee3; --paper: #ffffff;
  --card: #f6f7f9; --bar: #0072b2; --warn: #8a4b00; --warnpaper: #fff4e0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e7ea; --soft: #9aa5ae; --line: #39424a;
  --paper: #14181b; --card: #1d2327; --bar: #56b4e9; --warn: #ffc677; --warnpaper: #33260f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 1.2rem 1rem 3rem; }
h1 { font-size: 1.45rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
h3 { font-size: .95rem; margin: 0 0 .4rem; display: flex; justify-content: space-between; gap: .5rem; }
h3 small, .soft { color: var(--soft); font-weight: normal; }
p { margin: .4rem 0; }
.status { display: inline-block; border: 1px solid currentColor; border-radius: 1em; padding: 0 .7em;
  font-size: .9rem; color: var(--bar); margin-right: .4em; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(105px, 1fr)); gap: .6rem;
  margin: 1rem 0; }
.tile { background: var(--card); border-radius: 8px; padding: .6rem .7rem; min-width: 0; }
.tile:first-child { grid-column: span 2; }
.tile b { display: block; font-size: 1rem; overflow-wrap: anywhere; }
.tile span { color: var(--soft); font-size: .85rem; }
.warning { background: var(--warnpaper); color: var(--warn); border-radius: 8px; padding: .5rem .8rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 240px), 1fr)); gap: .8rem; }
.card { background: var(--card); border-radius: 8px; padding: .7rem .8rem; min-width: 0; }
.columns { columns: 2 380px; column-gap: 2.5rem; margin-top: 2rem; }
.columns > section { break-inside: avoid; padding-bottom: 1.6rem; }
.columns h2 { margin-top: 0; }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .9rem; }
table.facts { width: 100%; }
table.facts th { text-align: left; font-weight: normal; color: var(--soft); width: 42%; }
table.facts td { overflow-wrap: anywhere; }
th, td { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.passes th, .passes td { text-align: right; white-space: nowrap; }
.pair { display: flex; flex-wrap: wrap; gap: 0 2rem; }
.pair figure { flex: 1 1 320px; min-width: 0; max-width: 520px; }
tr.chosen td { font-weight: 600; }
figure { margin: .6rem 0; max-width: 560px; }
figure + .wide { max-width: 560px; }
figure svg, .card svg { width: 100%; }
svg, img { display: block; max-width: 100%; height: auto; }
img { width: 100%; image-rendering: pixelated; border-radius: 4px; margin-bottom: .4rem; }
.bars { display: grid; grid-template-columns: fit-content(60%) minmax(0, 1fr); gap: .15rem .6rem;
  font-size: .82rem; align-items: center; }
.bars span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bars i { display: block; height: .6em; border-radius: 2px; background: var(--bar); }
summary { cursor: pointer; color: var(--soft); margin: .4rem 0; }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page: nothing in it is fetched, and nothing in it runs."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        "<body><main>\n" + "\n".join(part for part in parts if part) + "\n</main></body></html>\n"
    )


def heading(text: str, body: str) -> str:
    """A section; nothing where it would be empty."""
    return f"<section><h2>{escape(text)}</h2>{body}</section>" if body else ""


def facts_table(facts: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)
    return f'<div class="wide"><table class="facts">{rows}</table></div>' if rows else ""


def tiles(facts: Iterable[tuple[str, str]]) -> str:
    """A few large numbers."""
    body = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in facts
    )
    return f'<div class="tiles">{body}</div>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], chosen: int | None = None) -> str:
    """A table that scrolls by itself where it is wider than the page; one of its rows may stand out."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        ('<tr class="chosen">' if index == chosen else "<tr>")
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for index, row in enumerate(rows)
    )
    return f'<div class="wide"><table class="passes"><tr>{head}</tr>{body}</table></div>'


def bars(values: Iterable[tuple[str, float]]) -> str:
    """Names with horizontal bars, the first as long as there is room."""
    pairs = list(values)
    if not pairs:
        return '<p class="soft">zero throughout</p>'
    longest = pairs[0][1]
    cells = "".join(
        f'<span title="{name}">{name}</span><i style="width:{100 * value / longest:.1f}%"></i>'
        for name, value in ((escape(name), value) for name, value in pairs)
    )
    return f'<div class="bars">{cells}</div>'
