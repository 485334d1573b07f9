"""The tokenizer of a model that runs elsewhere, from a folder or the hub; its weights are not needed."""

from transformers import AutoTokenizer

from guardrail.classifiers.remote.token_ids import TokenIds
from guardrail.engine.cope.tokens import PromptTokens
from guardrail.errors import ModelFileError


def load_token_ids(place: str, template: str, longest: int) -> TokenIds:
    """`place`: a folder with the tokenizer's files, or its id on the hub. `longest`: tokens of a whole prompt at most.

    Raises ModelFileError with what to do when it cannot be had, or cannot spell prompts exactly.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError) as error:
        remedy = "give a folder with its tokenizer.json, or accept the model's licence on the hub and set HF_TOKEN"
        raise ModelFileError(f"the tokenizer {place!r} cannot be loaded ({type(error).__name__}); {remedy}") from error
    tokens = PromptTokens(tokenizer, template, longest)
    tokens.assert_seams()
    return TokenIds(tokens)
