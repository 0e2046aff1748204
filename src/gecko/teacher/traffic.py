"""How many calls may be under way at once: what the endpoint bears, learnt from how it answers."""

from __future__ import annotations

from dataclasses import dataclass

_CUT = 0.7


@dataclass(frozen=True, slots=True)
class Patience:
    """How long failing calls are borne.

    Attributes:
        attempts: Calls made for one ask before it is given up; those that the endpoint refused everybody do not count.
        call_seconds: How long one call may take in all, however slowly its answer drips.
        endpoint_seconds: How long an endpoint may refuse every call before the run stops.
        first_seconds: The same, where it has never answered.
        backoff_seconds: Wait before the second attempt; doubled for each one after it, and scattered by half.
        longest_backoff_seconds: What it is doubled up to.
        refusals: Calls refused in a row before an endpoint is held dead: more than one ask's attempts.
    """

    attempts: int = 6
    call_seconds: float = 600.0
    endpoint_seconds: float = 120.0
    first_seconds: float = 10.0
    backoff_seconds: float = 0.5
    longest_backoff_seconds: float = 30.0
    refusals: int = 8


@dataclass(slots=True)
class Traffic:
    """How many calls may be under way, and how the endpoint has behaved (times are of ``time.monotonic``)."""

    most: int
    limit: float
    active: int = 0
    paused_until: float = 0.0
    last_cut: float = 0.0
    answered: int = 0
    refused_since: float | None = None
    refusals: int = 0

    def answer(self) -> None:
        """One call was answered."""
        self.answered += 1
        self.refused_since, self.refusals = None, 0
        self.limit = min(float(self.most), self.limit + 1 / max(self.limit, 1.0))

    def crowd(self, now: float, wait: float) -> None:
        """The endpoint has too much to do: fewer calls at once, and none for ``wait`` seconds."""
        # One cut for all the calls of a round: those under way were started before the endpoint said so.
        if now - self.last_cut > 1.0:
            self.limit, self.last_cut = max(1.0, self.limit * _CUT), now
        self.paused_until = max(self.paused_until, now + wait)

    def refuse(self, now: float) -> None:
        """A call failed as calls do when the endpoint is out of order."""
        self.refusals += 1
        if self.refused_since is None:
            self.refused_since = now

    def dead(self, now: float, patience: Patience) -> bool:
        """Whether the endpoint has refused every call for longer than is borne."""
        if self.refused_since is None or self.refusals < patience.refusals or now < self.paused_until:
            return False
        borne = patience.endpoint_seconds if self.answered else patience.first_seconds
        return now - max(self.refused_since, self.paused_until) >= borne
