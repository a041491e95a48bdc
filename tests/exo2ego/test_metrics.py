"""PSNR and SSIM: laws, and equality with scikit-image."""

import math

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from exo2ego.evaluation.metrics import WINDOW_SIGMA, WINDOW_TAPS, psnr, ssim
from stores.errors import ShapeFault


def random_frames(seed: int, n: int = 2, hw: tuple[int, int] = (32, 48)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, *hw, 3), generator=generator).to(torch.uint8)


def noisy(frames: torch.Tensor, amount: int) -> torch.Tensor:
    return (
        (frames.int() + amount * (-1) ** torch.arange(frames.shape[2])[:, None])
        .clamp(0, 255)
        .to(torch.uint8)
    )


def test_psnr_equals_scikit_image():
    truth = random_frames(0)
    frames = noisy(truth, 17)
    for got, x, y in zip(psnr(frames, truth), frames.numpy(), truth.numpy(), strict=True):
        assert got.item() == pytest.approx(peak_signal_noise_ratio(y, x, data_range=255), abs=1e-9)


def test_psnr_of_equal_frames_is_infinite_and_of_black_and_white_zero():
    black, white = torch.zeros(1, 16, 16, 3).byte(), torch.full((1, 16, 16, 3), 255).byte()
    assert psnr(black, black).item() == math.inf
    assert psnr(black, white).item() == pytest.approx(0.0)


@pytest.mark.parametrize("hw", [(32, 48), (11, 13)])
def test_ssim_equals_scikit_image_over_whole_windows(hw: tuple[int, int]):
    truth, margin = random_frames(1, hw=hw), WINDOW_TAPS // 2
    frames = noisy(truth, 40)
    for got, x, y in zip(ssim(frames, truth), frames.numpy(), truth.numpy(), strict=True):
        _, full = structural_similarity(
            x / 255,
            y / 255,
            channel_axis=2,
            data_range=1.0,
            gaussian_weights=True,
            sigma=WINDOW_SIGMA,
            use_sample_covariance=False,
            full=True,
        )
        valid = full[margin : hw[0] - margin, margin : hw[1] - margin]
        assert got.item() == pytest.approx(valid.mean(), abs=1e-9)


def test_ssim_of_equal_frames_is_one():
    frames = random_frames(2)
    torch.testing.assert_close(ssim(frames, frames), torch.ones(2, dtype=torch.float64))


def test_both_metrics_are_symmetric():
    x, y = random_frames(3), random_frames(4)
    torch.testing.assert_close(psnr(x, y), psnr(y, x))
    torch.testing.assert_close(ssim(x, y), ssim(y, x))


def test_frames_smaller_than_a_window_are_refused():
    small = torch.zeros(1, 10, 48, 3).byte()
    with pytest.raises(ShapeFault, match="at least 11"):
        ssim(small, small)
