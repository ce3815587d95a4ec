"""What all settings have in common: frozen, and strict about what is not known."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationInfo, field_validator
from pydantic_core import CoreSchema, PydanticCustomError

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue


class Settings(BaseModel):
    """Frozen, and strict about unknown keys. Field docstrings become the descriptions in the JSON Schema.

    A key with nothing behind it is refused: `hosts:` in a half-written rule must not come to mean any host. Only
    what is in `nullable` takes `null`.
    """

    nullable: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=False, hide_input_in_errors=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_written(cls, value: object, info: ValidationInfo) -> object:
        if value is None and info.field_name not in cls.nullable:
            raise PydanticCustomError("nothing", "expected a value, got nothing")
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """As pydantic makes it, less the null that a field takes only by being left out."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        for key, field in schema.get("properties", {}).items():
            field.pop("title", None)
            if key not in cls.nullable and field.get("default", "") is None:
                del field["default"]
                (branch,) = (branch for branch in field.pop("anyOf") if branch != {"type": "null"})
                field.update({**branch, **field})
        return schema
