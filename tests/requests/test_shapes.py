"""Response formats from classes of every kind: the schema is what the class accepts, with its field names."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import random
import typing
from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypeVar

import pytest
import typing_extensions as types
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, HttpUrl, RootModel, SecretStr
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass as pydantic_dataclass

from parallel_openai._requests.schemas.label_models import label_fields
from parallel_openai._requests.schemas.label_schema import check_labels
from parallel_openai._requests.schemas.structured_outputs import Structure, structure_of
from parallel_openai.errors import InvalidInputError
from parallel_openai.local.simulator.checks.strict_mode import strict_schema as refuse_what_is_not_strict
from parallel_openai.local.simulator.endpoints.schemas import SchemaFiller

T = TypeVar("T")


class Part(BaseModel):
    part_name: str = Field(alias="partName")
    count: int = Field(1, validation_alias="N")


class Order(BaseModel):
    """Every way to call a field otherwise."""

    model_config = ConfigDict(populate_by_name=True)
    customer: str = Field(alias="Customer Name")
    days: int = Field(validation_alias=AliasChoices("inDays", "d"))
    place: str = Field(validation_alias=AliasChoices(AliasPath("where", 0), "at"))
    first: str = Field(validation_alias=AliasPath("names", 0))
    last: str = Field("?", validation_alias=AliasPath("names", 1))
    note: str = Field(serialization_alias="NOTE", exclude=True)
    parts: list[Part]
    spare: Part | None = None


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, serialize_by_alias=True, extra="forbid")
    first_part: Part
    all_parts: Part | list[Part]


@pydantic_dataclass
class Bag:
    how_many: int = Field(alias="howMany")


class Base(types.TypedDict):
    tone: Literal["loud", "quiet"]


class Row(Base, total=False):
    sure: types.Required[bool]
    score: types.NotRequired[types.ReadOnly[Annotated[int, Field(ge=1, le=3)]]]
    about: types.ReadOnly[str]


class Closed(types.TypedDict, closed=True):  # type: ignore[call-arg,unused-ignore]
    tone: Literal["loud", "quiet"]


class Older(typing.TypedDict):
    tone: Literal["loud", "quiet"]
    about: types.NotRequired[str]


class Mood(enum.Enum):
    GLAD = "glad"
    LOW = 3


class Page(BaseModel, Generic[T]):
    value: T


@dataclasses.dataclass
class Box(Generic[T]):
    value: T
    below: Annotated[Optional[Box[T]], Field(description="the next one")] = None  # noqa: UP045  # as people write it


class Chain(types.TypedDict):
    name: str
    below: types.NotRequired[Annotated[Chain, Field(description="the next one")]]


class Pair(NamedTuple):
    left: int
    right: str


class Kinds(BaseModel):
    url: HttpUrl
    secret: SecretStr
    folder: pathlib.Path
    data: bytes
    tags: set[str]
    point: tuple[float, float]
    price: decimal.Decimal
    took: datetime.timedelta
    mood: Mood
    literal: Literal[1, "a", None]
    either: int | str | list[int]
    share: float = Field(gt=0, lt=1)


class Loose(BaseModel):
    pair: Pair
    anything: Any


STRICT = [Order, Camel, Bag, Row, Closed, Older, Page[int], Page[Mood], Box[int], Chain, Annotated[Camel, "so"], Kinds]


def structure(shape: Any) -> Structure:
    found = structure_of(shape)
    assert found is not None
    return found


def schema_of(shape: Any) -> dict[str, Any]:
    return dict(structure(shape).response_format["json_schema"]["schema"])


def filled(shape: Any, seed: int) -> str:
    return json.dumps(SchemaFiller(schema_of(shape), "It is fine.", random.Random(seed)).fill())


@pytest.mark.parametrize("shape", STRICT, ids=str)
def test_pydantic_models_dataclasses_and_typed_dicts_are_accepted_by_strict_mode(shape: Any) -> None:
    told = structure(shape).response_format["json_schema"]
    assert told["strict"] is True
    refuse_what_is_not_strict(told["name"], told["schema"])


@pytest.mark.parametrize("shape", [each for each in STRICT if each is not Kinds] + [RootModel[Bag]], ids=str)
def test_the_schema_is_that_of_the_classs_input(shape: Any) -> None:
    for seed in range(5):
        values = structure(shape).read(filled(shape, seed))
        assert list(values) == list(structure(shape).fields)
        assert None not in [value for name, value in values.items() if name not in ("below", "spare")]


def test_columns_have_the_field_names_and_not_the_aliases() -> None:
    assert list(schema_of(Order)["properties"]) == [
        *("Customer Name", "inDays", "at", "first", "last", "note", "parts", "spare")
    ]
    part = {"partName": "lamp", "N": 2}
    told = {"Customer Name": "Ann", "inDays": 3, "at": "Rome", "first": "A", "last": None, "note": "n"}
    assert structure(Order).read(json.dumps({**told, "parts": [part], "spare": part})) == {
        "customer": "Ann",
        "days": 3,
        "place": "Rome",
        "first": "A",
        "last": "?",
        "note": "n",
        "parts": [{"part_name": "lamp", "count": 2}],
        "spare": {"part_name": "lamp", "count": 2},
    }


def test_an_answer_may_use_field_names_instead_of_aliases() -> None:
    assert structure(Bag).read('{"how_many": 3}') == structure(Bag).read('{"howMany": 3}') == {"how_many": 3}


def test_optional_typed_dict_fields_may_be_missing() -> None:
    values = structure(Row).read('{"tone": "loud", "sure": true, "score": null, "about": null}')
    assert values == {"tone": "loud", "sure": True}
    with pytest.raises(ValueError, match="score: Input should be less than or equal to 3"):
        structure(Row).read('{"tone": "loud", "sure": true, "score": 9, "about": null}')


def test_a_class_without_a_strict_schema_is_sent_without_strict_mode_and_checked_locally(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = structure(Loose).response_format["json_schema"]
    assert told["strict"] is False
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "response_format is asked for without strict mode, which has no words for a value of any kind. "
        "Answers are checked here."
    ]
    assert structure(Loose).read('{"pair": [1, "a"], "anything": {}}') == {"pair": Pair(1, "a"), "anything": {}}
    with pytest.raises(ValueError, match="pair"):
        structure(Loose).read('{"pair": ["a", 1], "anything": {}}')


def test_numbers_are_read_without_rounding() -> None:
    @dataclasses.dataclass
    class Sum:
        price: decimal.Decimal
        number: int
        note: str = ""

    for note in ("", ', "note": null'):
        values = structure(Sum).read(
            f'{{"price": 1234567890.12345678901234567890, "number": 89490200001234567891{note}}}'
        )
        assert str(values["price"]) == "1234567890.12345678901234567890"
        assert values["number"] == 89490200001234567891


@pytest.mark.parametrize("shape", [Bag | None, Bag | Camel, Literal["a"], Mood, list[Bag], Pair])
def test_a_class_without_fields_is_refused_with_a_clear_error(shape: Any) -> None:
    with pytest.raises(InvalidInputError, match="must be a pydantic model, a dataclass, a TypedDict"):
        structure_of(shape)


def test_a_class_that_pydantic_cannot_check_is_refused_with_a_clear_error() -> None:
    @dataclasses.dataclass
    class Odd:
        file: typing.IO[bytes]
        pattern: Annotated[str, Field(pattern="^(?!x)")]

    with pytest.raises(InvalidInputError, match="response_format=Odd cannot be checked by pydantic: "):
        structure_of(Odd)


def test_a_class_without_a_json_schema_is_refused_with_a_clear_error() -> None:
    class Calling(BaseModel):
        call: Callable[[], int]

    with pytest.raises(InvalidInputError, match="response_format=Calling has no JSON schema: "):
        structure_of(Calling)


@pytest.mark.parametrize("model", [Row, Closed, Older], ids=str)
def test_a_typed_dict_of_typing_or_typing_extensions_can_be_labels(model: type) -> None:
    assert label_fields(model)[0].texts == ["loud", "quiet"]
    kinds = {"tone": "one", "sure": "one", "score": "score", "about": "text"}
    assert all(kinds[each.name] == each.kind for each in label_fields(model))


def test_a_literal_can_be_labels_and_other_annotations_are_refused() -> None:
    assert list(check_labels(Literal["loud", "quiet"])[0].values()) == ["loud", "quiet"]
    for annotation in (Row | None, Annotated[Row, "so"], Box[Literal["a", "b"]], list[Row], T):
        with pytest.raises(InvalidInputError, match="labels must be a list such as"):
            check_labels(annotation)


def test_a_label_field_with_an_alias_is_refused_with_a_clear_error() -> None:
    class Named(BaseModel):
        tone: Literal["loud", "quiet"] = Field(validation_alias="T")

    with pytest.raises(InvalidInputError, match=r"Named\.tone has the alias 'T'; leave it out"):
        label_fields(Named)
