"""The JSON Schema of the configuration file, for editors and pipelines."""

from typing import Any

from guardrail.config.models import Config


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the file. It knows shapes and bounds; names and reach are `check`'s."""
    schema = Config.model_json_schema()
    for section in schema["properties"].values():
        if "patternProperties" in section:
            section["additionalProperties"] = False  # else a name of another shape would go unchecked
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "guardrail configuration"}
