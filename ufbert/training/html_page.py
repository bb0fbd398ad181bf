"""One HTML file for a person to read, which needs nothing beside it: its style, tables and pictures."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import TypeAlias

__all__ = ["Picture", "html_page", "html_picture", "html_table"]

Picture: TypeAlias = tuple[str, str, bytes]
"""Heading, caption and PNG."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: .6rem 0; } caption { text-align: left; color: #555; }
th, td { text-align: left; vertical-align: top; padding: .15rem .9rem .15rem 0; border-bottom: 1px solid #eee; }
td { font-variant-numeric: tabular-nums; } img { max-width: 100%; } figure { margin: .5rem 0; }
figcaption, .note { color: #555; font-size: .92em; } summary { cursor: pointer; } code { font-size: .95em; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def html_page(title: str, parts: Iterable[str]) -> str:
    """The whole file; `parts` are HTML, `title` is not."""
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain texts."""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>\n<tr>{cells}</tr>\n{lines}\n</table>"


def html_picture(picture: Picture) -> str:
    """A section of a picture, which stands in the file itself."""
    heading, caption, png = picture
    data = base64.b64encode(png).decode()
    return (
        f'<h2>{escape(heading)}</h2><figure><img alt="{escape(heading)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
