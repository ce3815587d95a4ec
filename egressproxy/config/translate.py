"""What pydantic found wrong with the settings, in an operator's words.

Every fault says what was expected and what came. What was expected is read from the JSON Schema, so a bound is written
once, in `schema`. Settings that the design names and this version lacks are told apart from misspelled ones: both are
refused, since a setting without effect would be a promise that nothing keeps.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any

from egressproxy.config import slips
from egressproxy.config.faults import Fault, Misplaced, shown
from egressproxy.config.native import REFUSED, Places
from egressproxy.config.schema.config import Config
from egressproxy.config.schema.rules import Rule

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from egressproxy.config.faults import Way

# Keys and words that are fixed for later versions, by the list or mapping they belong to.
_LATER_KEYS: dict[Way, frozenset[str]] = {
    (): frozenset({"workers"}),
    ("rules",): frozenset({"users"}),
}
_LATER_WORDS: dict[Way, frozenset[str]] = {
    ("services", "ports", "protocol"): frozenset({"HTTP2", "GRPC"}),
}

_OF_HOSTS = frozenset({("allow",), ("rules", "hosts"), ("services", "hosts")})

_RULE_KEYS = frozenset(Rule.model_fields)

_Schema = dict[str, Any]


def faults_of(error: ValidationError, places: Places) -> list[Fault]:
    """The faults behind one failed validation of a whole configuration, without those already told in reading it."""
    faults: list[Fault] = []
    for detail in error.errors(include_url=False):
        # A list whose entries are wrong counts as too short as well.
        if detail["input"] is not REFUSED and not (detail["type"] == "too_short" and detail["input"]):
            faults += _faults(detail, places)
    return faults


def place_of(way: Way, places: Places) -> int:
    """The mark of a setting, or of the nearest thing around it that stands in a file."""
    node: Any = places
    found = places.mark
    for step in way:
        if not isinstance(node, Places):
            break
        if isinstance(step, str) and step in node.keys:
            found, node = node.keys[step], node.children.get(step)
        elif isinstance(step, int) and step < len(node.children):
            node = node.children[step]
            found = node.mark if isinstance(node, Places) else node
        else:
            break
    return found


def _faults(detail: ErrorDetails, places: Places) -> list[Fault]:
    way = detail["loc"]
    if way[-1:] == ("[key]",):  # pydantic's word for the key of a mapping, where that is what is wrong
        way = way[:-1]
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, Misplaced):
        return [
            Fault(place_of((*way, *below), places), (*way, *below), message + _hint((*way, *below), value))
            for below, message in cause.found
            if (value := _below(detail["input"], below)) is not REFUSED
        ]
    if detail["type"] == "extra_forbidden":
        message = _unknown_key(way)
    elif detail["type"] == "missing":
        message = f"is missing; expected {_expected(_schema_at(way))}{slips.LISTENERS if way == ('listeners',) else ''}"
    elif isinstance(cause, ValueError):
        message = f"{cause}{_hint(way, detail['input'])}"
    else:
        message = _unexpected(way, detail["input"])
    return [Fault(place_of(way, places), way, message)]


def _below(value: Any, way: Way) -> Any:
    """What stands there in the data, None if nothing does."""
    for step in way:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return None
    return value


def _unknown_key(way: Way) -> str:
    key = str(way[-1])
    if key in _LATER_KEYS.get(_pattern(way[:-1]), ()):
        return "this version does not have this setting yet, so it is refused rather than ignored"
    known = list(_schema_at(way[:-1]).get("properties", {}))
    if key.partition(":")[0] in known:
        return "no such setting; put a space behind the colon"
    if key in _RULE_KEYS and _pattern(way[:-1]) in ((), ("services",)):
        return "no such setting here; it belongs in a rule, below rules"
    close = get_close_matches(key[:60], known, n=1)
    if close:
        return f"no such setting; did you mean {close[0]}?"
    return f"no such setting; expected one of {', '.join(known)}"


def _unexpected(way: Way, value: object) -> str:
    schema = _schema_at(way)
    if isinstance(value, list) and len(value) > schema.get("maxItems", len(value)):
        return f"expected a list of at most {schema['maxItems']}, got {shown(value)}"
    message = f"expected {_expected(schema)}, got {shown(value)}"
    advice = _advice(way, schema, value)
    if advice:
        return message + advice
    if not isinstance(value, str):
        return message + _hint(way, value)
    words = [str(word) for word in schema.get("enum", [schema.get("const", "")]) if word]
    if value in _LATER_WORDS.get(_pattern(way), ()):
        return f"{message}; this version does not have it yet"
    close = get_close_matches(value[:60].lower(), words, n=1)
    if close:
        return f"{message}; did you mean {close[0]}?"
    if schema.get("type") in ("integer", "number", "boolean") and value:
        return f"{message}; write it without quotes" if _reads_as(value, schema["type"]) else message
    return message


def _advice(way: Way, schema: _Schema, value: object) -> str:
    """What was meant, where a value of another kind is a common slip."""
    kind = schema.get("type")
    if kind == "array":
        of_mappings = _resolved(schema.get("items", {})).get("type") == "object"
        return slips.single_for_mappings(str(way[-1]), value) if of_mappings else slips.single_for_list(value)
    if way == ("admin",) and value is not None:
        return slips.word_for_admin(value)
    if kind == "object" and isinstance(value, str):
        return slips.word_for_mapping(_pattern(way), value)
    if kind == "boolean" and value == "off":
        return "; write false"
    if kind == "number" and isinstance(value, str) and str(way[-1]).endswith("_s"):
        return slips.span_for_seconds(value)
    return ""


def _reads_as(text: str, kind: str) -> bool:
    """Whether quoted text would have been right without its quotes."""
    if kind == "boolean":
        return text in ("true", "false")
    return text.isascii() and (text.isdigit() if kind == "integer" else text.replace(".", "", 1).isdigit())


def _hint(way: Way, value: object) -> str:
    """What to do where text was wanted and YAML made something else of it, or it is text of another kind."""
    if _schema_at(way).get("type") != "string":
        return ""
    if isinstance(value, str) and _pattern(way) in _OF_HOSTS:
        return slips.url_for_host(value, with_port=_pattern(way) == ("allow",))
    words = _schema_at(way).get("enum")
    if words is not None and isinstance(value, (int, float)):
        meant = "off" if value is False else f"v{value}"
        return f"; did you mean {meant}?" if meant in words else ""
    if isinstance(value, (int, float)):
        if "examples" in _schema_at(way):  # text of a form that no number has: quoted it would be as wrong
            return ""
        return "; quote it to make it text"
    if isinstance(value, dict) and len(value) == 1:
        ((key, inner),) = value.items()
        if not isinstance(inner, (dict, list)):
            return f"; a colon with a space behind it makes a mapping: quote it as {shown(f'{key}:{_plain(inner)}')}"
    return ""


def _plain(value: object) -> str:
    return "" if value is None else str(value)


# --- what the schema expects --------------------------------------------------------------------------------------


@cache
def _whole_schema() -> _Schema:
    return Config.model_json_schema()


def _pattern(way: Way) -> Way:
    """The way without list positions: the same for every rule."""
    return tuple(step for step in way if isinstance(step, str))


def _schema_at(way: Way) -> _Schema:
    """The part of the JSON Schema for a setting; empty where it knows none."""
    schema = _resolved(_whole_schema())
    for step in way:
        if isinstance(step, int):
            below = schema.get("items")
        else:  # a key that is fixed, or any that the mapping takes
            below = schema.get("properties", {}).get(step) or next(
                iter(schema.get("patternProperties", {}).values()), None
            )
        schema = _resolved(below or {})
    return schema


def _resolved(schema: _Schema) -> _Schema:
    """The schema behind a reference, or behind `this or null`."""
    if "$ref" in schema:
        definition: _Schema = _whole_schema()["$defs"][schema["$ref"].rpartition("/")[2]]
        return _resolved(definition)
    branches = [branch for branch in schema.get("anyOf", ()) if branch.get("type") != "null"]
    return _resolved(branches[0]) if branches else schema


def _expected(schema: _Schema) -> str:
    """What a setting takes, in words."""
    if "const" in schema or "enum" in schema:
        return " or ".join(str(word) for word in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind in ("integer", "number"):
        low, high = schema.get("minimum"), schema.get("maximum")
        noun = "an integer" if kind == "integer" else "a number"
        if low is not None:
            return f"{noun} from {low} to {high}" if high is not None else f"{noun} of at least {low}"
        return f"{noun} above {schema.get('exclusiveMinimum')} and up to {high}"
    if kind == "array":
        return f"a list of at least {schema['minItems']}" if "minItems" in schema else "a list"
    words = {"boolean": "true or false", "object": "a mapping", "string": "text"}
    return words.get(str(kind), "another value")
