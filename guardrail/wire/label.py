"""`POST /v1/label`, in the shape of Zentropi's API: one text and one policy in, a label and how sure it is out.

Source: the published API (`content_text`, exactly one of `criteria_text` and `labeler_id`, `labeler_version_id`, `model`). A labeler is
one of the caller's policies by its id; criteria are judged ad hoc. `model` is read by nothing: what judges is the route's classifier,
named in the answer, and never another one in its place.
"""

from collections.abc import Mapping

from guardrail.errors import PolicyError, WireError
from guardrail.policy.document import parse_prose
from guardrail.types import Decision, Part, Policy
from guardrail.wire.fields import read_object
from guardrail.wire.inquiry import Inquiry, judged_whole, only, reply, text_field
from guardrail.wire.refusal import Reply

_KNOWN = frozenset({"content_text", "criteria_text", "labeler_id", "labeler_version_id", "model", "content_image", "content_video"})
AD_HOC = "ad_hoc"
LATEST = "latest"


def parse_label(body: bytes, headers: Mapping[str, str]) -> Inquiry:
    """The question in `body`. Raises WireError (400, and 422 for what is well-formed and cannot be labelled)."""
    del headers
    document = read_object(body)
    only(document, _KNOWN)
    text_field(document, "model")
    if any(document.get(name) is not None for name in ("content_image", "content_video")):
        raise WireError(422, "unscannable", "Only content_text can be labelled here.")
    text = document.get("content_text")
    if not isinstance(text, str) or not text.strip():
        raise WireError(422, "invalid_content_text", "content_text must be a string that says something.", param="content_text")
    policy, version = _policy(document)
    return Inquiry((Part("content_text", text),), lambda decision: label_reply(decision, version), policies=(policy,))


def label_reply(decision: Decision, version: str = LATEST) -> Reply:
    """Zentropi's answer, with the score and threshold beside it. Raises WireError (503) when nothing could be judged, 404 for a version.

    `confidence` is that of the label given, 0.5 to 1: where the score lies between the threshold and the end of its own side. At a
    threshold of 0.5, as ad-hoc criteria have it, the score is `confidence` or what it lacks to 1.
    """
    judged_whole(decision)
    (verdict,) = decision.verdicts
    if verdict.score is None:
        raise WireError(503, "guardrail_unavailable", "The content could not be checked.")
    if version not in (LATEST, verdict.policy_version):
        raise WireError(404, "labeler_version_not_found", "The labeler has another version.", param="labeler_version_id")
    score, threshold = verdict.score, verdict.threshold
    room = (1.0 - threshold) if verdict.violation else threshold
    sure = 0.5 + 0.5 * abs(score - threshold) / room if room > 0 else 1.0
    return reply(
        {
            "label": "1" if verdict.violation else "0",
            "confidence": sure,
            "compute_time": round(decision.duration_s, 6),
            "log_id": decision.id,
            "explanation": verdict.criterion if verdict.violation else None,
            "model": verdict.classifier,
            "score": score,
            "threshold": threshold,
        }
    )


def _policy(document: Mapping[str, object]) -> tuple[str | Policy, str]:
    criteria, labeler = document.get("criteria_text"), text_field(document, "labeler_id", longest=64)
    version = text_field(document, "labeler_version_id", longest=64)
    if (criteria is None) == (labeler is None):
        raise WireError(400, "invalid_body", "Give exactly one of criteria_text and labeler_id.")
    if labeler is not None:
        return labeler, version or LATEST
    if version is not None:
        raise WireError(400, "invalid_labeler_version_id", "labeler_version_id needs a labeler_id.", param="labeler_version_id")
    if not isinstance(criteria, str):
        raise WireError(400, "invalid_criteria_text", "criteria_text must be a string.", param="criteria_text")
    try:
        return parse_prose(criteria, id=AD_HOC), LATEST
    except PolicyError as error:
        codes = ", ".join(dict.fromkeys(finding.code for finding in error.findings))
        raise WireError(422, "invalid_criteria_text", f"The criteria cannot be used ({codes}).", param="criteria_text") from None
