"""A folder of tar shards, open for reading as any store is: random rows, out of the tars."""

from collections.abc import Sequence
from functools import partial

from stores.arrays import ArrayReader, RowFile, Witnesses
from stores.byte_source import open_bytes
from stores.damage import name_some
from stores.errors import StoreFault
from stores.place import Place
from stores.reading import Store
from stores.schema import ARRAYS
from stores.shard import ShardDamage
from stores.tar_index import Offsets, TarFolder, load_offsets, tar_folder
from stores.tar_shard import ABOUT, TarFile, check_member, describe_clip, member_name


class TarStore(Store):
    """One exported version. Safe to read from many threads. `stores.zarr_store.open_store`.

    A tar has no checksums: each read compares the member's name, type and shape, and
    `stores.verify.verify_store` every number.
    """

    folder: TarFolder
    offsets: Offsets

    def check_tar(self, shard: int) -> None:
        """Reads a tar's headers, and what it says of its clips, anew.

        Raises StoreFault, naming the tar and its clips, for a member that does not belong there
        (another clip or array, a link, a path), that is missing, or that says something else.
        """
        try:
            for array, number, member in self.folder.members(shard):
                if array == ABOUT:
                    check_member(
                        self.folder.file_of(shard), member, describe_clip(self.rows[number])
                    )
                else:
                    self.offsets[array][number] = member.offset
        except ShardDamage as damage:
            raise self._damaged_tar(shard, damage.reason) from damage

    def _open_readers(self, arrays: Sequence[str], *, check: bool) -> dict[str, ArrayReader]:
        manifest = self.version.table
        self.folder = tar_folder(self.path, self.hash, self.recipe, self.clips_per_shard, manifest)
        self.offsets = load_offsets(self.folder)
        return {
            name: TarReader(self.folder, name, self.offsets, partial(self.witnesses, name))
            for name in arrays
        }

    def _damaged_tar(self, shard: int, reason: str) -> StoreFault:
        clips = [self.clip_ids[number] for number in self.folder.numbers(shard)]
        return StoreFault(
            f"The tar of {name_some(clips)} cannot be used: {reason}.",
            where=f"shard {shard}, {self.folder.file_of(shard)}",
            expected=f"description and arrays of {len(clips)} clips, as the manifest lists them",
            got=reason,
            fix="Restore the file from a copy, or delete it and export the store again.",
        )


class TarReader(ArrayReader):
    """Reads rows of one array out of the tars, many at a time, into one buffer."""

    def __init__(self, folder: TarFolder, array: str, offsets: Offsets, witnesses: Witnesses):
        layout = folder.layouts[array]
        super().__init__(folder.path, ARRAYS[array], layout, witnesses=witnesses)
        self._folder, self._offsets = folder, offsets[array]

    def file_of(self, shard: int) -> Place:
        """The tar of that number."""
        return self._folder.file_of(shard)

    def open_file(self, shard: int) -> RowFile:
        """The tar, open. Raises ShardDamage if it cannot be."""
        numbers, name = self._folder.numbers(shard), self.spec.name
        names = [member_name(self._folder.clip_ids[number], name) for number in numbers]
        offsets = self._offsets[numbers.start : numbers.stop].tolist()
        return TarFile(open_bytes(self.file_of(shard)), self.layout, names, offsets)
