"""Messages that cannot be points: counted, and logged once a minute for each cause."""

import logging
import re
import time
from typing import Final

LOG_AGAIN_S: Final = 60.0
MAX_CAUSES: Final = 100

log = logging.getLogger("refusals")


class Refusals:
    """Counts what is refused; its log stays short, whatever is sent."""

    def __init__(self) -> None:
        """Begin with none."""
        self.count = 0
        self._logged_at_s: dict[str, float] = {}

    def add(self, topic: str, cause: str) -> None:
        """Count a message that is no point, or not all of the points it could be."""
        self.count += 1
        if self._is_news(cause):
            log.warning("refused %.100r: %.200s (%d refused so far)", topic, cause, self.count)

    def note(self, topic: str, text: str) -> None:
        """Log what a message tells a human; it is no refusal."""
        if self._is_news(text):
            log.warning("%.100r says: %.200s", topic, text)

    def _is_news(self, cause: str) -> bool:
        now_s = time.monotonic()
        kind = re.sub(r"\d+", "", cause)  # the same error at another byte is no other cause
        if now_s - self._logged_at_s.get(kind, -LOG_AGAIN_S) < LOG_AGAIN_S:
            return False
        if len(self._logged_at_s) >= MAX_CAUSES:
            self._logged_at_s.clear()
        self._logged_at_s[kind] = now_s
        return True
