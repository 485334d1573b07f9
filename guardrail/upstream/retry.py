"""When an upstream is asked again: only after a connect that failed, when not one byte of the request was sent."""

import tenacity

from guardrail.errors import UpstreamError


def connect_retry(attempts: int = 3) -> tenacity.AsyncRetrying:
    """At most `attempts` tries, 0.1 s and then 0.2 s apart (each up to 0.1 s longer by chance); the last error is raised as it is.

    A request that reached the upstream is never sent again: it may have been answered, and billed.
    """
    return tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(attempts),
        wait=tenacity.wait_exponential(multiplier=0.1, max=0.4) + tenacity.wait_random(0, 0.1),
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, UpstreamError) and error.code == "connect"),
        reraise=True,
    )
