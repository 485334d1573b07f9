"""When an upstream is asked again: only after a connect that failed, when not one byte of the request was sent, and not without end."""

import tenacity

from guardrail.errors import UpstreamError

FIRST_PAUSE_S = 0.1
RESERVE = 10.0  # further tries that a time with few requests may have


class RetryBudget:
    """Each request brings a `share` of a further try, each further try costs a whole one: a dying upstream is not asked twice as often.

    At most `RESERVE` of them are kept, which is also what it begins with; a share of 0 is none at all.
    """

    def __init__(self, share: float = 0.1) -> None:
        self._share = share
        self._held = RESERVE if share > 0 else 0.0

    def request(self) -> None:
        """A request begins."""
        self._held = min(RESERVE, self._held + self._share)

    def take(self) -> bool:
        """Whether one further try may be made; then it is counted."""
        if self._held < 1:
            return False
        self._held -= 1
        return True


def may_retry(error: BaseException | None) -> bool:
    """Whether nothing was sent. A request that reached the upstream is never sent again: it may have been answered, and billed."""
    return isinstance(error, UpstreamError) and error.code == "connect"


def connect_retry(budget: RetryBudget, *, within_s: float, attempts: int = 2) -> tenacity.AsyncRetrying:
    """At most `attempts` further tries, 0.2 s apart (up to 0.1 s longer by chance), the last one begun within `within_s` seconds.

    The first of them must have been taken from the budget. The last error is raised as it is.
    """

    def again(state: tenacity.RetryCallState) -> bool:
        failed = state.outcome is not None and may_retry(state.outcome.exception())
        last = state.attempt_number >= attempts or (state.seconds_since_start or 0.0) >= within_s
        return failed and not last and budget.take()

    return tenacity.AsyncRetrying(
        wait=tenacity.wait_exponential(multiplier=0.2, max=0.4) + tenacity.wait_random(0, 0.1), retry=again, reraise=True
    )
