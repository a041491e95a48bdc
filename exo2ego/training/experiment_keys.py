"""The keys of an experiment as a user writes them: all that there are, and those of a complaint."""

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel


def known_keys(
    kind: type[BaseModel], tree: dict[str, Any] | None = None, prefix: str = ""
) -> Iterator[str]:
    """Every key of a model, dotted; of a choice of models, of the one `tree` names, or of each."""
    for name, field in kind.model_fields.items():
        parts = [part for part in _flat(field.annotation) if _is_settings(part)]
        if not parts:
            yield prefix + name
        below = (tree or {}).get(name)
        below = below if isinstance(below, dict) else None
        for part in parts:
            if _may_be_meant(part, below):
                yield from known_keys(part, below, f"{prefix}{name}.")


def _may_be_meant(part: type[BaseModel], tree: dict[str, Any] | None) -> bool:
    """Whether the tree does not name another alternative than this one."""
    named, field = (tree or {}).get("name"), part.model_fields.get("name")
    return named is None or field is None or named in get_args(field.annotation)


def keys_of_place(place: Sequence[int | str], tree: Any) -> Iterator[str]:
    """The keys of a place in the tree, without the name of an alternative that pydantic adds."""
    for part in place:
        if part == place[-1] or not isinstance(tree, dict) or part in tree:
            yield str(part)
            tree = tree.get(part) if isinstance(tree, dict) else None


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of an experiment as plain JSON, by its dotted key."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def values_of(settings: BaseModel) -> dict[str, Any]:
    """Every value as plain JSON, by its dotted key."""
    return dict(leaves(settings.model_dump(mode="json")))


def _flat(annotation: Any) -> Iterator[Any]:
    """The annotation, or the members of a union or Annotated, however deep."""
    yield annotation
    for part in get_args(annotation):
        yield from _flat(part)


def _is_settings(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, BaseModel)
