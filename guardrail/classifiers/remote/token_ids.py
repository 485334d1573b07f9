"""A prompt as the token ids the model would see, spelled on this side: nothing in a text has power, and nothing is cut off unseen."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from guardrail.classifiers.remote.logprobs import DigitIds
from guardrail.engine.cope.tokens import PromptTokens
from guardrail.errors import ClassifierError
from guardrail.types import ClassifyRequest


class TokenIds:
    """Encodes off the event loop, on one thread."""

    def __init__(self, tokens: PromptTokens) -> None:
        self._tokens = tokens
        self.digits = DigitIds(tokens.zero, tokens.one)
        self.template, self.digest = tokens.template, tokens.digest
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="remote-classifier")

    async def prompt(self, request: ClassifyRequest) -> tuple[list[int], list[int]]:
        """The ids up to the content and the rest. Raises ClassifierError (too_long) naming both counts."""
        try:
            encoding = asyncio.get_running_loop().run_in_executor(self._worker, self._encoded, request)
        except RuntimeError:
            raise ClassifierError("crash", "this classifier is closed") from None
        return await encoding

    def close(self) -> None:
        """End the thread once nobody waits for it."""
        self._worker.shutdown(wait=False)

    def _encoded(self, request: ClassifyRequest) -> tuple[list[int], list[int]]:
        prefix = self._tokens.prefix(request.policy.body)
        return prefix.tolist(), self._tokens.row(request.text, request.policy.body).tokens.tolist()


def require_whole(counted: int | None, sent: int, *, must_say: bool) -> None:
    """Compare the server's count of prompt tokens with what was sent: some servers cut a long prompt, and the question with it.

    Raises ClassifierError: too_long where the server counted fewer, malformed where it counted more, or none and `must_say`.
    """
    if counted is None and must_say:
        raise ClassifierError("malformed", "the answer does not count the prompt's tokens, so it may have cut the prompt short")
    if counted is not None and counted < sent:
        raise ClassifierError("too_long", f"the server read {counted:,} of {sent:,} prompt tokens; raise its limit (--max-model-len)")
    if counted is not None and counted > sent:
        raise ClassifierError("malformed", f"the server read {counted:,} prompt tokens where {sent:,} were sent")
