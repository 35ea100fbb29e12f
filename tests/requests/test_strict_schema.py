"""JSON schemas in strict mode: what it does not support is left out and checked here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from parallel_openai._requests.schemas.structured_outputs import Structure, structure_of
from parallel_openai.local.simulator.checks.strict_mode import strict_schema as refuse_what_is_not_strict
from parallel_openai.local.simulator.refusals import Refusal

TEXT, WHOLE = {"type": "string"}, {"type": "integer"}


def structure(field: Any, **beside: Any) -> Structure:
    found = structure_of({"type": "object", "properties": {"a": field}, "required": ["a"], **beside})
    assert found is not None
    return found


#: A field's schema with what strict mode does not know, a good answer and a bad one; None where nothing is bad.
CASES: dict[str, tuple[Any, Any, Any]] = {
    "format": ({**TEXT, "format": "regex"}, "a+", "("),
    "minLength": ({**TEXT, "minLength": 2}, "ab", "a"),
    "lookahead": ({**TEXT, "pattern": "^(?!no).*$"}, "yes", "no"),
    "reference back": ({**TEXT, "pattern": r"^(.)\1$"}, "aa", "ab"),
    "uniqueItems": ({"type": "array", "items": TEXT, "uniqueItems": True}, ["a"], ["a", "a"]),
    "contains": ({"type": "array", "items": WHOLE, "contains": {"const": 3}}, [3], [4]),
    "not": ({**TEXT, "not": {"const": "x"}}, "a", "x"),
    "if": ({**WHOLE, "if": {"minimum": 5}, "then": {"multipleOf": 5}}, 10, 7),
    "nullable": ({**TEXT, "nullable": True}, "a", 3),
    "comments": ({**TEXT, "$comment": "c", "x-order": 1, "deprecated": True, "default": "b"}, "a", 3),
    "allOf that agrees": ({"allOf": [TEXT, {"pattern": "^a"}, {"minLength": 2}]}, "ab", "b"),
    "union beside a type": ({**TEXT, "anyOf": [{"pattern": "^a"}, {"maxLength": 1}]}, "ab", "bb"),
    "oneOf": ({"oneOf": [WHOLE, {"type": "number"}]}, 1.5, 1),
    "choice without a type": ({"enum": ["a", 1, None]}, None, 2),
    "const without a type": ({"const": 3}, 3, 4),
    "tuple of one kind": ({"type": "array", "prefixItems": [TEXT, TEXT], "minItems": 2}, ["a", "b"], ["a"]),
    "object without a type": ({"properties": {"b": TEXT}, "required": ["b"]}, {"b": "x"}, {"b": 3}),
    "two objects in one": (
        {"allOf": [{"properties": {"b": TEXT}, "required": []}, {"properties": {"c": WHOLE}, "required": ["c"]}]},
        {"c": 3},
        {"b": "x"},
    ),
    "minProperties": ({"type": "object", "properties": {"b": TEXT, "c": TEXT}, "minProperties": 1}, {"b": "x"}, {}),
}
LOOSE: dict[str, tuple[Any, Any, Any]] = {
    "any name": ({"type": "object", "additionalProperties": WHOLE}, {"x": 1}, {"x": "y"}),
    "any name beside others": ({"type": "object", "properties": {"b": TEXT}, "additionalProperties": {}}, {"z": 1}, 3),
    "tuple of two kinds": ({"type": "array", "prefixItems": [TEXT, WHOLE]}, ["a", 1], [1, "a"]),
    "list of anything": ({"type": "array"}, [1, "a"], 3),
    "anything": (True, {"b": [1]}, None),
    "allOf that disagrees": ({"type": "string", "allOf": [{"pattern": "^a"}, {"pattern": "b$"}]}, "ab", "a"),
    "two objects that disagree": (
        {"type": "object", "allOf": [{"properties": {"b": TEXT}}, {"properties": {"b": {"minLength": 2}}}]},
        {"b": "xy"},
        {"b": "x"},
    ),
    "holds itself by its place": (
        {"type": "object", "properties": {"b": {"$ref": "#/properties/a"}}},
        {"b": {"b": {}}},
        {"b": 3},
    ),
    "field only in a condition": (
        {"type": "object", "properties": {"b": TEXT}, "if": {"required": ["b"]}, "then": {"required": ["c"]}},
        {"b": "x", "c": 1},
        {"b": "x"},
    ),
    "made of itself": ({"allOf": [{"$ref": "#/properties/a"}]}, None, None),
    "choice of lists": ({"enum": [[1], [2]]}, [1], [3]),
    "too many choices": ({**TEXT, "enum": [str(number) for number in range(1001)]}, "7", "x"),
    "too many characters": ({**TEXT, "enum": [f"{number:0>100}" for number in range(251)]}, "0" * 100, "x"),
    "too deep": (json.loads('{"type":"object","properties":{"b":' * 11 + '{"type":"null"}' + "}}" * 11), {}, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_unsupported_keywords_are_removed_and_checked_locally(case: str) -> None:
    field, good, bad = CASES[case]
    found = structure(field)
    told = found.response_format["json_schema"]
    assert told["strict"] is True
    refuse_what_is_not_strict(told["name"], told["schema"])
    assert found.read(json.dumps({"a": good})) == {"a": good}
    with pytest.raises(ValueError, match="another shape"):
        found.read(json.dumps({"a": bad}))


@pytest.mark.parametrize("case", LOOSE)
def test_a_schema_that_strict_mode_cannot_express_is_sent_without_it(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    field, good, bad = LOOSE[case]
    found = structure(field)
    told = found.response_format["json_schema"]
    assert told["strict"] is False
    assert ["without strict mode" in record.message for record in caplog.records] == [True]
    if case == "made of itself":
        return
    assert found.read(json.dumps({"a": good})) == {"a": good}
    if bad is not None:
        with pytest.raises(ValueError, match="another shape"):
            found.read(json.dumps({"a": bad}))


def test_constraints_that_strict_mode_lacks_are_described_to_the_model_in_words() -> None:
    told = structure({**TEXT, "description": "where", "format": "uri", "minLength": 3}).response_format["json_schema"]
    assert told["schema"]["properties"]["a"] == {**TEXT, "description": 'where (format: "uri", minLength: 3)'}


def test_conditions_at_the_root_are_checked_locally() -> None:
    found = structure_of(
        {"type": "object", "properties": {"a": TEXT, "b": TEXT}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
    )
    assert found is not None
    refuse_what_is_not_strict("s", found.response_format["json_schema"]["schema"])
    assert found.read('{"a": null, "b": "x"}') == {"b": "x"}
    with pytest.raises(ValueError, match="not valid under any of the given schemas"):
        found.read('{"a": null, "b": null}')


@pytest.mark.parametrize("beside", [{}, {"description": "the next one"}])
def test_a_schema_may_be_recursive(beside: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"a": WHOLE, "below": {"$ref": "#", **beside}}, "required": ["a"]}
    found = structure_of(schema)
    assert found is not None
    refuse_what_is_not_strict("s", found.response_format["json_schema"]["schema"])
    assert found.read('{"a": 1, "below": {"a": 2, "below": null}}') == {"a": 1, "below": {"a": 2}}


def test_definitions_of_older_drafts_become_defs() -> None:
    found = structure({"$ref": "#/definitions/Part"}, definitions={"Part": {"properties": {"b": WHOLE}}})
    refuse_what_is_not_strict("s", found.response_format["json_schema"]["schema"])
    assert found.read('{"a": {"b": null}}') == {"a": {}}


@pytest.mark.parametrize(("used", "is_strict"), [("One", True), ("Any", False)])
def test_only_a_definition_that_is_used_keeps_a_schema_from_being_strict(used: str, is_strict: bool) -> None:
    definitions = {"One": WHOLE, "Any": {"type": "array"}}
    found = structure({"anyOf": [{"$ref": f"#/$defs/{used}"}, TEXT]}, **{"$defs": definitions})
    assert found.response_format["json_schema"]["strict"] is is_strict


def test_tuples_in_the_form_of_older_drafts_are_read() -> None:
    found = structure({"type": "array", "items": [TEXT, TEXT]}, **{"$schema": "http://json-schema.org/draft-07/schema"})
    assert found.response_format["json_schema"]["strict"] is True
    assert found.read('{"a": ["x", "y"]}') == {"a": ["x", "y"]}


REFUSED: dict[str, Any] = {
    "to be false": {"type": "object", "properties": {}},
    "Missing 'b'": {"type": "object", "properties": {"b": TEXT}, "additionalProperties": False},
    "not permitted": {**TEXT, "minLength": 1},
    "not a valid format": {**TEXT, "format": "uri"},
    "look-around": {**TEXT, "pattern": "(?=a)"},
    "missing items": {"type": "array"},
    "must have a 'type' key": {"enum": ["a"]},
    "cannot have keywords": {"$ref": "#", "description": "so"},
    "extra key": {"type": "object", "properties": {}, "required": ["b"], "additionalProperties": False},
    "more than 10 levels": None,
    "enum values": {**TEXT, "enum": [str(number) for number in range(1001)]},
    "characters, more": {**TEXT, "enum": [f"{number:0>100}" for number in range(251)]},
}


@pytest.mark.parametrize("words", REFUSED)
def test_the_simulator_refuses_the_schemas_that_openais_guide_excludes(words: str) -> None:
    field = REFUSED[words]
    for _ in range(11 if field is None else 0):
        field = {"type": "object", "properties": {"a": field or TEXT}, "required": ["a"], "additionalProperties": False}
    schema = {"type": "object", "properties": {"a": field}, "required": ["a"], "additionalProperties": False}
    with pytest.raises(Refusal, match=words):
        refuse_what_is_not_strict("s", schema)


@pytest.mark.parametrize("beside", [{"type": "array"}, {"anyOf": []}, {"enum": [{}]}])
def test_the_simulator_requires_a_plain_object_at_the_root(beside: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match=r"must have type 'object'|must be a JSON Schema of"):
        refuse_what_is_not_strict("s", {"type": "object", "properties": {}, **beside})
