"""Which Wan a spec means: the low-noise expert of Wan2.2-I2V-A14B in either layout, no other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from exo2ego.model import wan_original
from exo2ego.model.pretrained import (
    CONFIG_FILE,
    WEIGHT_FILES,
    Component,
    WeightsFault,
    checked_shape,
    given_path,
    locate,
)
from exo2ego.model.weight_files import Stored, stored_tensors
from stores.schema import LATENT_CHANNELS, PATCH_3D, VAE_FRAME_STRIDE

IN_CHANNELS = LATENT_CHANNELS + VAE_FRAME_STRIDE + LATENT_CHANNELS
"""Noisy latent, mask (one channel per source frame of a latent frame), condition latent."""
HIGH_NOISE, LOW_NOISE = "transformer", "transformer_2"
"""Folders of the two experts in diffusers' layout."""
CLASS_NAME = "WanTransformer3DModel"
_LOW_OF = {HIGH_NOISE: LOW_NOISE, wan_original.HIGH_NOISE: wan_original.LOW_NOISE}
"""The low-noise expert's folder beside a high-noise one, in each layout."""
_CLASSES = {LOW_NOISE: CLASS_NAME, wan_original.LOW_NOISE: wan_original.CLASS_NAME}


class WanShape(BaseModel):
    """The arguments that diffusers' class is made with; what all Wans share has one value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patch_size: tuple[Literal[1], Literal[2], Literal[2]] = PATCH_3D
    num_attention_heads: PositiveInt = 40
    attention_head_dim: PositiveInt = Field(default=128, multiple_of=2)
    in_channels: PositiveInt
    out_channels: PositiveInt
    text_dim: PositiveInt = 4096
    freq_dim: PositiveInt = 256
    ffn_dim: PositiveInt = 13824
    num_layers: PositiveInt = 40
    cross_attn_norm: Literal[True] = True
    qk_norm: Literal["rms_norm_across_heads"] = "rms_norm_across_heads"
    eps: float = Field(default=1e-6, ge=1e-6, le=1e-6)
    image_dim: None = None
    added_kv_proj_dim: None = None
    rope_max_seq_len: PositiveInt = 1024
    pos_embed_seq_len: None = None


@dataclass(frozen=True)
class Expert:
    """The low-noise expert, before its weights are read."""

    part: Component
    shape: WanShape

    @property
    def original(self) -> bool:
        """Whether it is in the authors' layout; their configuration lacks the text's width."""
        return self.part.config["_class_name"] == wan_original.CLASS_NAME

    def weights(self) -> tuple[WanShape, dict[str, Stored]]:
        """Its whole shape, and its tensors by diffusers' names; they are fetched if need be."""
        self.part.fetch_weights()
        stored = stored_tensors(self.part.folder)
        if not self.original:
            return self.shape, stored
        wan_original.refuse_wan_2_1(self.part, stored)
        width = wan_original.text_width(self.part, stored)
        shape = self.shape.model_copy(update={"text_dim": width})
        return shape, wan_original.by_diffusers_names(stored)


def find_expert(spec: str) -> Expert:
    """The expert that a folder or hub id means; configurations and headers alone are read.

    Raises WeightsFault for any other Wan, for the high-noise expert, and for a lone folder whose
    name does not tell which of the two it is: the files of both are alike.
    """
    given = given_path(spec)
    _refuse_high_noise(given)
    found = locate(spec, _CLASSES)
    shape, where = _shape_in(found), found.folder / CONFIG_FILE
    _refuse_other_wan(shape, where)
    if found.inner is None:
        _refuse_unnamed(given)
    expert = Expert(found, checked_shape(WanShape, shape, where))
    if expert.original and any(found.folder.glob(WEIGHT_FILES)):  # else they are fetched later
        wan_original.refuse_wan_2_1(found, stored_tensors(found.folder))
    return expert


def _names(folder: Path) -> set[str]:
    """What a folder is called where it was given, and where it really is."""
    return {folder.name, folder.resolve().name}


def _refuse_high_noise(given: Path) -> None:
    """Raises WeightsFault for a high-noise expert, or a model that has no other."""
    lows = [given / low for low in _LOW_OF.values() if (given / low).is_dir()]
    for folder in lows or (given, *(given / high for high in _LOW_OF)):
        named = [high for high in _LOW_OF if high in _names(folder)]
        if not named or not (folder / CONFIG_FILE).is_file():
            continue
        _refuse_other_wan(_shape_in(locate(str(folder), _CLASSES)), folder / CONFIG_FILE)
        low = _LOW_OF[named[0]]
        beside = folder.resolve().parent / low
        raise WeightsFault(
            "This is the high-noise expert.",
            where=folder,
            expected=f"the low-noise expert, which lies in {low} (paper 8.1.3)",
            got=named[0],
            fix=f"Give {beside}." if beside.is_dir() else f"Fetch {low} of the same model, too.",
        )


def _shape_in(found: Component) -> dict[str, Any]:
    """The configuration in diffusers' words, as far as it goes."""
    if found.config["_class_name"] == wan_original.CLASS_NAME:
        return wan_original.original_shape(found)
    return {key: value for key, value in found.config.items() if not key.startswith("_")}


def _refuse_unnamed(given: Path) -> None:
    """Raises WeightsFault for an expert's own folder unless its name says which one it is."""
    if _names(given).isdisjoint(_LOW_OF.values()):
        raise WeightsFault(
            "Nothing tells which of Wan's two experts this is: their files are alike.",
            where=given,
            expected=f"a folder called {' or '.join(_LOW_OF.values())}, or one that holds it",
            got=f"one called {given.resolve().name}",
            fix=f"If it is the low-noise expert, rename the folder to {LOW_NOISE}.",
        )


def _refuse_other_wan(shape: dict[str, Any], where: Path) -> None:
    """Raises WeightsFault unless a configuration is that of an expert of Wan2.2-I2V-A14B."""
    if (got := _other_wan(shape)) is None:
        return
    raise WeightsFault(
        "This transformer is not of Wan2.2-I2V-A14B.",
        where=where,
        expected=f"{IN_CHANNELS} input and {LATENT_CHANNELS} output channels, no image encoder",
        got=got,
        fix="Give the diffusers folder or hub id of Wan2.2-I2V-A14B.",
    )


def _other_wan(shape: dict[str, Any]) -> str | None:
    """What another Wan's configuration is, in words; None for Wan2.2-I2V-A14B's."""
    channels = (shape.get("in_channels"), shape.get("out_channels"))
    if shape.get("image_dim") is not None or shape.get("added_kv_proj_dim") is not None:
        return "an image encoder's projection: Wan2.1-I2V"
    if channels == (IN_CHANNELS, LATENT_CHANNELS):
        return None
    known = {"48 and 48": "TI2V-5B", f"{LATENT_CHANNELS} and {LATENT_CHANNELS}": "text to video"}
    got = f"{channels[0]} and {channels[1]}"
    return f"{got} channels: {known.get(got, 'an unknown model')}"
