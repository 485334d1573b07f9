"""Refusals: exactly the agreed shapes, nothing of a judged text, nothing of a shadow policy."""

import json

import openai
import pytest
from openai.types.chat import ChatCompletion

from guardrail.errors import UpstreamError, WireError
from guardrail.types import Action, Decision, Mode, Outcome, Stage, Verdict
from guardrail.wire import refusal
from guardrail.wire.chat_stream import ChatStreamCollector
from guardrail.wire.dialect import error_event
from guardrail.wire.dialects import CHAT


def verdict(policy, score, **more):
    return Verdict(policy, "1.0.0", "sha256:0", 0.5, "messages[0].content", "scripted", score, **more)


def decision(*verdicts, action=Action.BLOCK, stage=Stage.INPUT, choices=None, unjudged=False, unscannable=()):
    outcome = Outcome(action, action, choices or {}, unjudged, False)
    return Decision("d-1", stage, outcome, verdicts, unscannable, "route", "tenant", 7, 0.01)


BLOCKED = decision(
    verdict("hate_speech", 0.97),
    verdict("hate_speech", 0.61),
    verdict("harassment", 0.2),
    verdict("toxicity", 0.99, mode=Mode.SHADOW),
    verdict("violence", 0.99, action=Action.ANNOTATE),
)


def request(**fields):
    return CHAT.parse_request(json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}).encode())


def test_an_input_block_is_the_agreed_body():
    reply = refusal.input_block(BLOCKED)
    assert (reply.status, reply.headers) == (400, (("content-type", "application/json"),))
    assert json.loads(reply.body) == {
        "error": {
            "message": "Request blocked by content policy.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "content_filter",
            "innererror": {
                "code": "ResponsibleAIPolicyViolation",
                "content_filter_result": {"hate_speech": {"filtered": True, "detected": True, "score": 0.97}},
            },
            "guardrail": {
                "reason": "content_policy_violation",
                "decision_id": "d-1",
                "direction": "input",
                "policies": [{"id": "hate_speech", "version": "1.0.0", "action": "block"}],
            },
        }
    }


def test_the_message_names_policies_only_when_asked_to():
    assert "hate_speech" in json.loads(refusal.input_block(BLOCKED, name_policies=True).body)["error"]["message"]
    assert "hate_speech" not in json.loads(refusal.input_block(BLOCKED).body)["error"]["message"]


def test_an_unscannable_part_is_named_by_its_place():
    error = json.loads(refusal.input_block(decision(unscannable=("messages[0].content[1]",))).body)["error"]
    assert "cannot be checked" in error["message"]
    assert error["guardrail"]["unscannable"] == ["messages[0].content[1]"]
    assert error["code"] == "content_filter"


def test_a_reply_block_is_a_completion_with_each_choice_filtered():
    reply = refusal.input_block_reply(BLOCKED, request(n=2), "Sorry.", created=12)
    completion = ChatCompletion.model_validate_json(reply.body)
    assert reply.status == 200
    assert [(choice.index, choice.finish_reason, choice.message.content) for choice in completion.choices] == [
        (0, "content_filter", "Sorry."),
        (1, "content_filter", "Sorry."),
    ]
    assert (completion.created, completion.model, completion.usage.total_tokens) == (12, "m", 0)


def test_a_streamed_reply_block_is_a_whole_stream():
    reply = refusal.input_block_reply(BLOCKED, request(stream=True, stream_options={"include_usage": True}), "Sorry.", created=12)
    assert dict(reply.headers)["content-type"].startswith("text/event-stream")
    collector = ChatStreamCollector()
    collector.receive(reply.body)
    collector.finish()
    assert collector.finish_reasons == {0: "content_filter"}
    assert [part.text for part in collector.parts()] == ["Sorry."]
    assert collector.usage == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert collector.done


def test_blocked_choices_are_those_the_decision_blocks_each_with_its_own_reasons():
    judged = decision(
        verdict("hate_speech", 0.9, choice=0),
        verdict("harassment", 0.8, choice=1),
        verdict("toxicity", None, error="timeout", choice=2),
        stage=Stage.OUTPUT,
        choices={0: Action.PASS, 1: Action.BLOCK, 2: Action.BLOCK},
    )
    assert refusal.blocked_choices(judged) == {1: {"harassment": {"filtered": True, "detected": True, "score": 0.8}}, 2: {}}


