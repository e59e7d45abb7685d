"""Every error of Pydantic becomes a field error with a code, a message and a pointer."""

from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, get_args
from uuid import UUID

import pytest
from pydantic import (
    AfterValidator,
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticCustomError, PydanticKnownError
from pydantic_core.core_schema import ErrorType

from todo_api.http.validation_errors import field_errors
from todo_domain.errors import InvalidValue

SHORT: Final = Annotated[str, Field(max_length=3)]


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(gt=0)] = 9


class Dog(BaseModel):
    kind: Literal["dog"]


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = ""


def not_odd(number: int) -> int:
    if number % 2:
        raise ValueError("must be even")
    return number


def not_a_bear(_text: str) -> str:
    raise PydanticCustomError("too_long", "a bear is too long")


def forbidden(_text: str) -> str:
    raise InvalidValue("forbidden", "must be something else")


def found(declared: Any, sent: object) -> list[tuple[str, str, str]]:  # noqa: ANN401 - any type
    """Pointer, code and message of each error in what a client sent as a body."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(declared).validate_python(sent)
    errors = field_errors(caught.value.errors(), sent, root="body")
    return [(error["pointer"], error["code"], error["message"]) for error in errors]


@pytest.mark.parametrize(
    ("declared", "sent", "code", "message"),
    [
        (SHORT, "long", "too_long", "must have at most 3 characters"),
        (Annotated[str, Field(min_length=1)], "", "too_short", "must have at least 1 characters"),
        (Annotated[str, Field(pattern="^a$")], "b", "bad_format", "must match the pattern ^a$"),
        (
            Annotated[list[int], Field(max_length=1)],
            [1, 2],
            "too_many",
            "must have at most 1 items",
        ),
        (Annotated[int, Field(gt=1)], 1, "out_of_range", "must be more than 1"),
        (Annotated[int, Field(lt=1)], 1, "out_of_range", "must be less than 1"),
        (Annotated[int, Field(multiple_of=2)], 1, "out_of_range", "must be a multiple of 2"),
        (
            Annotated[Decimal, Field(max_digits=2)],
            "1.23",
            "out_of_range",
            "must have at most 2 digits",
        ),
        (str, 1, "wrong_type", "must be a string"),
        (int, "x", "wrong_type", "must be a whole number"),
        (int, 1.5, "wrong_type", "must be a whole number"),
        (float, "x", "wrong_type", "must be a number"),
        (Decimal, "x", "wrong_type", "must be a number"),
        (bool, "x", "wrong_type", "must be true or false"),
        (Colour, "green", "unknown_value", "must be 'red' or 'blue'"),
        (date, "soon", "bad_date", "must be a date like 2026-01-31"),
        (datetime, "soon", "bad_date", "must be a date and time like 2026-01-31T09:30:00Z"),
        (UUID, "1", "bad_format", "must be a UUID"),
        (AnyUrl, "x", "bad_format", "must be a URL"),
        (Cat, [], "wrong_type", "must be a JSON object"),
        (None, 1, "wrong_type", "must be null"),
        (set[int], {}, "wrong_type", "must be an array"),
        (SHORT, "\ud800", "bad_character", "must not contain a lone surrogate"),
        (Annotated[int, AfterValidator(not_odd)], 1, "invalid", "must be even"),
        (Annotated[str, AfterValidator(not_a_bear)], "x", "too_many", "a bear is too long"),
        (Annotated[str, AfterValidator(forbidden)], "x", "forbidden", "must be something else"),
        (bytes, 1, "invalid", "must be a valid bytes"),
    ],
)
def test_an_invalid_value_has_this_code_and_message(
    declared: Any,  # noqa: ANN401 - any type
    sent: object,
    code: str,
    message: str,
) -> None:
    assert found(declared, sent) == [("", code, message)]


@pytest.mark.parametrize("error_type", get_args(ErrorType))
def test_every_error_type_of_pydantic_has_a_code_and_a_message(error_type: Any) -> None:  # noqa: ANN401 - a literal
    known = PydanticKnownError(error_type, CONTEXT)
    error = {"type": error_type, "loc": (), "msg": known.message(), "ctx": CONTEXT}
    (field_error,) = field_errors([error], {}, root="body")
    assert field_error["code"]
    assert field_error["message"]


# Every value that Pydantic's messages can have.
CONTEXT: Final[dict[str, Any]] = {
    **dict.fromkeys(("gt", "ge", "lt", "le", "multiple_of", "expected_version"), 4),
    **dict.fromkeys(("min_length", "max_length", "actual_length", "max_digits"), 4),
    **dict.fromkeys(("decimal_places", "whole_digits", "tz_expected", "tz_actual"), 4),
    **dict.fromkeys(("field_type", "pattern", "expected", "error", "class", "class_name"), "x"),
    **dict.fromkeys(("discriminator", "tag", "expected_tags", "attribute", "method_name"), "x"),
    **dict.fromkeys(("expected_schemes", "encoding", "encoding_error"), "x"),
}


class TestPointer:
    def test_a_missing_member_is_named(self) -> None:
        assert found(dict[str, Cat], {"pet": {}}) == [("/pet/kind", "required", "is required")]

    def test_a_union_member_is_not_part_of_the_pointer(self) -> None:
        pointers = [pointer for pointer, _, _ in found(dict[str, int | list[int]], {"a": ["x"]})]
        assert pointers == ["/a", "/a/0"]

    def test_a_discriminated_union_names_the_invalid_member(self) -> None:
        pet = Annotated[Cat | Dog, Field(discriminator="kind")]
        assert found(dict[str, pet], {"a": {"kind": "cat", "lives": 0}}) == [
            ("/a/lives", "out_of_range", "must be more than 0")
        ]
        assert found(dict[str, pet], {"a": {"kind": "cow"}}) == [
            ("/a", "unknown_value", "'kind' must be one of 'cat', 'dog'")
        ]

    @pytest.mark.parametrize(("name", "pointer"), [("a/b", "/a~1b"), ("a~b", "/a~0b"), ("", "/")])
    def test_a_name_is_escaped(self, name: str, pointer: str) -> None:
        # RFC 6901, section 3
        assert found(Closed, {name: 1}) == [(pointer, "unknown", "is unknown")]
