"""What is wrong with published weights is told: damage, the wrong expert, pickles, no numbers."""

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from exo2ego.model.pretrained import WeightsFault
from exo2ego.model.vae import VaeShape
from exo2ego.model.wan import blank_wan, load_wan
from exo2ego.model.wan_expert import WanShape
from exo2ego.model.wan_names import original_name

CONFIG, INDEX = "config.json", "diffusion_pytorch_model.safetensors.index.json"
BIAS = "blocks.0.ffn.net.2.bias"


@pytest.fixture(scope="module")
def whole(
    make_wan: Callable[..., WanTransformer3DModel], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Both experts in both layouts: `transformer`, `transformer_2` and the authors' folders."""
    folder, wan = tmp_path_factory.mktemp("wan"), make_wan(num_layers=1)
    for expert in ("transformer", "transformer_2"):
        wan.save_pretrained(folder / "diffusers" / expert, max_shard_size="50KB")
    about = {"_class_name": "WanModel", "dim": 48, "eps": 1e-6, "ffn_dim": 64, "freq_dim": 20}
    about |= {"in_dim": 36, "num_heads": 4, "num_layers": 1, "out_dim": 16, "text_len": 512}
    tensors = {str(original_name(name)): value.data for name, value in wan.named_parameters()}
    for expert in ("high_noise_model", "low_noise_model"):
        (folder / "original" / expert).mkdir(parents=True)
        (folder / "original" / expert / CONFIG).write_text(json.dumps(about))
        save_file(tensors, folder / "original" / expert / "diffusion_pytorch_model.safetensors")
    return folder


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(whole / "diffusers", tmp_path / "model")


def told(spec: Path | str) -> str:
    """What a user reads."""
    with pytest.raises(WeightsFault) as fault:
        load_wan(str(spec))
    assert all(f"\n  {part}:" in str(fault.value) for part in ("where", "expected", "got", "fix"))
    return str(fault.value)


def shard_of(model: Path, name: str) -> Path:
    index = json.loads((model / "transformer_2" / INDEX).read_text())
    return model / "transformer_2" / index["weight_map"][name]


def put(model: Path, name: str, value: torch.Tensor) -> Path:
    path = shard_of(model, name)
    save_file(load_file(path) | {name: value}, path)
    return path


HIGH_LOW = [("diffusers", "transformer", "transformer_2")]
HIGH_LOW += [("original", "high_noise_model", "low_noise_model")]


@pytest.mark.parametrize(("layout", "high", "low"), HIGH_LOW)
def test_the_high_noise_folder_given_alone_is_refused_with_the_other_as_the_fix(
    whole: Path, layout: str, high: str, low: str
) -> None:
    said = told(whole / layout / high)
    assert "high-noise expert" in said and f"fix:      Give {whole / layout / low}." in said


@pytest.mark.parametrize(("layout", "high", "low"), HIGH_LOW)
@pytest.mark.parametrize("inside", [True, False])
def test_the_high_noise_expert_without_the_other_is_refused(
    whole: Path, tmp_path: Path, layout: str, high: str, low: str, inside: bool
) -> None:
    shutil.copytree(whole / layout / high, tmp_path / high)
    said = told(tmp_path / high if inside else tmp_path)
    assert "high-noise expert" in said and f"Fetch {low}" in said


def test_a_link_of_another_name_does_not_hide_the_high_noise_expert(
    whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "transformer_2").symlink_to(whole / "diffusers" / "transformer")
    assert "high-noise expert" in told(tmp_path / "transformer_2")
    assert "high-noise expert" in told(tmp_path)


def test_a_folder_whose_name_tells_no_expert_is_refused(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "diffusers" / "transformer_2", tmp_path / "wan")
    said = told(tmp_path / "wan")
    assert "Nothing tells which" in said and "rename the folder to transformer_2" in said


def test_another_wans_only_transformer_is_not_called_a_high_noise_expert(
    whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole / "diffusers" / "transformer", tmp_path / "transformer")
    path = tmp_path / "transformer" / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_dim": 1280}))
    assert "Wan2.1-I2V" in told(tmp_path)


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ('{"in_channels": 36', "Expecting"),
        ("", "Expecting value"),
        ("[]", "list"),
        ("[" * 100_000, "recursion"),
        (b"\xff\xfe", "can't decode"),
    ],
)
@pytest.mark.parametrize("file", [CONFIG, INDEX])
def test_damaged_json_is_told(model: Path, file: str, text: str | bytes, got: str) -> None:
    path = model / "transformer_2" / file
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    said = told(model)
    assert str(path) in said and got in said


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"num_layers": "one"}, "num_layers"),
        ({"num_layers": 0}, "num_layers"),
        ({"num_attention_heads": None}, "num_attention_heads"),
        ({"patch_size": [2, 2, 2]}, "patch_size.0"),
        ({"qk_norm": "layer_norm"}, "qk_norm"),
        ({"eps": 1e-5}, "eps"),
        ({"sharpness": 3}, "sharpness"),
    ],
)
def test_a_configuration_that_makes_no_expert_is_told_by_its_key(
    model: Path, change: dict, key: str
) -> None:
    path = model / "transformer_2" / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert f"{path}, {key}\n" in told(model)


@pytest.mark.parametrize("change", [{"dim": 50}, {"num_heads": "4"}, {"ffn_dim": None}])
def test_a_damaged_configuration_of_the_authors_is_told(
    whole: Path, tmp_path: Path, change: dict
) -> None:
    shutil.copytree(whole / "original" / "low_noise_model", tmp_path / "low_noise_model")
    path = tmp_path / "low_noise_model" / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert str(path) in told(tmp_path)


