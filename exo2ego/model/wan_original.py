"""Wan2.2-I2V-A14B as its authors published it: `low_noise_model/` read into diffusers' class.

Tensors go from the files to their place one by one: beside the model, one of them is in memory.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors import SafetensorError, safe_open
from torch import Tensor

from exo2ego.model.pretrained import CONFIG_FILE, WeightsFault
from exo2ego.model.wan_names import diffusers_name, original_name
from stores.schema import PATCH_3D

CLASS_NAME = "WanModel"
HIGH_NOISE, LOW_NOISE = "high_noise_model", "low_noise_model"
_TEXT = "text_embedding.0.weight"
"""Its columns are the text encoder's width, which the configuration does not have."""


def original_folder(spec: str) -> Path | None:
    """The folder of the expert in the authors' layout that a spec means, or None."""
    given = Path(spec).expanduser()
    for folder in (given / LOW_NOISE, given):
        config = folder / CONFIG_FILE
        if config.is_file() and _read(config).get("_class_name") == CLASS_NAME:
            return folder
    return None


def original_config(folder: Path) -> dict[str, Any]:
    """The expert's configuration in diffusers' words. Raises WeightsFault for another model."""
    about = _read(folder / CONFIG_FILE)
    if folder.name == HIGH_NOISE:
        refuse_high_noise(folder, LOW_NOISE, HIGH_NOISE)
    places = _places(folder)
    if any(name.startswith("img_emb.") for name in places):
        raise WeightsFault(
            "This transformer is not of Wan2.2-I2V-A14B.",
            where=folder,
            expected="an expert without image encoder",
            got="tensors img_emb.*: Wan2.1-I2V",
            fix="Give the folder of Wan2.2-I2V-A14B.",
        )
    return {
        "patch_size": PATCH_3D,
        "num_attention_heads": about["num_heads"],
        "attention_head_dim": about["dim"] // about["num_heads"],
        "in_channels": about["in_dim"],
        "out_channels": about["out_dim"],
        "text_dim": _text_width(folder, places),
        "freq_dim": about["freq_dim"],
        "ffn_dim": about["ffn_dim"],
        "num_layers": about["num_layers"],
        "eps": about["eps"],
    }


def refuse_high_noise(folder: Path, low_noise: str, got: str) -> NoReturn:
    """Raises WeightsFault: that folder holds the wrong one of two experts, in either layout."""
    raise WeightsFault(
        "This is the high-noise expert.",
        where=folder,
        expected=f"the low-noise expert, which lies in {low_noise} (paper 8.1.3)",
        got=got,
        fix=f"Give {folder.parent} or {folder.parent / low_noise}.",
    )


def stays_in_float32(wan: WanTransformer3DModel, name: str) -> bool:
    """Whether diffusers keeps the parameter of that name in float32, whatever the model's type."""
    return not set(wan._keep_in_fp32_modules or ()).isdisjoint(name.split("."))


def load_original(
    folder: Path, config: dict[str, Any], device: str | torch.device, dtype: torch.dtype
) -> WanTransformer3DModel:
    """The expert of that folder on the device; its norms, tables and clock stay in float32.

    `config` is its `original_config`. Raises WeightsFault if files or tensors are missing, damaged,
    or too many.
    """
    with init_empty_weights(include_buffers=False):
        wan = WanTransformer3DModel(**config)
    shapes = {name: tuple(value.shape) for name, value in wan.named_parameters()}
    files = _files_by_name(folder, shapes)
    for name, value in _tensors(files):
        if tuple(value.shape) != shapes[name]:
            raise _fault(folder, f"{name} of shape {shapes[name]}", tuple(value.shape))
        own = torch.float32 if stays_in_float32(wan, name) else dtype
        # a copy: a tensor that is not converted would hold all of its file
        placed = value.to(device, own, copy=True)
        set_module_tensor_to_device(wan, name, device, value=placed, dtype=own)
    for name, buffer in wan.named_buffers():
        set_module_tensor_to_device(wan, name, device, value=buffer)
    return wan


def _files_by_name(folder: Path, shapes: dict[str, Any]) -> dict[Path, dict[str, str]]:
    """By file: the tensors to take from it, by their names there, and as diffusers calls them."""
    files: dict[Path, dict[str, str]] = {}
    places = _places(folder)
    unknown = [name for name in places if diffusers_name(name) not in shapes]
    missing = [name for name in shapes if original_name(name) not in places]
    if unknown or missing:
        raise _fault(folder, f"exactly {len(shapes)} tensors", f"without {missing[:3]}, "
                     f"and with {unknown[:3]} that the model does not have")  # fmt: skip
    for name, path in places.items():
        files.setdefault(path, {})[name] = str(diffusers_name(name))
    return files


def _places(folder: Path) -> dict[str, Path]:
    """The file of each tensor, by the authors' name. Raises WeightsFault if one is not there."""
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    if index.is_file():
        places = {name: folder / file for name, file in _read(index)["weight_map"].items()}
    else:
        found = sorted(folder.glob("*.safetensors"))
        places = {name: path for path in found for name in _names(path)}
    absent = sorted({path.name for path in places.values() if not path.is_file()})
    if absent or not places:
        raise _fault(folder, "all files of the weights", f"no {', '.join(absent) or 'safetensors'}")
    return places


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except SafetensorError as damaged:
        raise _fault(path, "a whole safetensors file", str(damaged)) from damaged


def _tensors(files: dict[Path, dict[str, str]]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor, one at a time, by diffusers' name."""
    for path, names in files.items():
        try:
            with safe_open(path, framework="pt") as file:
                for here, there in names.items():
                    yield there, file.get_tensor(here)
        except SafetensorError as damaged:
            raise _fault(path, "a whole safetensors file", str(damaged)) from damaged


def _text_width(folder: Path, places: dict[str, Path]) -> int:
    path = places.get(_TEXT)
    if path is None:
        raise _fault(folder, f"the tensor {_TEXT}", "none")
    try:
        with safe_open(path, framework="pt") as file:
            return int(file.get_slice(_TEXT).get_shape()[1])
    except SafetensorError as damaged:
        raise _fault(path, "a whole safetensors file", str(damaged)) from damaged


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as damaged:
        raise _fault(path, "JSON", str(damaged)) from damaged


def _fault(where: Path, expected: object, got: object) -> WeightsFault:
    return WeightsFault(
        "These weights cannot be read.",
        where=where,
        expected=expected,
        got=got,
        fix="Fetch the folder again, with all its files.",
    )
