"""Wan in the authors' own layout: the same model as in diffusers', and what is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from exo2ego.model.pretrained import WeightsFault
from exo2ego.model.wan import load_wan
from exo2ego.model.wan_names import diffusers_name, original_name

CONFIG = {
    "_class_name": "WanModel",
    "model_type": "i2v",
    "dim": 48,
    "eps": 1e-6,
    "ffn_dim": 64,
    "freq_dim": 20,
    "in_dim": 36,
    "num_heads": 4,
    "num_layers": 2,
    "out_dim": 16,
    "text_len": 512,
}
RENAMED = [  # written apart from the project's table, as diffusers' conversion script has them
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("attn1", "self_attn"),
    ("attn2", "cross_attn"),
    (".to_out.0", ".o"),
    (".to_q", ".q"),
    (".to_k", ".k"),
    (".to_v", ".v"),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    (".norm2.", ".norm3."),
    ("proj_out", "head.head"),
]


def renamed(name: str) -> str:
    if name == "scale_shift_table":
        return "head.modulation"
    for here, there in RENAMED:
        name = name.replace(here, there)
    return name.replace("scale_shift_table", "modulation")


@pytest.fixture(scope="module")
def wan(make_wan: Callable[..., WanTransformer3DModel]) -> WanTransformer3DModel:
    model = make_wan()
    for parameter in model.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    return model


@pytest.fixture
def folder(wan: WanTransformer3DModel, tmp_path: Path) -> Path:
    """Both experts' folders; the low-noise one in two files with an index."""
    tensors = {renamed(name): value.data for name, value in wan.named_parameters()}
    for expert in ("high_noise_model", "low_noise_model"):
        (tmp_path / expert).mkdir()
        (tmp_path / expert / "config.json").write_text(json.dumps(CONFIG))
    names, places = sorted(tensors), {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"diffusion_pytorch_model-0000{number + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, tmp_path / "low_noise_model" / file)
        places |= dict.fromkeys(part, file)
    index = tmp_path / "low_noise_model" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    return tmp_path


def run(wan: WanTransformer3DModel) -> torch.Tensor:
    g = torch.Generator().manual_seed(5)
    latents = torch.randn(2, 36, 3, 4, 6, generator=g)
    tokens = torch.randn(2, 7, 48, generator=g)
    with torch.no_grad():
        return wan(latents, torch.tensor([250.5, 999.0]), tokens, return_dict=False)[0]


def test_names_translate_both_ways(wan: WanTransformer3DModel) -> None:
    for name, _ in wan.named_parameters():
        assert original_name(name) == renamed(name)
        assert diffusers_name(renamed(name)) == name
    assert diffusers_name("blocks.0.img_emb.weight") is None


@pytest.mark.parametrize("inside", ["", "low_noise_model"])
def test_both_layouts_load_to_the_same_model(
    wan: WanTransformer3DModel, folder: Path, inside: str
) -> None:
    wan.save_pretrained(folder / "diffusers" / "transformer_2", max_shard_size="100KB")
    ours, theirs = load_wan(str(folder / inside)), load_wan(str(folder / "diffusers"))
    state = theirs.state_dict()
    assert ours.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())
    assert torch.equal(run(ours), run(theirs))


def test_types_are_those_of_diffusers_own_loading(folder: Path, wan: WanTransformer3DModel) -> None:
    wan.save_pretrained(folder / "diffusers" / "transformer_2")
    places = (folder, folder / "diffusers")
    ours, theirs = (load_wan(str(place), dtype=torch.bfloat16) for place in places)
    types = [{name: p.dtype for name, p in one.named_parameters()} for one in (ours, theirs)]
    assert types[0] == types[1]
    assert set(types[0].values()) == {torch.bfloat16, torch.float32}


