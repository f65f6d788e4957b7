"""A page of headings, text, tables and pictures, written as one HTML file and as Markdown with PNG files beside it.

All text is plain text: what looks like a tag or a mark in a name of a file or a molecule is shown as it stands.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.files import replace_file

HTML, MARKDOWN = "report.html", "report.md"

# Narrow screens: pictures and tables scroll by themselves, the page does not.
_STYLE = """
body { max-width: 75rem; margin: 0 auto; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; color: #222;
  background: #fff; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { max-width: 45rem; margin: .5rem 0; }
.scroll { overflow-x: auto; background:  /* a shadow where there is more to scroll to, covered at the end */
  linear-gradient(90deg, #fff 1.5rem, transparent 3rem) local left,
  linear-gradient(270deg, #fff 1.5rem, transparent 3rem) local right,
  linear-gradient(90deg, #0006, transparent 1.2rem) scroll left,
  linear-gradient(270deg, #0006, transparent 1.2rem) scroll right; background-color: #fff; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { padding: .2rem .7rem .2rem 0; text-align: right; vertical-align: top; border-bottom: 1px solid #ddd; }
th { font-weight: 600; border-bottom: 2px solid #888; }
.text { text-align: left; } td:not(.text) { white-space: nowrap; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: .5rem 0; max-width: 100%; }
figcaption { font-size: .875rem; font-weight: 600; }
img { display: block; max-width: 100%; height: auto; }
pre { background: #f4f4f4; padding: .7rem; overflow-x: auto; font-size: .8rem; }
"""


@dataclass(frozen=True)
class Heading:
    """Title of a section."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """header (m,) and rows of m cells; the first `words` columns are words, aligned left, the others numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1

    def __post_init__(self) -> None:
        if any(len(row) != len(self.header) for row in self.rows):
            raise ValueError(f"every row of a table needs {len(self.header)} cells")


@dataclass(frozen=True)
class Picture:
    """name: of the PNG file, without ending; png: its content; width: pixels on the page; caption: what it shows."""

    name: str
    png: bytes
    width: int
    caption: str


@dataclass(frozen=True)
class Pictures:
    """Pictures beside each other where there is room."""

    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Code:
    """Lines as they stand, in a language that Markdown's readers know: commands by default."""

    lines: tuple[str, ...]
    language: str = "sh"


Part = Heading | Text | Table | Pictures | Code


@dataclass(frozen=True)
class Page:
    """A title and what follows."""

    title: str
    parts: tuple[Part, ...]

    def html(self) -> str:
        """One self-contained file, without scripts and without anything loaded from elsewhere."""
        title = html.escape(self.title)
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
            + "\n".join(_html_part(part) for part in self.parts)
            + "\n</body>\n</html>\n"
        )

    def markdown(self) -> str:
        """Markdown; pictures are named as `write` puts them beside it."""
        return "\n\n".join([f"# {_plain(self.title)}", *(_markdown_part(part) for part in self.parts)]) + "\n"

    def write(self, folder: Path) -> None:
        """Write both forms and the pictures, each file atomically, pages last. Makes the folder where it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        for part in self.parts:
            for picture in part.pictures if isinstance(part, Pictures) else ():
                replace_file(folder / f"{picture.name}.png", picture.png)
        replace_file(folder / MARKDOWN, self.markdown().encode())
        replace_file(folder / HTML, self.html().encode())


def _html_part(part: Part) -> str:
    if isinstance(part, Heading):
        return f"<h2>{html.escape(part.text)}</h2>"
    if isinstance(part, Text):
        return f"<p>{html.escape(part.text)}</p>"
    if isinstance(part, Table):
        rows = [_html_row("th", part.header, part.words), *(_html_row("td", row, part.words) for row in part.rows)]
        frame = '<div class="scroll" tabindex="0" role="group" aria-label="table, scrolls sideways">'
        return f"{frame}<table>\n" + "\n".join(rows) + "\n</table></div>"
    if isinstance(part, Code):
        return f"<pre>{html.escape(chr(10).join(part.lines))}</pre>"
    return '<div class="pictures">\n' + "\n".join(_html_picture(picture) for picture in part.pictures) + "\n</div>"


def _html_row(tag: str, cells: Sequence[str], words: int) -> str:
    kinds = [' class="text"' if k < words else "" for k in range(len(cells))]
    inside = "".join(f"<{tag}{kind}>{html.escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
    return f"<tr>{inside}</tr>"


def _html_picture(picture: Picture) -> str:
    caption = html.escape(picture.caption)
    data = base64.b64encode(picture.png).decode()
    return (
        f'<figure><figcaption>{caption}</figcaption><img width="{picture.width}" alt="{caption}" '
        f'src="data:image/png;base64,{data}"></figure>'
    )


def _plain(text: str) -> str:
    """Text that Markdown shows as it stands, on one line; an underscore inside a word needs no mark."""
    text = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"[\\`*\[\]|~#]|(?<![^\W_])_|_(?![^\W_])", lambda found: "\\" + found[0], text)


def _markdown_part(part: Part) -> str:
    if isinstance(part, Heading):
        return f"## {_plain(part.text)}"
    if isinstance(part, Text):
        return _plain(part.text)
    if isinstance(part, Table):
        rule = ["---" if k < part.words else "---:" for k in range(len(part.header))]
        rows = [[_plain(cell) for cell in row] for row in part.rows]
        lines = [[_plain(cell) for cell in part.header], rule, *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if isinstance(part, Code):
        longest = max((len(run) for line in part.lines for run in re.findall("`+", line)), default=0)
        fence = "`" * max(3, longest + 1)
        return "\n".join([f"{fence}{part.language}", *part.lines, fence])
    return "\n\n".join(f"**{_plain(p.caption)}**\n\n![{_plain(p.caption)}]({p.name}.png)" for p in part.pictures)
