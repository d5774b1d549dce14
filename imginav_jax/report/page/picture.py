"""One figure of the report, with what the page says of it."""

import io
from typing import NamedTuple

from matplotlib.figure import Figure
from PIL import Image


class Picture(NamedTuple):
    """One figure, as PNG.

    Attributes:
      section: of the page.
      alt: what it shows, for who cannot see it.
      is_chart: may be shown smaller than it is.
      is_strip: many layouts, to compare and not to look into.
      is_folded: shown when it is asked for.
    """

    file_name: str
    section: str
    caption: str
    png: bytes
    alt: str
    is_chart: bool = False
    is_strip: bool = False
    is_folded: bool = False


def chart(name: str, section: str, figure: Figure, caption: str, alt: str, is_folded: bool = False) -> Picture:
    """Draws a chart and returns it; the arguments are the attributes of `Picture`."""
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})  # the same bytes whatever the version
    return Picture(f"{name}.png", section, caption, content.getvalue(), alt, is_chart=True, is_folded=is_folded)


def photo(name: str, section: str, caption: str, picture: Image.Image, alt: str, is_strip: bool = False) -> Picture:
    """Returns a picture of layouts; the arguments are the attributes of `Picture`."""
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return Picture(f"{name}.png", section, caption, content.getvalue(), alt, is_strip=is_strip, is_folded=is_strip)
