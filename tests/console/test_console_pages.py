"""What the pages say, in their documents and in their twins."""

import asyncio
import json
import math
import re
import shutil
import sqlite3
import threading
import xml.etree.ElementTree as ET
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from console_cases import CHAT, FORM, HERE, KEY, POLICIES, config, consoled, here

from guardrail.assembly import build_app
from guardrail.audit.durations import Durations
from guardrail.config.tenants import hash_key
from guardrail.console.history import difference
from guardrail.policy.document import parse
from guardrail.testing import ScriptedClassifier, contains
from guardrail.types import Score, Span

BAD = "something forbidden"
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}</pre><b>"


class Outline(HTMLParser):
    """The tags of a document and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def explaining(**changes: Any) -> ScriptedClassifier:
    """A classifier that says why."""
    score = Score(0.97, "scripted@1", Span(0, 4), "Insult", ("header_lookalike",))
    return ScriptedClassifier({"harassment": lambda text: score if "forbidden" in text else 0.02, **changes})


async def test_the_overview_counts_what_was_decided(tmp_path: Path) -> None:
    classifier = ScriptedClassifier({"harassment": contains("forbidden")})
    async with consoled(store=tmp_path / "audit.db", classifier=classifier) as console:
        assert (await console.twin("overview.json"))["sums"]["decisions"] == 0
        assert "Nothing was decided" in await console.page("overview")
        await console.ask("Hello")
        await console.ask(BAD)
        classifier.fault = RuntimeError("down")
        assert (await console.ask("Hello there")).status_code == 503
        said = await console.twin("overview.json")
        assert said["sums"]["words"] == {"pass": 2, "annotate": 0, "redact": 0, "shadow": 0, "block": 1, "unjudged": 1}
        assert (said["sums"]["block_rate"], said["sums"]["unjudged_rate"]) == (0.25, 0.25)
        assert said["policies"][0]["name"] == "harassment"
        assert said["policies"][0]["words"] == {"block": 1, "shadow": 0}
        assert said["tenants"] == [{"name": "default", "of": 4, "words": {"pass": 2, "block": 1, "unjudged": 1}}]
        assert sum(step["decisions"] for step in said["steps"]) == 4
        assert said["range"]["name"] == "5m"
        text = await console.page("overview?range=7d")
        assert text.count('role="img"') == 2
        assert "25.0%" in text


async def test_a_long_range_is_summed_up_off_the_loop_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many decisions there are, and however many look at them: the requests that are judged do not wait for it."""
    summing: list[int] = []
    percentile = Durations.percentile

    def watched(self: Durations, share: float) -> float:
        summing.append(threading.get_ident())
        return percentile(self, share)

    monkeypatch.setattr(Durations, "percentile", watched)
    async with consoled(store=tmp_path / "audit.db") as console:
        await console.ask("Hello")
        first = await console.twin("overview.json?range=7d")
        summed = len(summing)
        assert summed
        assert threading.get_ident() not in summing
        again = await console.twin("overview.json?range=7d")
        assert (len(summing), again["sums"], again["steps"]) == (summed, first["sums"], first["steps"])


async def test_shadow_decisions_are_told_apart_from_passes(tmp_path: Path) -> None:
    checks = {"policies": [{"id": "harassment", "mode": "shadow"}]}
    settings = config(routes=[{"name": "watching", "input": checks, "output": {"policies": []}}])
    async with consoled(settings, store=tmp_path / "audit.db") as console:
        assert (await console.ask(BAD)).status_code == 200
        said = await console.twin("overview.json")
        assert said["sums"]["words"]["shadow"] == 1
        assert [(each["name"], each["words"]) for each in said["policies"]] == [("harassment", {"block": 0, "shadow": 1})]
        lines = (await console.twin("decisions.json?action=shadow"))["lines"]
        assert [(line["word"], line["enforced"]) for line in lines] == [("shadow", "pass")]
        assert "would have been done" in await console.page(f"decisions/{lines[0]['id']}")


