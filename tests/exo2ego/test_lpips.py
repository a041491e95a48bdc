"""LPIPS: laws, an independent computation of the same formula, and what a missing trunk does."""

import hashlib
from pathlib import Path

import blake3
import numpy as np
import pytest
import torch
from torch.nn import functional

from exo2ego.evaluation import lpips as module
from exo2ego.evaluation.lpips import Lpips, TrunkFault, load_heads, load_lpips

HEADS_DIGEST = "3335c95b42ff10a9083c1598b346a60505c1f0fe9cc4e6f9cea5001770469013"
HEAD_SUMS = (2.349532, 16.143028, 39.268440, 27.197178, 20.317177)


def random_trunk() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    trunk, channels = {}, 3
    for name, layer in module.LAYERS.items():
        shape = (layer.channels, channels, layer.kernel, layer.kernel)
        trunk[f"{name}.weight"] = torch.randn(shape, generator=generator) / shape[1] ** 0.5
        trunk[f"{name}.bias"] = torch.randn(layer.channels, generator=generator) / 10
        channels = layer.channels
    return trunk


def random_frames(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 64, 80, 3), generator=generator).to(torch.uint8)


@pytest.fixture(scope="module")
def metric() -> Lpips:
    return Lpips(random_trunk(), load_heads())


def plain_lpips(x: np.ndarray, y: np.ndarray) -> float:
    """The formula again, written out layer by layer with numpy between the convolutions."""
    trunk, heads = random_trunk(), load_heads()
    plan = [
        ("features.0", {"stride": 4, "padding": 2}, False),
        ("features.3", {"padding": 2}, True),
        ("features.6", {"padding": 1}, True),
        ("features.8", {"padding": 1}, False),
        ("features.10", {"padding": 1}, False),
    ]
    pair = [
        torch.tensor(
            ((2 * (image / 255) - 1) - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
        ).permute(2, 0, 1)[None]
        for image in (x, y)
    ]
    total = 0.0
    for depth, (name, geometry, pooled) in enumerate(plan):
        pair = [functional.max_pool2d(z, 3, 2) if pooled else z for z in pair]
        weight, bias = trunk[f"{name}.weight"].double(), trunk[f"{name}.bias"].double()
        pair = [functional.conv2d(z, weight, bias, **geometry).clamp(min=0) for z in pair]
        unit = [z.numpy()[0] / (np.linalg.norm(z.numpy()[0], axis=0) + 1e-10) for z in pair]
        head = heads[f"lin{depth}.weight"].numpy().ravel()
        total += ((unit[0] - unit[1]) ** 2 * head[:, None, None]).sum(axis=0).mean()
    return total


def test_the_shipped_heads_are_those_of_version_0_1():
    path = Path(module.__file__).with_name(module.HEADS_FILE)
    assert blake3.blake3(path.read_bytes()).hexdigest() == HEADS_DIGEST
    sums = [load_heads()[f"lin{depth}.weight"].sum().item() for depth in range(5)]
    assert sums == pytest.approx(HEAD_SUMS, abs=1e-5)
    assert path.with_name("LPIPS_LICENSE").is_file()


def test_equal_frames_are_at_distance_zero_and_others_are_not(metric: Lpips):
    x, y = random_frames(1), random_frames(2)
    assert torch.equal(metric(x, x), torch.zeros(2))
    assert (metric(x, y) > 0.01).all()


def test_distance_is_symmetric(metric: Lpips):
    x, y = random_frames(1), random_frames(2)
    torch.testing.assert_close(metric(x, y), metric(y, x))


def test_distance_equals_the_formula_written_out(metric: Lpips):
    x, y = random_frames(3), random_frames(4)
    plain = [plain_lpips(a, b) for a, b in zip(x.numpy(), y.numpy(), strict=True)]
    assert metric(x, y).tolist() == pytest.approx(plain, rel=1e-5)


def test_without_a_trunk_there_is_no_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert load_lpips() is None


def test_the_trunk_is_found_in_torchs_hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = module.default_trunk_path()
    path.parent.mkdir(parents=True)
    torch.save(random_trunk(), path)
    monkeypatch.setattr(module, "TRUNK_SHA256", hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    assert path == tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    assert load_lpips() is not None


def test_weights_of_alexnets_shape_that_are_not_alexnets_are_refused(tmp_path: Path):
    torch.save(random_trunk(), tmp_path / "alexnet-owt-7be5be79.pth")
    with pytest.raises(TrunkFault, match="SHA-256"):
        load_lpips(tmp_path / "alexnet-owt-7be5be79.pth")


def test_a_file_of_the_right_digest_without_the_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "alexnet.pth"
    torch.save({"features.0.weight": torch.ones(1)}, path)
    monkeypatch.setattr(module, "TRUNK_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(TrunkFault, match="KeyError"):
        load_lpips(path)


@pytest.mark.parametrize("content", [None, b"not weights", {"features.0.weight": torch.ones(1)}])
def test_a_given_trunk_that_cannot_be_read_is_a_fault(tmp_path: Path, content: object):
    path = tmp_path / "alexnet.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(TrunkFault, match="alexnet-owt"):
        load_lpips(path)