def test_the_high_noise_expert_is_refused(folder: Path) -> None:
    with pytest.raises(WeightsFault, match="high-noise expert"):
        load_wan(str(folder / "high_noise_model"))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"in_dim": 48, "out_dim": 48}, "TI2V-5B"), ({"in_dim": 16}, "text to video")],
)
def test_another_wan_is_refused(folder: Path, change: dict, message: str) -> None:
    (folder / "low_noise_model" / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(WeightsFault, match=message):
        load_wan(str(folder))


def test_wan_2_1_is_told_by_its_image_encoder(folder: Path) -> None:
    part = folder / "low_noise_model" / "diffusion_pytorch_model-00001-of-00002.safetensors"
    index = folder / "low_noise_model" / "diffusion_pytorch_model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"] | {"img_emb.proj.0.weight": part.name}
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(WeightsFault, match=r"Wan2\.1-I2V"):
        load_wan(str(folder))


@pytest.mark.parametrize("layout", ["original", "diffusers"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_file_that_is_missing_or_cut_short_is_told(
    folder: Path, wan: WanTransformer3DModel, layout: str, damage: str
) -> None:
    wan.save_pretrained(folder / "diffusers" / "transformer_2", max_shard_size="100KB")
    inside = {"original": "low_noise_model", "diffusers": "diffusers/transformer_2"}[layout]
    file = sorted((folder / inside).glob("*.safetensors"))[1]
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsFault, match="cannot be read"):
        load_wan(str(folder if layout == "original" else folder / "diffusers"))


def test_a_tensor_too_few_or_of_another_shape_is_told(folder: Path) -> None:
    file = folder / "low_noise_model" / "diffusion_pytorch_model-00001-of-00002.safetensors"
    index = folder / "low_noise_model" / "diffusion_pytorch_model.safetensors.index.json"
    tensors, name = load_file(file), "blocks.0.ffn.0.bias"
    save_file(tensors | {name: torch.zeros(63)}, file)
    with pytest.raises(WeightsFault, match=r"ffn\.net\.0\.proj\.bias.*\n.*63|63") as fault:
        load_wan(str(folder))
    assert "(64,)" in str(fault.value)
    places = json.loads(index.read_text())["weight_map"]
    places.pop(name)
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(WeightsFault, match=r"ffn\.net\.0\.proj\.bias"):
        load_wan(str(folder))


PEAK = """
import sys, threading, torch
from exo2ego.model.wan import load_wan
load_wan("tiny")
done, peak = threading.Event(), [0]

def kilobytes():  # of its own: pages of a file that is mapped go when memory is short
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])

def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], kilobytes())

before = kilobytes()
threading.Thread(target=watch).start()
wan = load_wan(sys.argv[1], dtype=torch.bfloat16)
done.set()
held = sum(p.numel() * p.element_size() for p in wan.parameters())
print((peak[0] - before) * 1024 / held)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_loading_fp32_files_into_bf16_never_holds_them_whole(
    make_wan: Callable[..., WanTransformer3DModel], tmp_path: Path, layout: str
) -> None:
    """Four hundred MB on disk; holding all of it beside the model would be three times that."""
    model = make_wan(attention_head_dim=128, ffn_dim=6144, text_dim=64, num_layers=12)
    if layout == "diffusers":
        model.save_pretrained(tmp_path / "transformer_2", max_shard_size="40MB")
    else:
        (tmp_path / "low_noise_model").mkdir()
        about = CONFIG | {"dim": 512, "ffn_dim": 6144, "num_layers": 12}
        (tmp_path / "low_noise_model" / "config.json").write_text(json.dumps(about))
        tensors = list(model.named_parameters())
        for first in range(0, len(tensors), 32):
            part = {renamed(name): value.data for name, value in tensors[first : first + 32]}
            save_file(part, tmp_path / "low_noise_model" / f"part-{first:04d}.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path)], check=True, capture_output=True, text=True
    )
    share = float(done.stdout)
    print(f"{layout}: peak of {share:.2f} times the model's own bytes")
    assert share < 1.6
