"""Wan2.2-I2V-A14B as its authors published it: `low_noise_model/` in diffusers' words."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator

from exo2ego.model.pretrained import Component, WeightsFault, checked_shape, unreadable
from exo2ego.model.wan_names import diffusers_name
from exo2ego.model.weight_files import Stored, shape_of

CLASS_NAME = "WanModel"
HIGH_NOISE, LOW_NOISE = "high_noise_model", "low_noise_model"
_TEXT = "text_embedding.0.weight"
"""Its columns are the text encoder's width, which the configuration does not have."""


class _Shape(BaseModel):
    """What of the authors' configuration decides shapes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    dim: PositiveInt
    num_heads: PositiveInt
    in_dim: PositiveInt
    out_dim: PositiveInt
    freq_dim: PositiveInt
    ffn_dim: PositiveInt
    num_layers: PositiveInt
    eps: float

    @model_validator(mode="after")
    def _divides(self) -> "_Shape":
        if self.dim % self.num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, not {self.dim}")
        return self


def original_shape(found: Component) -> dict[str, Any]:
    """The configuration in diffusers' words, but for the text's width, which it does not have."""
    about = checked_shape(_Shape, found.config, found.folder / "config.json")
    return {
        "num_attention_heads": about.num_heads,
        "attention_head_dim": about.dim // about.num_heads,
        "in_channels": about.in_dim,
        "out_channels": about.out_dim,
        "freq_dim": about.freq_dim,
        "ffn_dim": about.ffn_dim,
        "num_layers": about.num_layers,
        "eps": about.eps,
    }


def text_width(found: Component, stored: Mapping[str, Stored]) -> int:
    """The text encoder's width. Raises WeightsFault if no tensor tells it."""
    shape = shape_of(stored[_TEXT]) if _TEXT in stored else ()
    if len(shape) != 2:
        raise unreadable(found.folder, f"the matrix {_TEXT}", f"shape {shape}" if shape else "none")
    return shape[1]


def by_diffusers_names(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """The same tensors by diffusers' names; one that has none keeps its own."""
    return {diffusers_name(name) or name: place for name, place in stored.items()}


def refuse_wan_2_1(found: Component, names: Mapping[str, object]) -> None:
    """Raises WeightsFault if the tensors are those of a Wan with an image encoder."""
    if any(name.startswith("img_emb.") for name in names):
        raise WeightsFault(
            "This transformer is not of Wan2.2-I2V-A14B.",
            where=found.folder,
            expected="an expert without image encoder",
            got="tensors img_emb.*: Wan2.1-I2V",
            fix="Give the folder of Wan2.2-I2V-A14B.",
        )