async def test_every_plot_is_a_picture_with_a_title_and_words(tmp_path: Path) -> None:
    async with consoled(store=tmp_path / "audit.db", classifier=explaining()) as console:
        await console.ask(BAD)
        line = (await console.twin("decisions.json"))["lines"][0]
        for path in ("overview", "policies/harassment", f"decisions/{line['id']}"):
            drawn = re.findall(r'<svg viewBox.*?class="plot".*?</svg>', await console.page(path), re.DOTALL)
            assert drawn
            for each in drawn:
                picture = ET.fromstring(each)
                ids = {child.get("id"): child.text for child in picture if child.tag in ("title", "desc")}
                assert set(picture.attrib["aria-labelledby"].split()) == set(ids)
                assert all(ids.values())


async def test_decisions_are_filtered_and_paged(tmp_path: Path) -> None:
    async with consoled(config(routes=[{"name": "default", "history": "drop"}]), store=tmp_path / "audit.db") as console:
        for number in range(30):
            await console.ask(BAD if number % 10 == 0 else f"Hello {number}")
        first = await console.twin("decisions.json")
        assert (len(first["lines"]), first["first"]) == (50, True)
        rest = await console.twin(f"decisions.json?before={first['next']}")
        assert (len(rest["lines"]), rest["next"], rest["first"]) == (7, "", False)
        assert f"before={first['next']}" in await console.page("decisions")

        async def found(query: str) -> int:
            return len((await console.twin(f"decisions.json?{query}"))["lines"])

        assert await found("policy=harassment") == 3
        assert await found("action=block") == 3
        assert await found("stage=output") == 27
        assert await found("stage=output&action=block") == 0
        assert await found("unjudged=1") == 0
        assert await found("tenant=default&route=default&stage=input") == 30
        assert await found("route=other") == 0
        assert await found("until=2020-01-01T00:00") == 0
        assert await found("since=2020-01-01T00:00&stage=input") == 30
        turns = [{"role": "user", "content": BAD}, {"role": "assistant", "content": "no"}, {"role": "user", "content": "Hello"}]
        assert (await console.client.post(CHAT, json={"model": "embedded-chat", "messages": turns})).status_code == 200
        assert await found("action=redact") == 1
        assert first["choices"]["action"] == ["pass", "annotate", "redact", "block", "shadow"]
        faulty = await console.twin("decisions.json?since=yesterday")
        assert (faulty["lines"], len(faulty["faults"])) == ([], 1)
        assert "since is no time" in await console.page("decisions?since=yesterday")
        latest = await console.twin("decisions.json")
        assert (await console.twin("decisions.json?before=x"))["lines"] == latest["lines"]


async def test_one_decision_is_explained(tmp_path: Path) -> None:
    settings = config({"trace_url": "https://traces.example.com/t/{trace_id}"})
    async with consoled(settings, store=tmp_path / "audit.db", classifier=explaining()) as console:
        await console.ask(BAD)
        line = (await console.twin("decisions.json"))["lines"][0]
        said = await console.twin(f"decisions/{line['id']}.json")
        verdict = said["verdicts"][0]
        assert (verdict["policy"], verdict["score"], verdict["threshold"], verdict["violation"]) == ("harassment", 0.97, 0.5, True)
        assert verdict["criterion_text"].startswith("Content that insults a person")
        assert (verdict["span"], verdict["flags"]) == ([0, 4], ["header_lookalike"])
        assert said["trace"] == "https://traces.example.com/t/" + "ab" * 16
        assert said["record"]["content"] is None
        text = await console.page(f"decisions/{line['id']}")
        for words in ("violates Harassment", "0.970", "Content that insults a person", "header_lookalike", said["trace"], "input judged"):
            assert words in text
        assert "Judge it again" not in text
        assert BAD not in text


