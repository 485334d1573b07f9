"""Breakers in the running proxy: what a client, an operator and the records see while one is open."""

from asgi_cases import BAD, Answering, completion, config, proxied

from guardrail.errors import UpstreamError
from guardrail.events import BreakerChanged
from guardrail.testing import ScriptedClassifier, contains

BREAKERS = {"classifiers": {"failures": 2, "open_s": 3600}, "upstreams": {"failures": 2, "open_s": 3600}}


async def test_a_failing_upstream_is_503_with_retry_after_and_is_not_asked() -> None:
    upstream = Answering([b"{}"], status=503)
    async with proxied(config(breakers=BREAKERS), upstream=upstream) as proxy:
        answers = [await proxy.ask() for _ in range(4)]
        assert [answer.status_code for answer in answers] == [503] * 4
        assert len(upstream.bodies) == 2
        assert answers[-1].json()["error"]["code"] == "upstream_unavailable"
        assert int(answers[-1].headers["retry-after"]) > 3000
        assert (await proxy.client.get("/v1/models")).status_code == 503
        assert (await proxy.ask(BAD)).status_code == 400  # the prompt is judged still
        ready = await proxy.client.get("/readyz")
        assert (ready.status_code, ready.json()["breakers"]["upstreams"]) == (200, {"embedded": "open"})
        assert proxy.sink.of(BreakerChanged) == [BreakerChanged("upstream", "embedded", "open")]


async def test_a_failing_classifier_is_not_asked_and_nothing_passes_because_of_it() -> None:
    classifier = ScriptedClassifier({"*": contains("forbidden")})
    upstream = Answering([completion("fine")])
    async with proxied(config({"output": {"policies": []}}, breakers=BREAKERS), upstream=upstream, classifier=classifier) as proxy:
        classifier.fault = RuntimeError("down")
        assert [(await proxy.ask()).status_code for _ in range(3)] == [503] * 3
        asked = classifier.batches
        assert (await proxy.ask()).status_code == 503
        assert classifier.batches == asked
        assert upstream.bodies == []
        assert (await proxy.client.get("/readyz")).json()["breakers"]["classifiers"] == {"embedded": "open"}


async def test_without_breakers_all_are_asked() -> None:
    upstream = Answering([b"{}"], error=UpstreamError("disconnect", "x"))
    async with proxied(config(breakers={"classifiers": None, "upstreams": None}), upstream=upstream) as proxy:
        for _ in range(30):
            await proxy.ask()
        assert len(upstream.bodies) == 30
        assert (await proxy.client.get("/readyz")).json()["breakers"] == {"classifiers": {}, "upstreams": {}}
