"""When texts were written: times as people write them, gathered into periods that fit on a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gecko.errors import GeckoError

MOST_PERIODS = 24
_LENGTHS = {"day": "D", "week": "W", "month": "M", "quarter": "Q", "year": "Y"}  # pandas' names of them


@dataclass(frozen=True, slots=True)
class Periods:
    """The periods of n texts.

    Attributes:
        length: day, week, month, quarter or year: the shortest of which 24 hold all times, or a year.
        names: Of each period, in order, those without a text too: a week by its first day.
        of: (n,) the period of each text; -1 where its time is missing or cannot be read.
    """

    length: str
    names: list[str]
    of: np.ndarray

    def counts(self, members: Sequence[int]) -> list[int]:
        """How many of some texts each period has."""
        own = self.of[list(members)]
        return np.bincount(own[own >= 0], minlength=len(self.names)).tolist()


def read_periods(times: Sequence[str]) -> Periods | None:
    """Gather times into periods; None where no text has one.

    Raises:
        GeckoError: None of them can be read.
    """
    written = [text for text in times if text]
    if not written:
        return None
    import pandas as pd

    moments = [_moment(text) for text in times]
    known = [moment for moment in moments if moment is not None]
    if not known:
        raise GeckoError(f"no time can be read, such as {written[0]!r}", "write them as 2024-05-31")
    ranges = {length: pd.period_range(min(known), max(known), freq=code) for length, code in _LENGTHS.items()}
    length = next((length for length, whole in ranges.items() if len(whole) <= MOST_PERIODS), "year")
    whole, code = ranges[length], _LENGTHS[length]
    place = {period: index for index, period in enumerate(whole)}
    of = [-1 if moment is None else place[pd.Period(moment, freq=code)] for moment in moments]
    return Periods(length, [str(period).partition("/")[0] for period in whole], np.array(of, int))


def _moment(text: str) -> Any:  # noqa: ANN401
    """A written time as a pandas Timestamp without zone; seconds since 1970 where it is a long number."""
    import pandas as pd

    number = text.replace(".", "", 1)
    try:
        if number.isdigit() and len(number) > 8:  # 20240531 is a day
            return pd.Timestamp(float(text), unit="s")
        moment = pd.Timestamp(text)
    except (ValueError, OverflowError):
        return None
    return None if pd.isna(moment) else moment.tz_localize(None)
