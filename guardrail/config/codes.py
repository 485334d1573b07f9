"""The stable codes of configuration findings. A code is never given another meaning; a retired one is never used again."""

from enum import StrEnum


class Code(StrEnum):
    """What is wrong. C00x: the document; C01x: one value; C02x: a reference; C03x: several entries together; C04x: surroundings."""

    UNREADABLE = "C001"  # no such file, not UTF-8, too large
    NOT_YAML = "C002"  # not YAML, or YAML that configuration does not use (tags, merge keys, several documents)
    DUPLICATE_KEY = "C003"
    UNKNOWN_KEY = "C004"
    MISSING_KEY = "C005"
    BAD_VALUE = "C006"  # wrong type, or not one of the allowed values
    OUT_OF_RANGE = "C007"
    BAD_NAME = "C008"
    PLAINTEXT_KEY = "C010"
    BAD_KEY_HASH = "C011"
    BAD_URL = "C012"
    NOT_ENFORCEABLE = "C013"
    HISTORY_UNJUDGED = "C014"
    UNKNOWN_UPSTREAM = "C020"
    UNKNOWN_CLASSIFIER = "C021"
    UNKNOWN_TENANT = "C022"
    UNKNOWN_POLICY = "C023"
    POLICY_STAGE = "C024"  # the policy does not apply to this stage
    UNGUARDED_PATH = "C025"
    BAD_CANDIDATE = "C026"  # a version on trial that is not there, or is none of that policy
    DUPLICATE_ROUTE = "C030"
    UNREACHABLE_ROUTE = "C031"
    TENANT_WITHOUT_ROUTE = "C032"
    SHARED_KEY = "C033"
    REPEATED_POLICY = "C034"
    NO_CHECKS = "C035"
    TENANT_WITHOUT_KEY = "C036"
    FAILS_OPEN = "C037"
    UNREAD_DISGUISES = "C038"
    UNENCRYPTED = "C039"  # kept texts
    MISSING_PACKAGE = "C040"
    MISSING_VARIABLE = "C041"
    MISSING_FOLDER = "C042"
    UNWRITABLE = "C043"
    NO_STORE = "C044"  # the console has nothing to show
    KEYLESS = "C045"  # told to whoever asks from this machine, a reverse proxy on it included
    POLICY_GONE = "C046"  # one of several that `policies: all` took
    EMPTY_FOLDER = "C047"
