"""What an experiment takes: counted without numbers, against closed forms and real tensors."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn

from exo2ego.model.wan_memory import MemoryFault, spare_training_memory
from exo2ego.training.build import Origin
from exo2ego.training.describe import Description, Machine, MachineFault, blank_batch, describe
from exo2ego.training.experiment import DiffusionExperiment, Experiment
from exo2ego.training.experiment_file import experiment_names, load_experiment
from exo2ego.training.stages import STAGES, arithmetic, clip_generator
from stores.schema import ClipShape

PAPER = ClipShape(views=4, frames=9, hw=(256, 256))
SMALL = ClipShape(views=3, frames=5, hw=(64, 96))
FOUR = ClipShape(views=4, frames=5, hw=(32, 48))
WIDTH, BLOCKS, FFN = 5120, 40, 13824
TOKENS, EXO_TOKENS, CLIPS = 768, 3072, 3

OF_THE_PAPER = [name for name in experiment_names() if not name.startswith(("demo", "mini"))]


@pytest.fixture(scope="module")
def described() -> dict[str, Description]:
    """Both stages at the paper's setting, on its two GPUs."""
    stages = ("multiexocon", "poseinj")
    return {
        name: describe(load_experiment(name), clip=PAPER, machine=Machine(gpus=2))
        for name in stages
    }


def test_the_papers_counts(described: dict[str, Description]) -> None:
    sizes = {part.name: part for part in described["multiexocon"].parts}
    assert sizes["LoRA"].trained == 209_715_200
    assert sizes["wan.blocks.*.attn2"].trained == 4_195_532_800
    wan = sum(part.parameters for name, part in sizes.items() if name.startswith("wan"))
    text = 4096 * WIDTH + WIDTH + WIDTH * WIDTH + WIDTH
    assert wan + text == 14_288_901_184
    assert described["multiexocon"].ego_tokens == TOKENS
    assert described["multiexocon"].exo_tokens == EXO_TOKENS
    with torch.device("meta"):
        vae = AutoencoderKLWan()
    assert sum(parameter.numel() for parameter in vae.parameters()) == 126_892_531


def test_flops_are_those_of_the_closed_form(described: dict[str, Description]) -> None:
    """Forward: two a weight and token; attention: four a query, key and channel."""
    square = WIDTH * WIDTH
    lora = 4 * 2 * 128 * WIDTH
    of_ego = (4 + 2) * square + 2 * WIDTH * FFN + lora
    linear = 2 * CLIPS * BLOCKS * (of_ego * TOKENS + 2 * square * EXO_TOKENS)
    attention = 4 * CLIPS * BLOCKS * WIDTH * TOKENS * (TOKENS + EXO_TOKENS)
    # backward: gradients of what comes in (not of exo tokens' keys in poseinj), and of weights that
    # train; attention 2.5 times its forward pass
    inputs = 2 * CLIPS * BLOCKS * of_ego * TOKENS
    weights = {
        "multiexocon": 2
        * CLIPS
        * BLOCKS
        * ((lora + 2 * square) * TOKENS + 2 * 2 * square * EXO_TOKENS),
        "poseinj": 2 * CLIPS * BLOCKS * lora * TOKENS,
    }
    for name, of_weights in weights.items():
        expected = linear + 3.5 * attention + inputs + of_weights
        assert described[name].tflop_a_step == pytest.approx(expected / 1e12, rel=0.02)


def test_memory_follows_from_what_trains(described: dict[str, Description]) -> None:
    for about in described.values():
        assert about.gradients_gb == pytest.approx(4 * about.trained / 1e9)
        assert 2 * about.trained / 1e9 < about.optimiser_gb < 8 * about.trained / 1e9
        parts = ("weights_gb", "copies_gb", "gradients_gb", "optimiser_gb", "activations_gb")
        assert about.total_gb == pytest.approx(sum(getattr(about, part) for part in parts))
        assert about.fits
    smaller = Machine(gpus=2, memory_gb=80.0)
    about = describe(load_experiment("multiexocon"), clip=PAPER, machine=smaller)
    assert not about.fits and "does not fit" in about.words


def test_moments_in_8_bit_are_counted_with_their_scales(described: dict[str, Description]) -> None:
    """attn2's matrices and LoRA's first ones have rows of whole blocks; all else is in fp32."""
    about = described["multiexocon"]
    of_blocks = BLOCKS * 4 * (WIDTH * WIDTH + 128 * WIDTH)
    expected = 2 * of_blocks * (1 + 4 / 256) + 8 * (about.trained - of_blocks)
    assert about.optimiser_gb == pytest.approx(expected / 1e9)
    in_fp32 = describe(load_experiment("multiexocon", ["optimiser.states=fp32"]), clip=PAPER)
    assert in_fp32.optimiser_gb == pytest.approx(8 * about.trained / 1e9)


