"""How long to wait before the next try, so that a peer that comes back is not trampled."""

import random


class Backoff:
    """Delays that double up to a longest, each with jitter so that many clients spread out."""

    def __init__(self, first_s: float = 0.5, longest_s: float = 30.0) -> None:
        """Start with about `first_s` seconds."""
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def delay_s(self) -> float:
        """Return the seconds to wait now: between half and all of the present step."""
        step_s = self._next_s
        self._next_s = min(2 * step_s, self._longest_s)
        return step_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter is no secret

    def reset(self) -> None:
        """Start again: the peer has answered."""
        self._next_s = self._first_s