@pytest.mark.parametrize(
    "places",
    [None, [], "x", {BIAS: 3}, {BIAS: "../a.safetensors"}, {BIAS: "model.bin"}],
)
def test_an_index_that_names_no_safetensors_beside_it_is_told(model: Path, places: object) -> None:
    path = model / "transformer_2" / INDEX
    path.write_text(json.dumps({"weight_map": places}))
    assert str(path) in told(model)


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{]"])
def test_a_damaged_header_is_told(model: Path, content: bytes) -> None:
    path = shard_of(model, BIAS)
    path.write_bytes(content)
    said = told(model)
    assert str(path) in said and "a whole safetensors file" in said


def test_a_tensor_that_its_file_lacks_is_told(model: Path) -> None:
    path = shard_of(model, BIAS)
    save_file({"other": torch.zeros(1)}, path)
    assert str(path) in told(model)


def test_a_tensor_that_the_model_has_not_is_told(model: Path) -> None:
    index = model / "transformer_2" / INDEX
    places = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": places | {"blocks.9.bias": places[BIAS]}}))
    assert "with blocks.9.bias (1 in all)" in told(model)


def test_a_tensor_of_another_shape_is_told(model: Path) -> None:
    path = put(model, BIAS, torch.zeros(47))
    said = told(model)
    assert f"{path}, {BIAS}" in said and "(48,)" in said and "(47,)" in said


@pytest.mark.parametrize("dtype", [torch.int32, torch.float8_e4m3fn, torch.bool])
def test_numbers_of_a_type_that_holds_no_plain_weights_are_told(
    model: Path, dtype: torch.dtype
) -> None:
    path = put(model, BIAS, torch.zeros(48).to(dtype))
    assert f"{path}, {BIAS}" in told(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [BIAS, "blocks.0.attn2.to_v.weight"])
def test_weights_that_are_not_finite_are_refused_by_name(
    model: Path, name: str, value: float
) -> None:
    tensor = load_file(shard_of(model, name))[name].clone()
    tensor.view(-1)[-1] = value
    path = put(model, name, tensor)
    said = told(model)
    assert f"{path}, {name}" in said and f"1 of {tensor.numel()} are NaN or infinite" in said


def test_a_number_too_large_for_the_wanted_type_is_refused(model: Path) -> None:
    path = put(model, BIAS, torch.full((48,), 1e5))
    with pytest.raises(WeightsFault, match="48 of 48 are NaN or infinite") as fault:
        load_wan(str(model), dtype=torch.float16)
    assert f"{path}, {BIAS}" in str(fault.value)


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth", "ckpt"])
def test_a_pickle_is_never_opened(model: Path, suffix: str) -> None:
    """What would be run on opening is a file that would then be there."""
    folder, mark = model / "transformer_2", model / "opened"

    class Harm:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (mark,)

    for path in (*folder.glob("*.safetensors"), folder / INDEX):
        path.unlink()
    torch.save({BIAS: Harm()}, folder / f"diffusion_pytorch_model.{suffix}")
    assert f"diffusion_pytorch_model.{suffix}: opening such a file may run code" in told(model)
    assert not mark.exists()
    torch.load(folder / f"diffusion_pytorch_model.{suffix}", weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize(
    ("ours", "theirs"), [(WanShape, WanTransformer3DModel), (VaeShape, AutoencoderKLWan)]
)
def test_the_shapes_know_every_argument_of_diffusers_classes(ours: type, theirs: type) -> None:
    parameters = dict(inspect.signature(theirs.__init__).parameters)
    parameters.pop("self")
    assert set(ours.model_fields) == set(parameters)
    for name, field in ours.model_fields.items():
        if not field.is_required():
            default = parameters[name].default
            assert field.default == (tuple(default) if isinstance(default, list) else default)


def cached(hub: Path, name: str, source: Path, folders: list[str]) -> None:
    """A repository in the hub's cache, as huggingface_hub lays it out."""
    repository, commit = hub / ("models--" + name.replace("/", "--")), "a1" * 20
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for folder in folders:
        shutil.copytree(source / folder, repository / "snapshots" / commit / folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("layout", "low"), [("original", "low_noise_model"), ("diffusers", "transformer_2")]
)
def test_a_hub_id_of_either_layout_means_its_low_noise_expert(
    hub: Path, whole: Path, layout: str, low: str
) -> None:
    cached(hub, "Wan-AI/Wan2.2-I2V-A14B", whole / layout, [low])
    ours, direct = load_wan("Wan-AI/Wan2.2-I2V-A14B"), load_wan(str(whole / layout / low))
    state = direct.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())
    assert blank_wan("Wan-AI/Wan2.2-I2V-A14B", torch.float32).config["num_layers"] == 1


def test_a_hub_repository_without_the_low_noise_expert_is_refused(hub: Path, whole: Path) -> None:
    cached(hub, "some/one", whole / "diffusers", ["transformer"])
    assert "transformer_2/config.json" in told("some/one")


def test_weights_that_the_cache_lacks_are_told(hub: Path, whole: Path) -> None:
    cached(hub, "some/one", whole / "diffusers", ["transformer_2"])
    for path in hub.rglob("*.safetensors"):
        path.unlink()
    assert "no diffusion_pytorch_model-00001" in told("some/one")


@pytest.mark.parametrize("name", ["no/where", "a/b/c", "-/-", "x" * 200 + "/y"])
def test_a_name_that_is_no_repository_here_is_told(hub: Path, name: str) -> None:
    assert "neither a folder here nor a model on the hub" in told(name)