async def test_a_whole_exchange_is_one_waterfall(tmp_path: Path) -> None:
    async with consoled(store=tmp_path / "audit.db") as console:
        await console.ask("Hello")
        output, request = (await console.twin("decisions.json"))["lines"]
        assert (output["stage"], request["stage"]) == ("output", "input")
        said = await console.twin(f"decisions/{request['id']}.json")
        assert [each["stage"] for each in said["exchange"]] == ["output"]
        named = [each["what"] for each in said["timings"]]
        assert (named[0], named[-1]) == ("input judged", "output judged")
        starts = [each["start"] for each in said["timings"]]
        assert starts == sorted(starts)


@pytest.mark.parametrize("identity", ["nothing", "999999", "..%2f..%2fetc", "%00", "' OR 1=1 --"])
async def test_a_decision_that_is_not_there_is_404(tmp_path: Path, identity: str) -> None:
    async with consoled(store=tmp_path / "audit.db") as console:
        await console.ask("Hello")
        for path in (f"/console/decisions/{identity}", f"/console/decisions/{identity}.json"):
            assert (await console.client.get(path)).status_code == 404


async def test_a_text_shows_only_where_it_was_kept_and_is_judged_again_there(tmp_path: Path) -> None:
    classifier = ScriptedClassifier({"harassment": contains("forbidden")})
    async with consoled(store=tmp_path / "audit.db", content="full", classifier=classifier) as console:
        await console.ask(BAD)
        line = (await console.twin("decisions.json"))["lines"][0]
        assert BAD in await console.page(f"decisions/{line['id']}")
        before = len(console.sink.events)
        same = await console.send(f"decisions/{line['id']}/replay")
        assert (same.status_code, "The same: block." in same.text) == (200, True)
        classifier._script = {"harassment": 0.25}
        changed = await console.send(f"decisions/{line['id']}/replay")
        assert "Then block; now pass." in changed.text
        assert "does not violate now" in changed.text
        classifier.fault = RuntimeError("down")
        failed = await console.send(f"decisions/{line['id']}/replay")
        assert "Then block; now block, unjudged." in failed.text
        assert "could not be judged now" in failed.text
        assert "does not violate now" not in failed.text
        assert len(console.sink.events) == before  # nobody is told, nothing is recorded


async def test_without_its_text_a_decision_is_not_judged_again(tmp_path: Path) -> None:
    async with consoled(store=tmp_path / "audit.db") as console:
        await console.ask(BAD)
        asked = len(console.classifier.requests)
        line = (await console.twin("decisions.json"))["lines"][0]
        assert (await console.send(f"decisions/{line['id']}/replay")).status_code == 409
        assert len(console.classifier.requests) == asked


