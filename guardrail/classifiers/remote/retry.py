"""When a question is put again: a connection that failed or was dropped, 429 and 5xx, as long as an answer could still be in time."""

import time

import tenacity

from guardrail.classifiers.remote.faults import TryError

MOST_TRIES = 4
SHORTEST_PAUSE_S = 0.05


def persistent(deadline: float) -> tenacity.AsyncRetrying:
    """Tries that end with an answer or the last failure as it is. None begins at or after `deadline` (a `time.monotonic()` instant).

    Pauses are those the server asks for, else 0.1 s doubling up to 2 s with chance in them. Asking again is safe: a classifier's
    answer changes nothing on the server.
    """
    return tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(MOST_TRIES) | tenacity.stop_before_delay(max(0.0, deadline - time.monotonic())),
        wait=_pause,
        retry=tenacity.retry_if_exception(_may_try_again),
        reraise=True,
    )


_by_chance = tenacity.wait_exponential(multiplier=0.1, max=2) + tenacity.wait_random(0, 0.1)


def _pause(state: tenacity.RetryCallState) -> float:
    failure = state.outcome.exception() if state.outcome else None
    asked = failure.after if isinstance(failure, TryError) else None
    return _by_chance(state) if asked is None else max(asked, SHORTEST_PAUSE_S)


def _may_try_again(error: BaseException) -> bool:
    return isinstance(error, TryError) and error.again
