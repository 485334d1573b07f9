"""What lies ready under integrations/observability: it parses, its parts know one another, and it asks for metrics that exist."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from every_event import emit_everything
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client.parser import text_string_to_metric_families

from guardrail.config.check import check
from guardrail.config.load import load
from guardrail.telemetry import names
from guardrail.telemetry.metrics import Metrics
from guardrail.telemetry.prometheus import Exposition

FOLDER = Path(__file__).parents[2] / "integrations" / "observability"
FROM_OUTSIDE = {"le", "job", "instance"}  # labels that Prometheus itself gives
IDENTIFIER = re.compile(r"\b(?:guardrail|gen_ai)_\w+")
SELECTOR = re.compile(r"\{([^}]*)\}")
GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


@pytest.fixture
def exposed(decided, verdict) -> tuple[set[str], set[str]]:
    """Every sample's name and every label there is."""
    exposition = Exposition()
    provider = MeterProvider((exposition.reader,), resource=Resource({names.WORKER: 0}), shutdown_on_exit=False)
    emit_everything(Metrics(provider), decided, verdict)
    text = exposition.read("")[0].decode()
    provider.shutdown()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name for sample in samples}, {label for sample in samples for label in sample.labels}


def asked(expression: str) -> tuple[set[str], set[str]]:
    """Metrics and labels in an expression."""
    matchers = [matcher for found in SELECTOR.findall(expression) for matcher in found.split(",") if matcher.strip()]
    labels = {re.split(r"[=!~]", matcher)[0].strip() for matcher in matchers}
    labels |= {label.strip() for found in GROUPING.findall(expression) for label in found.split(",")}
    bare = GROUPING.sub("", SELECTOR.sub("", expression))
    return set(IDENTIFIER.findall(bare)), labels


def dashboard_expressions() -> list[str]:
    document = json.loads((FOLDER / "grafana" / "guardrail.json").read_text(encoding="utf-8"))
    return [target["expr"] for panel in document["panels"] for target in panel["targets"]]


def alert_rules() -> list[dict[str, Any]]:
    return [rule for group in read("alerts.yaml")["groups"] for rule in group["rules"]]


def test_an_expression_is_taken_apart_into_metrics_and_labels():
    metrics, labels = asked('sum by (le, guardrail_route) (rate(guardrail_x_bucket{guardrail_tenant=~"a", job!="b"}[5m]))')
    assert (metrics, labels) == ({"guardrail_x_bucket"}, {"le", "guardrail_route", "guardrail_tenant", "job"})


def test_every_metric_and_label_of_the_dashboard_and_the_alerts_exists(exposed):
    metrics, labels = exposed
    for expression in [*dashboard_expressions(), *(rule["expr"] for rule in alert_rules())]:
        wanted, by = asked(expression)
        assert wanted, expression
        assert wanted <= metrics, expression
        assert by <= labels | FROM_OUTSIDE, expression


def test_the_dashboards_variables_and_legends_name_labels_that_exist(exposed):
    text = (FOLDER / "grafana" / "guardrail.json").read_text(encoding="utf-8")
    document = json.loads(text)
    queried = [re.fullmatch(r"label_values\((\w+), (\w+)\)", each["query"]["query"]) for each in document["templating"]["list"][1:]]
    assert all(found and found[1] in exposed[0] and found[2] in exposed[1] for found in queried)
    assert set(re.findall(r"\{\{(\w+)\}\}", text)) <= exposed[1] | FROM_OUTSIDE
    places = [panel["gridPos"] for panel in document["panels"]]
    assert len({panel["id"] for panel in document["panels"]}) == len({(place["x"], place["y"]) for place in places}) == len(places)
    assert all(place["x"] + place["w"] <= 24 for place in places)


def test_there_is_an_alert_for_each_thing_that_must_wake_somebody(exposed):
    rules = {rule["alert"]: rule for rule in alert_rules()}
    assert {
        "GuardrailUnjudged",
        "GuardrailCanaryFailing",
        "GuardrailGenerationSkew",
        "GuardrailBlockRateJump",
        "GuardrailAuditRecordsMissing",
        "GuardrailBreakerOpen",
    } <= set(rules)
    for rule in rules.values():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert {"summary", "description"} == set(rule["annotations"])
        said = re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values()))
        assert set(said) <= exposed[1] | FROM_OUTSIDE


def test_the_collector_keeps_what_is_marked_and_its_pipelines_are_of_what_it_has():
    collector = read("collector.yaml")
    policies = {policy["name"]: policy for policy in collector["processors"]["tail_sampling"]["policies"]}
    assert policies["blocked-or-unjudged"]["boolean_attribute"] == {"key": names.KEEP, "value": True}
    for pipeline in collector["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(collector[kind])


def test_the_services_of_the_compose_file_find_one_another_and_their_files():
    services = read("compose.yaml")["services"]
    assert set(services) == {"guardrail", "collector", "prometheus", "grafana"}
    for service in services.values():
        mounted = [volume.split(":")[0] for volume in service.get("volumes", ()) if volume.startswith(".")]
        assert all((FOLDER / path).is_file() for path in mounted)
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert ":" in service.get("image", "built:here")
    collector = read("collector.yaml")
    received = collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"].rpartition(":")[2]
    assert services["guardrail"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://collector:{received}"
    offered = collector["exporters"]["prometheus"]["endpoint"].rpartition(":")[2]
    prometheus = read("prometheus.yaml")
    assert prometheus["scrape_configs"][0]["static_configs"] == [{"targets": [f"collector:{offered}"]}]
    assert any(f"/etc/prometheus/{rules}:" in volume for rules in prometheus["rule_files"] for volume in services["prometheus"]["volumes"])
    dashboards = read("grafana/dashboards.yaml")["providers"][0]["options"]["path"]
    assert any(f":{dashboards}/guardrail.json:" in volume for volume in services["grafana"]["volumes"])
    assert read("grafana/datasources.yaml")["datasources"][0]["url"] == "http://prometheus:9090"


def test_the_proxys_configuration_and_image_are_usable():
    dockerfile = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    settings = load(FOLDER / "guardrail.yaml")
    kept = str(Path(settings.audit.path).parent)
    found = [finding for finding in check(settings) if finding.severity == "error"]
    assert all(kept in finding.message for finding in found)  # the folder is in the image, not here
    assert kept in dockerfile
    root = FOLDER.parents[1]
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE) for word in line.split()]
    assert copied
    assert all((root / word).exists() for word in copied)
