"""Tables of plain text."""

from collections.abc import Sequence


def align(rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """Returns lines with columns as wide as they need to be: the first ones, of text, to the left, numbers right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    formats = [f"{'<' if number < text_columns else '>'}{width}" for number, width in enumerate(widths)]
    return "\n".join("  ".join(map(format, row, formats)) for row in rows)
