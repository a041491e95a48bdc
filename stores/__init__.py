"""Bytes: what lies on disk and what it is called. `stores.open_store` opens a store."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stores.zarr_store import open_store

__all__ = ["open_store"]


def __getattr__(name: str) -> Any:
    # late, so that the shell's --help does not wait for Arrow and Zarr
    if name != "open_store":
        raise AttributeError(name)
    from stores.zarr_store import open_store

    return open_store
