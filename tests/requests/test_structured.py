"""Structured answers: the schema that is sent, strict if possible, and reading answers back."""

from __future__ import annotations

import dataclasses
import datetime
import json
import socket
from typing import Any, Literal, Optional, TypedDict

import pytest
from pydantic import BaseModel, Field, RootModel

from parallel_openai._requests.schemas.structured_outputs import structure_of
from parallel_openai.errors import InvalidInputError
from parallel_openai.local.simulator.checks.strict_mode import strict_schema as refuse_what_is_not_strict


class Part(BaseModel):
    name: str
    count: int = 1


class Order(BaseModel):
    customer: str = Field(description="who ordered")
    due: datetime.date
    parts: list[Part]
    paid: bool | None
    note: str = ""
    first: Part = Field(default=Part(name="none"), description="the first of them")


@dataclasses.dataclass
class Parcel:
    arrived: bool
    days: Optional[int] = None  # noqa: UP045  # as people write it


class Review(TypedDict, total=False):
    stars: Literal[1, 2, 3]
    about: str


class Node(BaseModel):
    name: str
    below: list[Node] = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str]


class Owner(BaseModel):
    pet: Cat | Dog = Field(discriminator="kind")


SCHEMA = {
    "title": "A trip",
    "type": "object",
    "properties": {
        "to": {"type": "string", "minLength": 2},
        "by": {"enum": ["train", "ship"]},
        "days": {"type": "number"},
    },
    "required": ["to"],
}
SHAPES: list[Any] = [Order, Parcel, Review, Node, Owner, SCHEMA]


def told(shape: Any) -> dict[str, Any]:
    structure = structure_of(shape)
    assert structure is not None
    return dict(structure.response_format["json_schema"])


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: getattr(shape, "__name__", "a schema"))
def test_generated_schemas_are_accepted_by_strict_mode(shape: Any) -> None:
    made = told(shape)
    assert made["strict"] is True
    refuse_what_is_not_strict(made["name"], made["schema"])
    assert "default" not in json.dumps(made)
    assert "oneOf" not in json.dumps(made)


def test_the_schema_has_descriptions_and_a_valid_name() -> None:
    assert told(Order)["schema"]["properties"]["customer"]["description"] == "who ordered"
    assert told(SCHEMA)["name"] == "A_trip"


def test_optional_fields_are_sent_as_nullable() -> None:
    properties = told(Order)["schema"]["properties"]
    assert properties["note"] == {"anyOf": [{"title": "Note", "type": "string"}, {"type": "null"}]}
    assert properties["paid"]["anyOf"] == [{"type": "boolean"}, {"type": "null"}]  # it was so already


@pytest.mark.parametrize(
    ("shape", "answer", "values"),
    [
        (
            Order,
            {
                "customer": "Ann",
                "due": "2026-03-01",
                "parts": [{"name": "lamp", "count": None}],
                "paid": None,
                "note": None,
                "first": None,
            },
            {
                "customer": "Ann",
                "due": datetime.date(2026, 3, 1),
                "parts": [{"name": "lamp", "count": 1}],
                "paid": None,
                "note": "",
                "first": {"name": "none", "count": 1},
            },
        ),
        (Parcel, {"arrived": True, "days": None}, {"arrived": True, "days": None}),
        (Review, {"stars": 2, "about": None}, {"stars": 2}),
        (
            Node,
            {"name": "a", "below": [{"name": "b", "below": None}]},
            {"name": "a", "below": [{"name": "b", "below": []}]},
        ),
        (Owner, {"pet": {"kind": "dog", "tricks": ["sit"]}}, {"pet": {"kind": "dog", "tricks": ["sit"]}}),
        (SCHEMA, {"to": "Rome", "by": None, "days": 2}, {"to": "Rome", "days": 2}),
    ],
    ids=["pydantic", "dataclass", "TypedDict", "refers to itself", "union", "schema"],
)
def test_nulls_of_optional_fields_are_removed_from_answers(shape: Any, answer: Any, values: Any) -> None:
    structure = structure_of(shape)
    assert structure is not None
    assert structure.read(json.dumps(answer)) == values


@pytest.mark.parametrize(
    ("shape", "answer", "words"),
    [
        (Order, "{", "is not JSON"),
        (Order, "[]", "is no JSON object"),
        (Parcel, '{"arrived": "perhaps"}', "arrived: Input should be a valid boolean"),
        (SCHEMA, '{"to": "R"}', "to: 'R' is too short"),
        (SCHEMA, "{}", "'to' is a required property"),
    ],
)
def test_an_answer_that_does_not_fit_the_schema_says_what_is_wrong(shape: Any, answer: str, words: str) -> None:
    structure = structure_of(shape)
    assert structure is not None
    with pytest.raises(ValueError, match=words):
        structure.read(answer)


def test_arbitrary_field_names_are_sent_without_strict_mode() -> None:
    class Shelf(BaseModel):
        stock: dict[str, int]

    assert told(Shelf)["strict"] is False
    structure = structure_of(Shelf)
    assert structure is not None
    assert structure.read('{"stock": {"lamps": 3}}') == {"stock": {"lamps": 3}}


@pytest.mark.parametrize(
    "shape", [{"type": "json_object"}, {"type": "text"}, {"type": "json_schema", "json_schema": {}}]
)
def test_the_apis_own_response_formats_are_sent_unchanged(shape: Any) -> None:
    assert structure_of(shape) is None


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (RootModel[list[int]], "describes array"),
        ({"type": "array"}, "describes array"),
        ({"type": "object", "properties": {}}, "must describe an object with fields"),
        ({"type": "object", "properties": {"a": {"type": "nonsense"}}}, "no valid JSON schema"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/gone"}}}, "'#/\\$defs/gone', which is not in it"),
        (int, "must be a pydantic model"),
        ("json", "must be a pydantic model"),
        (list[int], "must be a pydantic model"),
    ],
)
def test_an_invalid_response_format_is_refused_with_the_valid_ones(shape: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        structure_of(shape)


@pytest.mark.parametrize(
    "part", [{"not": {"$ref": "URL"}}, {"type": "array", "items": {"$dynamicRef": "URL"}}], ids=str
)
def test_no_reference_of_a_schema_is_fetched(part: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"
        schema = json.loads(json.dumps({"type": "object", "properties": {"a": part}}).replace("URL", url))
        with pytest.raises(InvalidInputError, match="nothing is fetched"):
            structure_of(schema)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_schema_may_refer_to_its_parts_by_id() -> None:
    parcel = {"$id": "https://example.com/parcel", "type": "integer"}
    schema = {"type": "object", "properties": {"a": {"not": {"$ref": parcel["$id"]}}}, "$defs": {"parcel": parcel}}
    structure = structure_of(schema)
    assert structure is not None
    assert structure.read('{"a": "x"}') == {"a": "x"}
    with pytest.raises(ValueError, match="another shape"):
        structure.read('{"a": 1}')
