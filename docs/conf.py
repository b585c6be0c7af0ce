"""Builds the manual with Sphinx: its menu, filled pages, formulas as MathML, and pages that a
keyboard can reach.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from pydantic import BaseModel
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))
import reference

project = html_title = "fedskd_sim"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["results/*"]
html_theme = "furo"
html_math_renderer = "mathml"
html_copy_source = html_show_sourcelink = False
html_static_path = ["static"]
html_css_files = ["manual.css"]
myst_heading_anchors = 6
myst_fence_as_directive = ["math"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
default_role = "py:obj"
suppress_warnings = ["myst.header"]  # a filling begins at the second level

MENU: Mapping[str, list[str]] = {
    "Tutorial": ["tutorial"],
    "How to": [
        "first-run",
        "scenarios",
        "data",
        "own-code",
        "own-algorithm",
        "library",
        "comparing",
        "clusters",
        "gpus",
        "observing",
        "privacy",
        "troubleshooting",
    ],
    "Reference": [
        "gallery",
        "scenario-reference",
        "command-line",
        "exit-codes",
        "python-api",
        "algorithm-reference",
        "own-code-reference",
        "reliability-reference",
        "clusters-reference",
        "datasets",
        "audit",
        "performance",
        "benchmarks",
        "artefact",
        "coming-from",
        "architecture",
    ],
    "Explanation": [
        "algorithms",
        "reliability",
        "security",
        "results",
    ],
}
"""The pages of each kind, in order."""
ACCESSIBLE = {
    '<div class="table-wrapper': '<div role="group" tabindex="0" class="table-wrapper',
    "<pre>": '<pre tabindex="0">',
    'role="heading"': 'role="heading" aria-level="2"',
    '<aside class="sidebar-drawer"': '<aside aria-label="All pages" class="sidebar-drawer"',
    '<aside class="toc-drawer': '<aside aria-label="This page" class="toc-drawer',
    '<th class="head"><p></p></th>': '<td class="head"></td>',
    '<div id="search-results">': '<h1>Search</h1><div id="search-results">',
}
"""What the theme writes, and what takes its place: tables and code scroll by keyboard, landmarks
and headings have names and levels.
"""


def _menu() -> str:
    return "".join(
        f"\n```{{toctree}}\n:caption: {kind}\n:hidden:\n\n{chr(10).join(pages)}\n```\n"
        for kind, pages in MENU.items()
    )


def _fill(_: Sphinx, name: str, source: list[str]) -> None:
    source[0] = reference.fill(source[0]) + (_menu() if name == "index" else "")


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
    formula = convert(node.astext(), display="block")
    writer.body.append(f'<div class="formula" role="group" tabindex="0">{formula}</div>')
    raise nodes.SkipNode


def _skip(_: Sphinx, __: str, name: str, *___: Any) -> bool | None:
    """Leave out what is a library's and not of this program."""
    return True if name == "model_config" else None


def _plain_signature(
    _: Sphinx, __: str, ___: str, thing: Any, ____: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """Leave out the signature of a class of keys, whose members say the same, and of a protocol;
    in others, modules of types and defaults that are objects.
    """
    silent = isinstance(thing, type) and (
        issubclass(thing, BaseModel) or getattr(thing, "_is_protocol", False)
    )
    if silent:
        return "", ""
    if not signature:
        return None
    short = re.sub(r"~(\w+\.)+", "", signature)
    return re.sub(r"=\s*<[^<>]*>", "= ...", short), returns


def _attribute(_: Sphinx, what: str, __: str, ___: Any, ____: Any, lines: list[str]) -> None:
    """Keep Napoleon from taking what stands before the first colon of an attribute's sentence for
    a type, and leave out what Python says of a field that has no docstring.
    """
    if lines[:1] and lines[0].startswith("Alias for field number"):
        lines.clear()
    elif what in ("attribute", "data", "property") and lines and ":" in lines[0]:
        lines.insert(0, "\\")


def _make_accessible(app: Sphinx, failure: Exception | None) -> None:
    """Change the HTML of the theme where a keyboard or a screen reader needs it."""
    if failure:
        return
    for page in Path(app.outdir).glob("*.html"):
        text = page.read_text(encoding="utf-8")
        for found, better in ACCESSIBLE.items():
            text = text.replace(found, better)
        page.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Add what Sphinx does not do by itself."""
    app.connect("source-read", _fill)
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-signature", _plain_signature)
    app.connect("autodoc-process-docstring", _attribute, priority=400)  # before Napoleon
    app.connect("build-finished", _make_accessible)
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