async def test_an_answer_that_is_judged_with_its_prompt_is_not_judged_again(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    shutil.copytree(POLICIES["folder"], folder)
    written = (folder / "harassment.md").read_text()
    (folder / "harassment.md").write_text(written.replace("label: HR", "label: HR\njudge_with: prompt", 1))
    settings = config(policies={"folder": str(folder), "shipped": False})
    async with consoled(settings, store=tmp_path / "audit.db", content="full") as console:
        await console.ask("Hello")
        lines = (await console.twin("decisions.json"))["lines"]
        found = {line["stage"]: await console.send(f"decisions/{line['id']}/replay") for line in lines}
        assert (found["input"].status_code, found["output"].status_code) == (200, 409)
        assert "judges answers with the prompt" in found["output"].text


async def test_hostile_content_stays_text_wherever_it_shows(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    shutil.copytree(POLICIES["folder"], folder)
    written = (folder / "harassment.md").read_text()
    written = written.replace("title: Harassment", f"title: {json.dumps(HOSTILE)}")
    written = written.replace(
        "A small policy for tests,", f"A small policy {HOSTILE} [go](javascript:alert(1)) ![see](http://evil.example/x)"
    )
    written = written.replace(
        "## Changes", f"## Tests\n```yaml\n- text: {json.dumps(HOSTILE)}\n  expect: 0\n  why: {json.dumps(HOSTILE)}\n```\n## Changes"
    )
    (folder / "harassment.md").write_text(written)
    settings = config(policies={"folder": str(folder), "shipped": False})
    odd = Score(0.9, "scripted@" + HOSTILE, None, HOSTILE, (HOSTILE,))
    classifier = ScriptedClassifier({"harassment": lambda text: odd})
    async with consoled(settings, store=tmp_path / "audit.db", content="full", classifier=classifier) as console:
        body = {"model": HOSTILE, "messages": [{"role": "user", "content": HOSTILE}]}
        assert (await console.client.post("/v1/chat/completions", json=body)).status_code == 400
        line = (await console.twin("decisions.json"))["lines"][0]
        await console.send("policies/harassment/test")
        pages = {
            path: await console.page(path)
            for path in ("overview", "decisions", f"decisions/{line['id']}", "policies", "policies/harassment")
        }
        pages["playground"] = (await console.send("playground", text=HOSTILE)).text
        pages["replay"] = (await console.send(f"decisions/{line['id']}/replay")).text
        pages["filter"] = await console.page("decisions?since=" + HOSTILE.replace("{", "%7B").replace("<", "%3C"))
        pages["login"] = (await console.client.get("/console/login", params={"next": "/console/" + HOSTILE})).text
        for name, text in pages.items():
            outline = Outline(text)
            assert outline.tags.count("script") == 1, name
            assert outline.tags.count("img") <= 1, name
            assert "b" not in outline.tags, name
            assert not re.search(r'(?i)src="(?!/console/static/)|href="(?:javascript|data|vbscript)', text), name
        for name in ("decisions", "playground", "policies/harassment", "replay"):
            assert "<script>alert(1)</script>" in Outline(pages[name]).text, name
            assert "{{7*7}}" in pages[name], name


async def test_policies_say_who_asks_them_and_run_their_tests_on_demand(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    shutil.copytree(POLICIES["folder"], folder)
    cases = ['{text: "a forbidden word", expect: 1, why: "it has it"}', '{text: "forbidden, too", expect: 0, why: "wrong on purpose"}']
    tests = "\n".join(["## Tests", "```yaml", *(f"- {case}" for case in cases), "```", "## Changes"])
    path = folder / "harassment.md"
    path.write_text(path.read_text().replace("## Changes", tests))
    async with consoled(config(policies={"folder": str(folder), "shipped": False})) as console:
        entry = (await console.twin("policies.json"))["entries"][0]
        assert (entry["id"], entry["routes"], entry["tests"], entry["tried"]) == ("harassment", ["default"], 2, None)
        assert entry["findings"] > 0
        said = await console.twin("policies/harassment.json")
        assert [case["passed"] for case in said["cases"]] == [None, None]
        assert {finding["code"] for finding in said["findings"]} >= {"L003", "L014"}
        before = len(console.sink.events)
        ran = await console.send("policies/harassment/test")
        assert (ran.status_code, "1 of 2" in ran.text) == (200, True)
        said = await console.twin("policies/harassment.json")
        assert [case["passed"] for case in said["cases"]] == [True, False]
        assert len(console.sink.events) == before
        assert "1 of 2" in await console.page("policies/harassment")
        console.classifier.fault = RuntimeError("down")
        await console.send("policies/harassment/test")
        said = await console.twin("policies/harassment.json")
        assert [(case["passed"], case["error"]) for case in said["cases"]] == [(False, "crash")] * 2
        assert (await console.client.get("/console/policies/nothing")).status_code == 404


async def test_versions_that_were_in_force_can_be_laid_side_by_side(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    shutil.copytree(POLICIES["folder"], folder)
    async with consoled(config(policies={"folder": str(folder), "shipped": False}), store=tmp_path / "audit.db") as console:
        await console.ask(BAD)
        path = folder / "harassment.md"
        path.write_text(path.read_text().replace("version: 1.0.0", "version: 1.1.0").replace("you fool", "you clown"))
        for _ in range(500):
            versions = (await console.twin("policies/harassment.json"))["versions"]
            if len(versions) == 2:
                break
            await asyncio.sleep(0.02)
        assert [version["version"] for version in versions] == ["1.1.0", "1.0.0"]
        said = await console.twin(f"policies/harassment.json?against={versions[1]['generation']}")
        changed = [(line["kind"], line["text"]) for line in said["against"]["lines"] if line["kind"] in ("added", "removed")]
        assert ("removed", "version: 1.0.0") in changed
        assert any(kind == "added" and "you clown" in text for kind, text in changed)
        assert "you clown" in await console.page(f"policies/harassment?against={versions[1]['generation']}")
        assert said["scores"]["records"] == 0  # those were the old version's
        line = (await console.twin("decisions.json"))["lines"][0]
        verdict = (await console.twin(f"decisions/{line['id']}.json"))["verdicts"][0]
        assert (verdict["version"], verdict["current"]) == ("1.0.0", False)


async def test_a_version_on_trial_stands_beside_the_one_in_force(tmp_path: Path) -> None:
    trial = tmp_path / "trial.md"
    written = (Path(POLICIES["folder"]) / "harassment.md").read_text()
    trial.write_text(written.replace("version: 1.0.0", "version: 2.0.0").replace("you fool", "you clown"))
    use = {"policies": [{"id": "harassment", "candidate": str(trial)}]}
    settings = config(routes=[{"name": "default", "input": use, "output": {"policies": []}}])
    async with consoled(settings, store=tmp_path / "audit.db") as console:
        await console.ask(BAD)
        entries = (await console.twin("policies.json"))["entries"]
        assert [(entry["version"], entry["trial"]) for entry in entries] == [("1.0.0", ""), ("2.0.0", str(trial))]
        assert "on trial" in await console.page("policies")
        query = str(httpx.QueryParams(trial=str(trial)))
        said = await console.twin(f"policies/harassment.json?{query}&against=base")
        changed = [line["text"] for line in said["against"]["lines"] if line["kind"] == "added"]
        assert changed[0] == "version: 2.0.0"
        assert "the one in force" in await console.page(f"policies/harassment?{query}")
        assert said["scores"]["records"] == 1
        line = (await console.twin("decisions.json"))["lines"][0]
        verdicts = (await console.twin(f"decisions/{line['id']}.json"))["verdicts"]
        assert {(verdict["version"], verdict["mode"]) for verdict in verdicts} == {("1.0.0", "enforce"), ("2.0.0", "shadow")}


async def test_what_violates_is_marked_in_a_kept_text(tmp_path: Path) -> None:
    async with consoled(store=tmp_path / "audit.db", content="full", classifier=explaining()) as console:
        await console.ask(BAD)
        line = (await console.twin("decisions.json"))["lines"][0]
        said = await console.twin(f"decisions/{line['id']}.json")
        assert said["judged"][0]["pieces"] == [["some", True], ["thing forbidden", False]]
        assert "<mark>some</mark>thing forbidden" in await console.page(f"decisions/{line['id']}")


async def test_a_secret_shows_nowhere_where_no_text_is_kept(tmp_path: Path) -> None:
    secret = "s3cret-canary-4711"
    settings = config(tenants={"acme": {"api_keys": [hash_key(secret + "-key")]}})
    async with consoled(settings, store=tmp_path / "audit.db") as console:
        headers = {"authorization": f"Bearer {secret}-key", "x-note": secret, "user-agent": secret}
        body = {"model": "embedded-echo", "messages": [{"role": "user", "content": secret}], "user": secret}
        assert secret in (await console.client.post("/v1/chat/completions", json=body, headers=headers)).text
        body["messages"] = [{"role": "user", "content": f"forbidden {secret}"}]
        assert (await console.client.post("/v1/chat/completions", json=body, headers=headers)).status_code == 400
        lines = (await console.twin("decisions.json"))["lines"]
        assert len(lines) == 3
        paths = ("overview", "decisions", "policies", "policies/harassment", "playground", "health")
        for path in (*paths, *(f"decisions/{line['id']}" for line in lines)):
            assert secret not in await console.page(path)
            assert secret not in json.dumps(await console.twin(f"{path}.json"))


async def test_a_configured_store_is_behind_the_pages_from_the_first_moment(tmp_path: Path) -> None:
    settings = config(audit={"path": str(tmp_path / "audit.db"), "synchronous": "off"})
    classifiers = {"embedded": ScriptedClassifier({"harassment": contains("forbidden")})}
    app = build_app(settings, classifiers=classifiers)
    async with app.router.lifespan_context(app), here(app) as client:
        assert (await client.post("/console/login", data={"key": KEY}, headers=FORM)).status_code == 303
        assert (await client.get("/console/overview")).status_code == 200
        assert (await client.get("/console/decisions.json")).json()["lines"] == []
        body = {"model": "embedded-chat", "messages": [{"role": "user", "content": BAD}]}
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 400
        for _ in range(500):
            lines = (await client.get("/console/decisions.json")).json()["lines"]
            if lines:
                break
            await asyncio.sleep(0.02)
        assert [line["word"] for line in lines] == ["block"]
        queue = (await client.get("/console/health.json")).json()["queue"]
        assert (queue["dropped"], queue["failing"]) == (0, "")


async def test_a_tenants_own_policy_stands_beside_everyones(tmp_path: Path) -> None:
    own = tmp_path / "acme"
    shutil.copytree(POLICIES["folder"], own)
    (own / "harassment.md").write_text((own / "harassment.md").read_text().replace("threshold: 0.5", "threshold: 0.75"))
    tenants = {"acme": {"policies": str(own), "api_keys": ["sha256:" + "1" * 64]}, "other": {"api_keys": ["sha256:" + "2" * 64]}}
    async with consoled(config(tenants=tenants)) as console:
        entries = (await console.twin("policies.json"))["entries"]
        assert [(entry["owner"], entry["threshold"]) for entry in entries] == [("", 0.5), ("acme", 0.75)]
        said = await console.twin("policies/harassment.json?tenant=acme&against=base")
        assert said["overrides"] is True
        assert [line["text"] for line in said["against"]["lines"] if line["kind"] == "added"] == ["threshold: 0.75"]


async def test_a_policys_page_shows_both_of_its_thresholds_and_what_changed_of_them(tmp_path: Path) -> None:
    own = tmp_path / "acme"
    shutil.copytree(POLICIES["folder"], own)
    both = (own / "harassment.md").read_text().replace("threshold: 0.5", "threshold: {input: 0.5, output: 0.25}")
    (own / "harassment.md").write_text(both)
    settings = config(policies={"folder": str(own), "shipped": False})
    async with consoled(settings, store=tmp_path / "audit.db") as console:
        await console.ask(BAD)
        (entry,) = (await console.twin("policies.json"))["entries"]
        assert (entry["threshold"], entry["output_threshold"]) == (0.5, 0.25)
        assert "answers 0.25" in await console.page("policies")
        page, told = await console.page("policies/harassment"), await console.twin("policies/harassment.json")
        assert "0.5 (prompts), 0.25 (answers)" in page
        assert "the threshold of prompts is 0.5 and the threshold of answers is 0.25" in page
        assert (page.count('class="threshold"'), page.count('class="threshold answers"')) == (1, 1)
        assert [(use["stage"], use["threshold"]) for use in told["uses"]] == [("input", 0.5), ("output", 0.25)]
    old, new = parse(both.replace("{input: 0.5, output: 0.25}", "0.5")), parse(both)
    assert [line.text for line in difference(old, new) if line.kind == "added"] == ["threshold of answers: 0.25"]


async def test_tests_of_a_policy_for_answers_alone_are_answers(tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(POLICIES["folder"], own)
    head = "applies_to: [output]\nthreshold: {input: 0.9, output: 0.4}"
    text = (own / "harassment.md").read_text().replace("threshold: 0.5", head)
    cases = '## Tests\n```yaml\n- {text: "one forbidden", expect: 1, why: a}\n- {text: "one allowed", expect: 0, why: b}\n```\n## Changes'
    (own / "harassment.md").write_text(text.replace("## Changes", cases))
    classifier = ScriptedClassifier({"*": contains("forbidden", score=0.6)})
    async with consoled(config(policies={"folder": str(own), "shipped": False}), classifier=classifier) as console:
        assert "<strong>2 of 2</strong> came out as expected" in (await console.send("policies/harassment/test")).text


async def test_the_histogram_is_of_this_version_and_shows_its_threshold(tmp_path: Path) -> None:
    async with consoled(store=tmp_path / "audit.db") as console:
        await console.ask("Hello")
        await console.ask(BAD)
        scores = (await console.twin("policies/harassment.json"))["scores"]
        assert (scores["records"], scores["counts"][0], scores["counts"][19]) == (3, 2, 1)
        assert 'class="threshold"' in await console.page("policies/harassment")


async def test_the_playground_judges_every_reading_and_tells_nobody() -> None:
    async with consoled() as console:
        before = len(console.sink.events)
        answer = await console.send("playground", text="s o m e t h i n g   f o r b i d d e n", stage="output", route="default/default")
        assert answer.status_code == 200
        token = answer.text.partition('name="token" value="')[2].partition('"')[0]
        twin = await console.client.post(
            "/console/playground.json",
            data={"token": token, "text": "Hello, this is fоrbidden", "stage": "input"},  # with a Cyrillic o
            headers={"origin": HERE},
        )
        said = twin.json()
        assert [reading["steps"] for reading in said["readings"]] == [[], ["confusables"]]
        row = said["rows"][0]
        assert (row["policy"], row["asked"], row["threshold"]) == ("harassment", True, 0.5)
        assert [found["violation"] for found in row["answers"]] == [False, True]
        assert len(console.sink.events) == before


@pytest.mark.parametrize("enforced", [True, False])
async def test_the_playground_judges_no_answer_without_a_prompt_that_a_policy_needs(tmp_path: Path, enforced: bool) -> None:
    written = (Path(POLICIES["folder"]) / "harassment.md").read_text(encoding="utf-8")
    (tmp_path / "harassment.md").write_text(written.replace("label: HR", "label: HR\njudge_with: prompt", 1))
    classifier = ScriptedClassifier({"*": lambda text: 0.9 if "pills?" in text and "two" in text else 0.1})
    output = {"policies": ["harassment"] if enforced else []}
    settings = config(routes=[{"name": "default", "output": output}], policies={"folder": str(tmp_path), "shipped": False})
    async with consoled(settings, classifier=classifier) as console:
        without = await console.send("playground", text="take two", stage="output")
        assert without.status_code == (422 if enforced else 200)
        assert ("none is given" if enforced else "Not asked, since it judges") in without.text
        answer = await console.send("playground", text="take two", prompt="how many pills?", stage="output")
        assert answer.status_code == 200
        assert ("finds harassment" in answer.text) is enforced
        assert 'class="hit"' in answer.text


async def test_the_playground_reads_a_text_beside_the_event_loop_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def late(text: str, *, limits: object, deadline: float) -> None:
        threads.append(threading.current_thread())
        assert (bool(text), bool(limits), deadline < math.inf) == (True, True, True)
        raise TimeoutError

    monkeypatch.setattr("guardrail.console.playground.readings", late)
    async with consoled() as console:
        assert (await console.send("playground", text="Hello")).status_code == 503
    assert threads[0] is not threading.main_thread()


async def test_what_could_not_be_judged_in_the_playground_is_no_pass() -> None:
    async with consoled(classifier=ScriptedClassifier(fault=RuntimeError("down"))) as console:
        answer = await console.send("playground", text="Hello")
        assert "could not judge it" in answer.text
        assert "finds nothing" not in answer.text
        assert "crash" in answer.text


async def test_the_playground_takes_no_more_than_it_says_and_no_unknown_route() -> None:
    async with consoled() as console:
        assert (await console.send("playground", text="x" * 20_001)).status_code == 413
        assert (await console.send("playground", text="x", route="default/none")).status_code == 404
        assert (await console.send("playground", text="x", route="nobody/default")).status_code == 404
        assert (await console.send("playground", text="   ")).status_code == 200
        assert console.classifier.requests == []


async def test_health_shows_what_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    shutil.copytree(POLICIES["folder"], folder)
    async with consoled(config(policies={"folder": str(folder), "shipped": False})) as console:
        said = await console.twin("health.json")
        assert (said["ready"], said["generation"], said["refused"], said["in_flight"]) == (True, 1, False, 0)
        assert said["classifiers"] == [{"name": "embedded", "id": "scripted", "ok": True, "detail": "not asked", "breaker": "closed"}]
        assert said["upstreams"] == [{"name": "embedded", "kind": "embedded", "breaker": "closed"}]
        (folder / "harassment.md").write_text("---\nid: harassment\nnot yaml")
        for _ in range(500):
            said = await console.twin("health.json")
            if said["refused"]:
                break
            await asyncio.sleep(0.02)
        assert [finding["code"] for finding in said["refusals"]] == ["P004"]
        assert "Refused changes" in await console.page("health")


async def test_a_guard_without_a_store_says_so_and_the_rest_works() -> None:
    async with consoled() as console:
        for path in ("overview", "decisions"):
            assert "No decisions are kept" in await console.page(path)
        assert (await console.client.get("/console/decisions/abc")).status_code == 404


async def test_a_store_that_cannot_be_read_is_a_sentence_and_not_a_crash(tmp_path: Path) -> None:
    async with consoled(store=tmp_path / "audit.db") as console:
        await console.ask("Hello")
        for file in tmp_path.glob("audit.db*"):
            file.unlink()
        (tmp_path / "audit.db").write_bytes(b"no store at all" * 100)
        for path in ("overview", "decisions", "decisions/abc.json"):
            response = await console.client.get(f"/console/{path}")
            assert response.status_code == 503
            assert "audit store" in response.text
        assert "None recorded yet" in await console.page("policies/harassment")


@pytest.mark.parametrize("path", ["overview", "decisions", "policies", "policies/harassment", "playground", "health"])
async def test_every_page_has_a_twin_and_says_where(path: str, tmp_path: Path) -> None:
    async with consoled(store=tmp_path / "audit.db") as console:
        assert f'href="/console/{path}.json"' in await console.page(path)
        assert isinstance(await console.twin(f"{path}.json"), dict)


async def test_a_record_that_was_changed_in_the_store_says_so(tmp_path: Path) -> None:
    store = tmp_path / "audit.db"
    async with consoled(store=store) as made:
        await made.ask("something forbidden")
        identity = (await made.twin("decisions.json"))["lines"][0]["id"]
        page = f"decisions/{identity}"
        assert "not what was written" not in await made.page(page)
        with closing(sqlite3.connect(store)) as connection, connection:
            connection.execute("UPDATE records SET action = 'pass' WHERE id = ?", (identity,))
        assert "This record is not what was written" in await made.page(page)
        assert "changed</span>" in await made.page("decisions")
        assert (await made.twin(f"{page}.json"))["record"]["genuine"] is False
