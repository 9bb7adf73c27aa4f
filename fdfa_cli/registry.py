"""Named options: what a recipe can choose from.

A learning rule, network, data set, optimizer or schedule is a frozen pydantic model: its fields are its
options (with units, ranges and defaults), its ``name`` is how a recipe asks for it, its methods do the
work. A `Registry` finds them by importing every module of one package, so adding one is one file and no
list to edit. Those modules import without torch (see `fdfa_cli.lazy`), so checking a recipe is quick.

Sections of a recipe are typed with `Choice`::

    rule: Annotated[Rule, Choice(RULES)]

which validates ``{name: dfa, ...}`` against the model registered under that name.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Generic, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, field_validator
from pydantic_core import CoreSchema, core_schema

from fdfa_cli.errors import UnknownName, UsageError

#: The largest number that an option takes, up or down. Tensors are float32, which ends at 3.4e38: a sum, a
#: range or a product of some such options must still be one of its numbers.
LARGEST = 1e30


class Options(BaseModel):
    """Frozen, strict, finite: an unknown key, a wrong type or a NaN is an error, never ignored.

    So is a number that no tensor could hold.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )
    #: The option that a recipe may give alone, in the place of all of them (``prune: median``).
    shorthand: ClassVar[str | None] = None

    @field_validator("*")
    @classmethod
    def _fits_a_tensor(cls, value: Any) -> Any:
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and abs(number) > LARGEST:
                raise ValueError(f"must be between -{LARGEST:g} and {LARGEST:g}, not {number:g}")
        return value


class Named(Options):
    """Options a recipe chooses by name. A concrete class narrows it: ``name: Literal["dfa"] = "dfa"``."""

    name: str

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring, as listings show it."""
        return (cls.__doc__ or "").strip().partition("\n")[0]


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """The models of one kind, by name; discovered in `package` at the first look-up."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._models: dict[str, type[T]] = {}
        self._discovered = False

    def register(self, model: type[T]) -> type[T]:
        """Class decorator: make `model` known under the default of its ``name`` field.

        Raises `UsageError` when another class already has that name.
        """
        name = model.model_fields["name"].default
        known = self._models.setdefault(name, model)
        if (known.__module__, known.__qualname__) != (model.__module__, model.__qualname__):
            raise UsageError(f"{self.kind} {name!r} is registered twice: by {known} and by {model}")
        self._models[name] = model
        return model

    def models(self) -> dict[str, type[T]]:
        """Every model by name, sorted."""
        self._discover()
        return dict(sorted(self._models.items()))

    def get(self, name: str) -> type[T]:
        """The model called `name`; raises `UnknownName` with the nearest one."""
        models = self.models()
        if name not in models:
            raise UnknownName(self.kind, name, models)
        return models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.models())

    def __contains__(self, name: object) -> bool:
        return name in self.models()

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True  # before the imports, which may look names up in turn
        try:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(getattr(package, "__path__", ()), self.package + "."):
                importlib.import_module(module.name)
            for entry in importlib.metadata.entry_points(group="fdfa.plugins"):
                _load_entry_point(entry)
        except BaseException:
            self._discovered = False
            raise


class Choice:
    """Annotation of a field that holds one of a registry's models, chosen by the key ``name``."""

    def __init__(self, registry: Registry[Any]) -> None:
        self.registry = registry

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        choices = {name: handler.generate_schema(model) for name, model in self.registry.models().items()}
        union = core_schema.tagged_union_schema(choices, discriminator="name")
        return core_schema.nullable_schema(union) if NoneType in get_args(source) else union


def load_plugin(file: Path) -> None:
    """Import a Python file the user named, so that what it registers is known.

    Raises `UsageError` when the file is missing or fails to import.
    """
    name = f"fdfa_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise UsageError(f"--plugin {file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"--plugin {file}: {type(error).__name__}: {error}") from error


def _load_entry_point(entry: importlib.metadata.EntryPoint) -> None:
    """Load an installed package's plugin; raises `UsageError` that names the package where it fails."""
    try:
        entry.load()
    except Exception as error:
        package = entry.dist.name if entry.dist else entry.value
        message = f"the plugin {entry.name!r} of package {package!r} fails to load: {error}"
        raise UsageError(message) from error
