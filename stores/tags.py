"""Tags, the names that people give to versions: the file tags.json, and what a name may be."""

import re

import orjson

from stores.atomic import write_whole
from stores.errors import StoreFault
from stores.place import Place

NAME = "tags.json"
_ALLOWED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LIKE_HASH = re.compile(r"[0-9a-fA-F]+")


def is_like_hash(text: str) -> bool:
    """True if the text could be the beginning of a version's hash; no tag is called so."""
    return _LIKE_HASH.fullmatch(text) is not None


def check_tag_name(name: str) -> None:
    """Raises StoreFault unless a tag may be called so."""
    if _ALLOWED.fullmatch(name) and not is_like_hash(name) and name.upper() != "HEAD":
        return
    raise StoreFault(
        "A version cannot be tagged with this name.",
        where="tag",
        expected="1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first; "
        "neither HEAD nor what a hash could begin with",
        got=repr(name),
        fix="Choose another name, such as paper-v1.",
    )


def read_tags(store: Place) -> dict[str, str]:
    """Hash of the version that each tag names. Raises StoreFault if tags.json is damaged."""
    path = store / NAME
    if not path.exists():
        return {}
    try:
        tags = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as foreign:
        raise _damaged(path, str(foreign)) from foreign
    if not isinstance(tags, dict) or not all(isinstance(name, str) for name in tags.values()):
        raise _damaged(path, "other JSON")
    return tags


def write_tags(store: Place, tags: dict[str, str]) -> None:
    """Replaces all tags, in one step."""
    option = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS
    write_whole(store / NAME, orjson.dumps(tags, option=option))


def _damaged(path: Place, got: str) -> StoreFault:
    return StoreFault(
        "The tags of the store cannot be read.",
        where=path,
        expected="a JSON object: each tag's name, and the full hash of its version",
        got=got,
        fix="Restore the file from a copy, or remove it and tag again; versions are not harmed.",
    )
