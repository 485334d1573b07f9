"""From a section of the configuration to a classifier."""

from guardrail.classifiers.remote.classifier import Api, Manners, RemoteClassifier
from guardrail.classifiers.remote.completions import Completions, CompletionSettings
from guardrail.classifiers.remote.connection import Connection, Endpoint
from guardrail.classifiers.remote.digits import Strictness
from guardrail.classifiers.remote.label import Labeler, Labels, LabelSettings
from guardrail.classifiers.remote.token_ids import TokenIds
from guardrail.classifiers.remote.vllm import GenerativeScoring, VllmSettings
from guardrail.config.remote import CompletionsClassifier, LabelClassifier, RemoteSection, VllmClassifier
from guardrail.errors import GuardrailError


def open_vllm(section: VllmClassifier, key: str | None, tokens: TokenIds) -> RemoteClassifier:
    """`kind: vllm`."""
    strictness = Strictness(section.most_outside)
    root = section.base_url.removesuffix("/v1")  # this address of vLLM's stands beside /v1, not below it
    return _classifier(GenerativeScoring(tokens, VllmSettings(section.model, section.check_outside, strictness)), section, key, root)


def open_completions(section: CompletionsClassifier, key: str | None, tokens: TokenIds | None) -> RemoteClassifier:
    """`kind: completions`."""
    settings = CompletionSettings(
        section.model,
        section.template,
        section.logprobs,
        section.allowed_token_ids,
        Strictness(section.most_outside, section.slack),
    )
    return _classifier(Completions(settings, tokens), section, key, section.base_url)


def open_label(section: LabelClassifier, key: str | None, tokens: TokenIds | None = None) -> RemoteClassifier:  # noqa: ARG001
    """`kind: label`."""
    labelers = {policy: Labeler(use.id, use.version) for policy, use in section.labelers.items()}
    return _classifier(Labels(LabelSettings(section.model, labelers)), section, key, section.base_url)


def _classifier(api: Api, section: RemoteSection, key: str | None, base_url: str) -> RemoteClassifier:
    try:
        endpoint = Endpoint(base_url, key, section.connections, section.connect_timeout_s)
    except ValueError as error:
        raise GuardrailError(str(error)) from None
    return RemoteClassifier(api, Connection(endpoint), Manners(trial_s=section.trial_timeout_s))