@pytest.mark.parametrize(
    ("decisions", "word"),
    [
        ([decision(action=Action.PASS)], "allow"),
        ([decision(action=Action.PASS), decision(action=Action.ANNOTATE)], "annotate"),
        ([decision(action=Action.REDACT), decision(action=Action.PASS)], "modify"),
        ([decision(action=Action.BLOCK, unjudged=True)], "block"),
        ([decision(action=Action.PASS, unjudged=True)], "unjudged"),
        ([decision(action=Action.PASS, unjudged=True), decision(action=Action.ANNOTATE)], "unjudged"),
    ],
)
def test_the_decision_header_says_the_strongest_and_never_allows_what_was_not_judged(decisions, word):
    headers = dict(refusal.decision_headers(decisions, overhead_s=0.01234))
    assert headers == {
        "x-guardrail-decision": word,
        "x-guardrail-decision-id": ",".join("d-1" for _ in decisions),
        "x-guardrail-policy-version": "7",
        "x-guardrail-overhead-ms": "12.3",
    }


@pytest.mark.parametrize(
    ("decisions", "taken", "word"),
    [
        ([], Action.PASS, "pending"),
        ([decision(action=Action.PASS)], Action.PASS, "pending"),
        ([decision(action=Action.PASS)], Action.REDACT, "modify"),
        ([decision(action=Action.ANNOTATE)], Action.BLOCK, "block"),
        ([decision(action=Action.ANNOTATE)], Action.PASS, "annotate"),
        ([decision(action=Action.PASS, unjudged=True)], Action.PASS, "unjudged"),
    ],
)
def test_the_decision_header_never_allows_an_answer_that_is_not_judged_to_its_end(decisions, taken, word):
    headers = dict(refusal.decision_headers(decisions, overhead_s=0.0, pending=refusal.Pending(taken, "7")))
    assert (headers["x-guardrail-decision"], headers["x-guardrail-policy-version"]) == (word, "7")
    assert ("x-guardrail-decision-id" in headers) == bool(decisions)


def test_nothing_decided_has_no_headers():
    assert refusal.decision_headers([], overhead_s=0.0) == ()


def test_unavailable_is_a_503_that_is_not_retried():
    reply = refusal.unavailable(BLOCKED)
    error = json.loads(reply.body)["error"]
    assert (reply.status, error["type"], error["code"]) == (503, "server_error", "guardrail_unavailable")
    assert ("x-should-retry", "false") in reply.headers


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "invalid_request_error"),
        (413, "invalid_request_error"),
        (415, "invalid_request_error"),
        (429, "rate_limit_error"),
        (502, "server_error"),
        (504, "server_error"),
    ],
)
def test_each_failure_has_openais_shape(status, kind):
    reply = refusal.failure(status, "some_code", "Something.", param="p")
    assert reply.status == status
    assert json.loads(reply.body) == {"error": {"message": "Something.", "type": kind, "param": "p", "code": "some_code"}}


def test_a_wire_error_is_answered_as_it_asks():
    reply = refusal.wire_error(WireError(400, "invalid_n", "n must be a number.", param="n"))
    assert (reply.status, json.loads(reply.body)["error"]["param"]) == (400, "n")


@pytest.mark.parametrize(
    ("code", "status", "retried"),
    [("connect", 502, True), ("timeout", 504, False), ("disconnect", 502, False), ("malformed", 502, False), ("too_large", 502, False)],
)
def test_an_upstream_failure_is_neutral_and_only_a_failed_connect_may_be_retried(code, status, retried):
    error = UpstreamError(code, "secret detail")
    reply = refusal.upstream_failure(error)
    assert reply.status == status
    assert (("x-should-retry", "false") in reply.headers) is not retried
    assert json.loads(reply.body)["error"]["code"] == "upstream_error"
    assert b"secret" not in reply.body + error_event(reply)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (error_event(refusal.upstream_failure(UpstreamError("disconnect", "x"))), "upstream_error"),
        (error_event(refusal.unavailable()), "guardrail_unavailable"),
    ],
)
def test_an_error_frame_is_raised_by_an_unmodified_client(raw, code):
    document = json.loads(raw.removeprefix(b"data: "))
    assert set(document["error"]) == {"message", "type", "param", "code"}
    assert document["error"]["type"] == "server_error"
    assert document["error"]["code"] == code
    with pytest.raises(openai.APIError) as caught:
        list(_stream(raw))
    assert caught.value.code == code


def _stream(raw):
    import httpx

    transport = httpx.MockTransport(lambda _: httpx.Response(200, headers={"content-type": "text/event-stream"}, content=raw))
    with openai.OpenAI(api_key="k", base_url="http://upstream/v1", http_client=httpx.Client(transport=transport)) as client:
        yield from client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
