"""What stands in an answer where something was taken out of it."""

import hashlib
import hmac


class Placeholders:
    """`[redacted-1f2e3d4c]`: the same for the same text under one key, and telling nothing about it to who has not the key.

    `key` (bytes, secret) is one conversation's own, so that what was taken out twice can be seen to be the same there, and only there.
    """

    def __init__(self, key: bytes) -> None:
        if not key:
            raise ValueError("placeholders need a key that is not empty")
        self._key = key

    def __call__(self, text: str) -> str:
        """The placeholder of one text."""
        digest = hmac.new(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
        return f"[redacted-{digest[:8]}]"


def conversation_key(secret: bytes, *parts: str) -> bytes:
    """The key of one conversation: the same for the same `parts` (who speaks, how it began), unrelated for any other."""
    said = b"".join(len(data).to_bytes(8, "big") + data for data in (part.encode("utf-8", "surrogatepass") for part in parts))
    return hmac.new(secret, said, hashlib.sha256).digest()
