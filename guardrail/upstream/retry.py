"""When an upstream is asked again: only after a connect that failed, when not one byte of the request was sent."""

import tenacity

from guardrail.errors import UpstreamError

FIRST_PAUSE_S = 0.1


def may_retry(error: BaseException) -> bool:
    """Whether nothing was sent. A request that reached the upstream is never sent again: it may have been answered, and billed."""
    return isinstance(error, UpstreamError) and error.code == "connect"


def connect_retry(attempts: int = 2) -> tenacity.AsyncRetrying:
    """At most `attempts` further tries, 0.2 s apart (up to 0.1 s longer by chance); the last error is raised as it is."""
    return tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(attempts),
        wait=tenacity.wait_exponential(multiplier=0.2, max=0.4) + tenacity.wait_random(0, 0.1),
        retry=tenacity.retry_if_exception(may_retry),
        reraise=True,
    )
