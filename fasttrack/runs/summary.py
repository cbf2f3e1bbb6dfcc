"""A metric's summary in one pass, in memory that does not grow with the run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

_MOST_CELLS = 64
_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "_.-=+*%#"
_NON_FINITE = "!"
_SCALE = 2.0**-64  # the sum of many of the greatest floats must stay finite


@dataclass
class _Cell:
    """Neighbouring values of a metric."""

    total: float = 0.0  # of the finite ones, times _SCALE
    finite: int = 0
    non_finite: int = 0

    def merge(self, other: _Cell) -> None:
        self.total += other.total
        self.finite += other.finite
        self.non_finite += other.non_finite


@dataclass
class Summary:
    """What became of one metric."""

    count: int = 0
    non_finite: int = 0
    last: float | int | None = None
    min: float | int | None = None
    """The least finite value; None where there is none."""
    max: float | int | None = None
    """The greatest finite value; None where there is none."""
    _cells: list[_Cell] = field(default_factory=list)
    _cell_size: int = 1  # values per cell; doubled when there are too many cells

    def add(self, value: float | int) -> None:
        """Take in the metric's next value."""
        if self.count % self._cell_size == 0:
            if len(self._cells) == _MOST_CELLS:
                self._halve()
            self._cells.append(_Cell())
        cell = self._cells[-1]
        self.count += 1
        self.last = value
        if not math.isfinite(value):
            self.non_finite += 1
            cell.non_finite += 1
            return
        self.min = value if self.min is None else min(self.min, value)
        self.max = value if self.max is None else max(self.max, value)
        cell.total += value * _SCALE
        cell.finite += 1

    @property
    def mean(self) -> float | None:
        """The mean of the finite values; None where there is none."""
        finite = self.count - self.non_finite
        return sum(cell.total for cell in self._cells) / finite / _SCALE if finite else None

    def _halve(self) -> None:
        for left, right in zip(self._cells[::2], self._cells[1::2], strict=True):
            left.merge(right)
        self._cells = self._cells[::2]
        self._cell_size *= 2

    def sparkline(self, width: int, *, ascii_only: bool = False) -> str:
        """Return the metric's course in at most `width` letters.

        Each is the mean of neighbouring values, between the least and greatest of these means;
        "!" stands where one of the values was NaN or infinite.
        """
        columns = min(width, len(self._cells))
        merged = [_Cell() for _ in range(columns)]
        for number, cell in enumerate(self._cells):
            merged[number * columns // len(self._cells)].merge(cell)
        means = [cell.total / cell.finite for cell in merged if cell.finite and not cell.non_finite]
        least, span = min(means, default=0.0), max(means, default=0.0) - min(means, default=0.0)
        if self.min == self.max:  # its means differ by their rounding
            span = 0.0
        blocks = _ASCII_BLOCKS if ascii_only else _BLOCKS
        scale = (len(blocks) - 1) / span if span > 0 else 0.0
        return "".join(
            _NON_FINITE
            if cell.non_finite
            else blocks[round((cell.total / cell.finite - least) * scale)]
            for cell in merged
        )
