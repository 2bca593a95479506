"""Contrast as WCAG 2 defines it: of two colours, and of every text of a page as it is drawn."""

from __future__ import annotations

from typing import Any

from support.chromium import Tab

Color = tuple[float, float, float]

# [text, its colour, the colours behind it from the element outwards], for each element with text
# of its own that can be seen.
_SEEN = """
[...document.querySelectorAll(%s)].filter(it =>
  [...it.childNodes].some(node => node.nodeType === 3 && node.data.trim()) && it.checkVisibility()
).map(it => {
  const behind = [];
  for (let up = it; up; up = up.parentElement) behind.push(getComputedStyle(up).backgroundColor);
  const style = getComputedStyle(it);
  return [it.textContent.trim().slice(0, 40), it.closest("svg") ? style.fill : style.color, behind];
})
"""

# [kind, its colour, the colours behind it], for each mark of a chart.
_MARKS = """
[...document.querySelectorAll("svg :is(.limit, .bar, .dot, .curve)")].map(it => {
  const behind = [], style = getComputedStyle(it), kind = it.getAttribute("class");
  for (let up = it; up; up = up.parentElement) behind.push(getComputedStyle(up).backgroundColor);
  return [kind, kind === "limit" || kind === "curve" ? style.stroke : style.fill, behind];
})
"""


def luminance(color: Color) -> float:
    """Relative luminance of an sRGB colour, channels 0 to 255."""
    linear = [
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
        for share in (channel / 255 for channel in color)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: Color, b: Color) -> float:
    """Contrast of two colours, 1 to 21."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def over(top: Color, alpha: float, bottom: Color) -> Color:
    """The colour of a layer that is partly opaque, over another."""
    r, g, b = (alpha * x + (1 - alpha) * y for x, y in zip(top, bottom, strict=True))
    return r, g, b


def lowest(tab: Tab, selector: str = "body *") -> tuple[float, str, int]:
    """The text of a page with the lowest contrast: that, the text, and how many were compared."""
    found = tab.evaluate(_SEEN % repr(selector))
    compared = [
        (contrast(_color(color)[0], _behind(layers)), text) for text, color, layers in found
    ]
    return (*min(compared), len(compared))


def lowest_mark(tab: Tab) -> tuple[float, set[str]]:
    """The lowest contrast of a mark of the charts of a page, and the kinds of its marks."""
    found = tab.evaluate(_MARKS)
    compared = [contrast(_color(color)[0], _behind(layers)) for _, color, layers in found]
    return min(compared), {kind for kind, _, _ in found}


def _behind(layers: list[str]) -> Color:
    color: Any = (255.0, 255.0, 255.0)
    for layer in reversed(layers):
        top, alpha = _color(layer)
        color = over(top, alpha, color)
    return color


def _color(text: str) -> tuple[Color, float]:
    """Read a computed colour: rgb(1, 2, 3) or rgba(1, 2, 3, 0.5)."""
    values = [float(it) for it in text[text.index("(") + 1 : -1].split(",")]
    return (values[0], values[1], values[2]), values[3] if len(values) > 3 else 1.0
