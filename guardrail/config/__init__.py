"""Configuration: a YAML file in, an immutable `Config` out, or findings that say which line is wrong and what to do."""

from guardrail.config.backends import (
    ClassifierConfig,
    CustomClassifier,
    EmbeddedClassifier,
    EmbeddedUpstream,
    LiteLLMUpstream,
    OpenAIUpstream,
    UpstreamConfig,
)
from guardrail.config.catalog import PolicySource
from guardrail.config.check import check, require
from guardrail.config.codes import Code
from guardrail.config.cope import CopeClassifier
from guardrail.config.environment import Environment, process_environment
from guardrail.config.load import load, loads
from guardrail.config.models import (
    CHAT_COMPLETIONS,
    DEFAULT_TENANT,
    GUARDED_PATHS,
    Config,
    RouteConfig,
    ServerConfig,
    TelemetryConfig,
    TenantConfig,
)
from guardrail.config.schema import json_schema
from guardrail.config.show import show
from guardrail.config.tenants import Tenants, hash_key

__all__ = [
    "CHAT_COMPLETIONS",
    "DEFAULT_TENANT",
    "GUARDED_PATHS",
    "ClassifierConfig",
    "Code",
    "Config",
    "CopeClassifier",
    "CustomClassifier",
    "EmbeddedClassifier",
    "EmbeddedUpstream",
    "Environment",
    "LiteLLMUpstream",
    "OpenAIUpstream",
    "PolicySource",
    "RouteConfig",
    "ServerConfig",
    "TelemetryConfig",
    "TenantConfig",
    "Tenants",
    "UpstreamConfig",
    "check",
    "hash_key",
    "json_schema",
    "load",
    "loads",
    "process_environment",
    "require",
    "show",
]
