"""Which version of which store a user means: "S", "S@tag" or "S@" and the beginning of a hash."""

from stores.errors import StoreFault
from stores.place import Place, place
from stores.tags import is_like_hash, read_tags
from stores.version import list_versions, read_head


def resolve(store: str | Place) -> tuple[Place, str]:
    """Folder and full hash that "S" (its HEAD), "S@tag" or "S@prefix" of a hash means."""
    text = str(store)
    if (place(text) / "store.json").exists() or "@" not in text:
        folder, name = place(text), ""
    else:
        folder, name = place(text.rpartition("@")[0]), text.rpartition("@")[2]
    if not name or not (folder / "store.json").exists():
        return folder, _head_or_fault(folder)
    tags = {} if is_like_hash(name) else read_tags(folder)
    if name in tags:
        return folder, tags[name]
    known = list_versions(folder)
    found = [version for version in known if version.startswith(name)]
    if len(found) == 1:
        return folder, found[0]
    choice = [version[:12] for version in (found or known)[:8]] + sorted(tags)[:8]
    raise StoreFault(
        "This version of the store is not known." if not found else "Which version is meant?",
        where=text,
        expected="the beginning of exactly one version's hash, or a tag",
        got=f"{name!r}; the store has {', '.join(choice)}",
        fix="Give more letters of the hash, or none for the current version.",
    )


def _head_or_fault(folder: Place) -> str:
    head = read_head(folder) if (folder / "store.json").exists() else None
    if head:
        return head
    inside = (folder / "store.json").exists()
    raise StoreFault(
        "This store has no clips yet." if inside else "This is not a store.",
        where=folder,
        expected="a folder with store.json and HEAD",
        got="no HEAD: nothing was ever committed" if inside else "no store.json",
        fix="Make it with `exo2ego encode-latents`, or run an interrupted export again.",
    )