@pytest.mark.parametrize("name", OF_THE_PAPER)
def test_every_experiment_is_described_of_a_configuration_alone(name: str, tmp_path: Path) -> None:
    config = {"_class_name": "WanTransformer3DModel", "in_channels": 36, "out_channels": 16}
    (tmp_path / "transformer_2").mkdir()
    (tmp_path / "transformer_2" / "config.json").write_text(json.dumps(config | {"num_layers": 2}))
    overrides = ["batch.global_batch=2", "batch.micro_batch=2"]
    about = describe(load_experiment(name, overrides), clip=FOUR, wan_spec=str(tmp_path))
    assert 0 < about.trained <= about.parameters and about.tflop_a_step > 0
    assert about.activations_gb > 0 and about.fits


def is_copy(tensor: Tensor) -> bool:
    """Whether it is a parameter in another type, as autocast makes it, or turned."""
    made_by = tensor.grad_fn
    while made_by is not None and len(made_by.next_functions) == 1:
        made_by = made_by.next_functions[0][0]
    return type(made_by).__name__ == "AccumulateGrad"


def kept_by(model: nn.Module, experiment: Experiment, shape: ClipShape) -> int:
    """Bytes that real tensors keep from forward to backward, parameters and their copies apart."""
    stage = STAGES[experiment.stage]
    blank = blank_batch(stage.reads(experiment), shape, experiment.batch.micro_batch)
    arrays = {read: torch.randn(value.shape) for read, value in blank.arrays.items()}
    batch = replace(blank, arrays=arrays)
    kept: dict[int, Tensor] = {}
    # held, as float8 casting lets go of them, and their addresses would be used again
    weights = [parameter.untyped_storage() for parameter in model.parameters()]
    own = {storage.data_ptr() for storage in weights}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own and not is_copy(tensor):
            kept[place] = tensor
        return tensor

    generators = [clip_generator(0, 0, clip_id) for clip_id in batch.clip_ids]
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        arithmetic(experiment.precision, "cpu"),
    ):
        loss = stage.losses(model, batch, generators, experiment).mean()
    assert loss.isfinite()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def built(experiment: Experiment, wan: str) -> Any:
    """A real model to train."""
    return STAGES[experiment.stage].build(Origin(experiment, wan, None, "cpu")).model.train()


AC3D = ["vawan.views=3", "vawan.pose={name='ac3d', width=128}"]


@pytest.mark.parametrize(
    ("name", "precision", "more"),
    [  # not Align: a CPU's attention with a bias keeps its matrix, its autocast has norms in bf16
        ("multiexocon", "bf16", []),
        ("multiexocon", "fp32", []),
        ("vawan", "bf16", AC3D),
        ("vawan", "fp32", AC3D),
    ],
)
def test_activations_are_within_15_percent_of_real_ones(
    name: str, precision: str, more: list[str], wan_256: str
) -> None:
    overrides = ["batch.global_batch=2", "batch.micro_batch=2", f"precision={precision}", *more]
    about = describe(load_experiment(name, overrides), clip=SMALL, wan_spec=wan_256)
    experiment = load_experiment(name, overrides)
    real = kept_by(built(experiment, wan_256), experiment, SMALL)
    print(f"{name} {precision}: {1e9 * about.activations_gb / real:.3f} of {real} bytes")
    assert 1e9 * about.activations_gb == pytest.approx(real, rel=0.15)


@pytest.fixture(scope="module")
def wans(
    make_wan: Callable[..., WanTransformer3DModel], tmp_path_factory: pytest.TempPathFactory
) -> dict[int, str]:
    """Wans of width 256 by their number of blocks."""
    folders = {number: tmp_path_factory.mktemp("wan") for number in (2, 3, 5)}
    for number, folder in folders.items():
        wan = make_wan(attention_head_dim=64, freq_dim=64, ffn_dim=692, num_layers=number)
        wan.save_pretrained(folder / "transformer_2")
    return {number: str(folder) for number, folder in folders.items()}


PLAIN = ["vawan.views=3", "vawan.pose={name='none'}"]
LESS = ["memory.checkpointing=true"]


