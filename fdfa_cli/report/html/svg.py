"""A figure as SVG inside a page: no style attributes, ids of its own, colours that follow the page's.

A page under a strict Content-Security-Policy may hold no style attributes, so each distinct one becomes a
class of the page's style sheet; the palette of figures becomes custom properties, which the page sets for
light and for dark ground.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from fdfa_cli.report.plots.style import DARK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
#: The custom property of each colour of figures.
PROPERTIES = {color: f"--plot-{i}" for i, color in enumerate(DARK)}


class Sheet:
    """Rules that the figures of a page share: a class for each set of declarations."""

    def __init__(self) -> None:
        self._classes: dict[str, str] = {}

    def name(self, declarations: str) -> str:
        """The class with these declarations, the palette replaced by custom properties."""
        for color, property in PROPERTIES.items():
            declarations = declarations.replace(color, f"var({property})")
        return self._classes.setdefault(declarations, f"p{len(self._classes)}")

    @property
    def css(self) -> str:
        """The rules."""
        return "".join(f".{name}{{{declarations}}}\n" for declarations, name in self._classes.items())


def inline(figure: Figure, prefix: str, sheet: Sheet, label: str) -> str:
    """An `svg` element, read out as `label`; its ids begin with `prefix`, its styles are in `sheet`."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ET.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    used = {reference for element in root.iter() for reference in _references(element)}
    for element in root.iter():
        if "style" in element.attrib:
            style = element.attrib.pop("style").replace("url(#", f"url(#{prefix}-")
            element.set("class", sheet.name(style))
        if "id" in element.attrib and element.attrib["id"] not in used:
            del element.attrib["id"]
        for name, value in list(element.attrib.items()):
            if name == "id":
                element.set(name, f"{prefix}-{value}")
            elif name == _HREF:
                del element.attrib[name]
                element.set("href", value.replace("#", f"#{prefix}-"))
            elif "url(#" in value:
                element.set(name, value.replace("url(#", f"url(#{prefix}-"))
            elif name == "d":
                element.set(name, re.sub(r"\d+\.\d+", _rounded, value))
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", label)
    ET.register_namespace("", _SVG)
    return ET.tostring(root, encoding="unicode")


def _rounded(number: re.Match[str]) -> str:
    """A coordinate to a tenth of a point."""
    return f"{float(number[0]):.1f}".removesuffix(".0")


def _references(element: ET.Element) -> list[str]:
    """The ids that an element refers to."""
    found = [match for value in element.attrib.values() for match in re.findall(r"url\(#([^)]+)\)", value)]
    return [*found, element.attrib.get(_HREF, "#")[1:]]
