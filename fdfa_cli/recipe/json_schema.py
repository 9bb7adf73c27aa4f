"""The JSON Schema of recipes, for editors that complete and check YAML.

It says what the loader accepts as far as JSON Schema can: the bare name of a choice, a choice without a
name where there is a default, no unknown keys. It cannot say what depends on several sections at once.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from fdfa_cli.recipe.schema import Recipe
from fdfa_cli.registry import Named
from fdfa_cli.rules.base import Rule


class _Generator(GenerateJsonSchema):
    """pydantic's generator, with the shorthands that the loader understands."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """A title made of the key says nothing that the key does not."""
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """A mapping of the model's options, or the one that stands for all."""
        json_schema = super().model_schema(schema)
        key = schema["cls"].shorthand
        return {"anyOf": [json_schema["properties"][key], json_schema]} if key else json_schema

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """A registered name, or a mapping of one model's options with its name."""
        models = [self.generate_inner(choice) for choice in schema["choices"].values()]
        names = {"enum": list(schema["choices"])}
        return {"anyOf": [names, {"type": "object", "required": ["name"], "anyOf": models}]}

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """A choice that has a default takes its name from there."""
        json_schema = super().default_schema(schema)
        if isinstance(schema.get("default"), Named):
            _without_name(json_schema)
        return json_schema


def json_schema() -> dict[str, Any]:
    """The schema of a recipe file, JSON Schema draft 2020-12."""
    schema = Recipe.model_json_schema(schema_generator=_Generator)
    for section, recommended in Rule.recommended.items():  # under every recipe, so never required
        if "name" in recommended:
            schema["required"].remove(section)
            schema["properties"][section]["default"] = dict(recommended)
            _without_name(schema["properties"][section])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "fdfa recipe"}


def _without_name(choice: JsonSchemaValue) -> None:
    for form in choice["anyOf"]:
        form.pop("required", None)