@pytest.mark.parametrize(
    ("name", "more", "base"),
    [("multiexocon", [], "full"), ("vawan", AC3D, "full"), ("vawan", PLAIN, "fp8")],
)
def test_checkpointing_and_float8_are_counted_within_15_percent_of_real_tensors(
    name: str, more: list[str], base: str, wans: dict[int, str]
) -> None:
    """What a block makes again is measured by what one more block keeps without checkpointing."""
    overrides = ["batch.global_batch=2", "batch.micro_batch=2", *more, *LESS, f"memory.base={base}"]
    experiment = load_experiment(name, overrides)
    assert isinstance(experiment, DiffusionExperiment)

    def real(blocks: int, checkpointing: bool) -> tuple[int, int]:
        model = built(experiment, wans[blocks])
        spare_training_memory(model.wan, experiment.memory)
        if not checkpointing:
            model.wan.disable_gradient_checkpointing()
        frozen = [p for p in model.parameters() if not p.requires_grad]
        weights = sum(p.numel() * p.element_size() for p in frozen)
        return kept_by(model, experiment, SMALL), weights

    kept, frozen = real(5, checkpointing=True)
    again = real(3, checkpointing=False)[0] - real(2, checkpointing=False)[0]
    about = describe(experiment, clip=SMALL, wan_spec=wans[5])
    share = 1e9 * about.activations_gb / (kept + again)
    print(f"{name} {base}: {share:.3f} of {kept} + {again} bytes; frozen {frozen}")
    assert share == pytest.approx(1, rel=0.15)
    assert 1e9 * about.weights_gb == pytest.approx(frozen + 4 * about.trained, rel=1e-9)


def test_checkpointing_runs_the_blocks_a_second_time(described: dict[str, Description]) -> None:
    square = WIDTH * WIDTH
    of_ego = (4 + 2) * square + 2 * WIDTH * FFN + 4 * 2 * 128 * WIDTH
    blocks = 2 * CLIPS * BLOCKS * (of_ego * TOKENS + 2 * square * EXO_TOKENS)
    blocks += 4 * CLIPS * BLOCKS * WIDTH * TOKENS * (TOKENS + EXO_TOKENS)
    again = describe(load_experiment("poseinj", LESS), clip=PAPER, machine=Machine(gpus=2))
    more = again.tflop_a_step - described["poseinj"].tflop_a_step
    assert more == pytest.approx(blocks / 1e12, rel=0.01)
    assert again.weights_gb == described["poseinj"].weights_gb
    # what each block is given, at the least: the hidden state of three clips in bf16
    assert 1e9 * again.activations_gb > BLOCKS * CLIPS * TOKENS * WIDTH * 2
    assert 10 * again.activations_gb < described["poseinj"].activations_gb


def test_float8_halves_what_is_frozen_in_the_blocks() -> None:
    about = describe(load_experiment("poseinj", [*LESS, "memory.base=fp8"]), clip=PAPER)
    plain = describe(load_experiment("poseinj", LESS), clip=PAPER)
    matrices = BLOCKS * (8 * WIDTH * WIDTH + 2 * WIDTH * FFN)
    assert 1e9 * (plain.weights_gb - about.weights_gb) == pytest.approx(matrices, rel=0.001)


def test_float8_is_not_counted_where_training_refuses_it() -> None:
    experiment = load_experiment("multiexocon", [*LESS, "memory.base=fp8"])
    with pytest.raises(MemoryFault, match="attn2"):
        describe(experiment, clip=PAPER)


def test_fsdp_divides_what_two_gpus_hold_and_leaves_two_blocks_whole() -> None:
    whole, parts = (
        describe(load_experiment("poseinj"), clip=PAPER, machine=Machine(gpus=2, parallel=parallel))
        for parallel in ("ddp", "fsdp")
    )
    assert parts.gradients_gb == pytest.approx(whole.gradients_gb / 2)
    assert parts.optimiser_gb == pytest.approx(whole.optimiser_gb / 2)
    two_blocks = 2 * whole.weights_gb / BLOCKS
    assert parts.weights_gb == pytest.approx(whole.weights_gb / 2 + two_blocks, rel=0.02)
    assert (parts.copies_gb, parts.activations_gb) == (whole.copies_gb, whole.activations_gb)


def test_activations_on_the_host_are_not_counted_on_the_gpu() -> None:
    about = describe(load_experiment("poseinj", ["memory.activations=host"]), clip=PAPER)
    assert about.activations_gb == 0


def test_gpus_that_cannot_share_the_batch_are_refused() -> None:
    with pytest.raises(MachineFault, match="3 x 4"):
        describe(load_experiment("poseinj"), clip=PAPER, machine=Machine(gpus=4))
