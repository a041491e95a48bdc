"""The bias probe: stock Wan unchanged, the bias of what it makes, bad input told."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.wan.pipeline_wan_i2v import WanImageToVideoPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cli import app
from exo2ego.evaluation.bias.contact_sheet import NOT_EGO, SheetRow, video_row, write_sheet
from exo2ego.evaluation.bias.probe import open_bias, probe_bias
from exo2ego.evaluation.bias.prompts import Prompts, PromptsFault, read_prompts
from exo2ego.evaluation.bias.report import BiasReport, VideoBias, family_bias, measure_video
from exo2ego.evaluation.bias.tiny_stock import tiny_stock
from exo2ego.evaluation.clip_choice import ClipChoice
from exo2ego.evaluation.evaluate import evaluate
from exo2ego.evaluation.film_generator import noise_seed
from exo2ego.evaluation.manifest import SamplesFault, read_manifest
from exo2ego.evaluation.scene import SceneFault
from exo2ego.model.pretrained import WeightsFault
from stores.errors import StoreFault
from stores.progress import Item, silent
from stores.reading import Store

PROMPTS = Prompts(general=("a person",), ego=("a bike", "first view"), negative="the bike")
CLIP = "cmu_bike02_1-f000000"
ONE = ClipChoice(clip_ids=(CLIP,))


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the whole pipeline, every part small and of the real class."""
    folder = tmp_path_factory.mktemp("stock") / "wan"
    tiny_stock().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def no_trunk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This machine's own AlexNet, if it has one, is not looked at."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def probed(store: Store, stock: Path, out: Path, **told: object) -> BiasReport:
    how = {"prompts": PROMPTS, "clips": ONE, "steps": 3} | told
    return probe_bias(store, str(stock), out, **how)


def frames_of(out: Path, prompt: str, clip_id: str = CLIP) -> torch.Tensor:
    return load_file(out / prompt / f"{clip_id}.safetensors")["frames"]


def test_the_tiny_one_is_the_same_every_time_and_as_it_is_read_from_its_folder(
    store: Store, stock: Path, tmp_path: Path
):
    probed(store, stock, tmp_path / "a")
    told = {"prompts": PROMPTS, "clips": ONE, "steps": 3}
    probe_bias(store, "tiny", tmp_path / "b", **told)
    for prompt in ("general-1", "ego-1"):
        assert torch.equal(frames_of(tmp_path / "a", prompt), frames_of(tmp_path / "b", prompt))
    probe = open_bias(store, "tiny", tmp_path / "a", **told)  # the same weights: it goes on there
    assert probe.plan().videos_done == 3


def changed(stock: Path, tmp_path: Path, expert: str, by: float = 0.5) -> Path:
    """A copy in which one expert's output is another one."""
    copy = shutil.copytree(stock, tmp_path / f"other-{expert}")
    path = copy / expert / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["proj_out.bias"] = weights["proj_out.bias"] + by
    save_file(weights, path, metadata={"format": "pt"})
    return copy


def test_videos_are_those_of_diffusers_pipeline_for_prompt_exo_frame_and_the_clips_noise(
    store: Store, stock: Path, tmp_path: Path
):
    probed(store, stock, tmp_path, view=1)
    pipeline = WanImageToVideoPipeline.from_pretrained(stock)
    pipeline.set_progress_bar_config(disable=True)
    drawn = torch.Generator().manual_seed(noise_seed(0, CLIP))
    frame = store.read("exo_frames", [CLIP])[0, 1, 0]
    video = pipeline(
        image=Image.fromarray(frame),
        prompt="a bike",
        negative_prompt="the bike",
        height=32,
        width=48,
        num_frames=5,
        num_inference_steps=3,
        guidance_scale=3.5,
        latents=torch.randn(1, 16, 2, 4, 6, generator=drawn),
    ).frames[0]
    expected = torch.from_numpy((video * 255).round().astype(np.uint8))
    assert (frames_of(tmp_path, "ego-1").int() - expected.int()).abs().max() <= 1
    assert not torch.equal(frames_of(tmp_path, "ego-1"), frames_of(tmp_path, "general-1"))


@pytest.mark.parametrize("expert", ["transformer", "transformer_2"])
def test_both_experts_make_the_video_and_are_told_apart(
    store: Store, stock: Path, tmp_path: Path, expert: str
):
    probed(store, stock, tmp_path / "a")
    other = changed(stock, tmp_path, expert)
    probed(store, other, tmp_path / "b")
    assert not torch.equal(frames_of(tmp_path / "a", "ego-1"), frames_of(tmp_path / "b", "ego-1"))
    with pytest.raises(SamplesFault, match="baseline"):
        probed(store, other, tmp_path / "a")


def test_a_video_of_nan_is_a_fault(store: Store, stock: Path, tmp_path: Path):
    broken = changed(stock, tmp_path, "transformer_2", by=torch.nan)
    with pytest.raises(SamplesFault, match=CLIP):
        probed(store, broken, tmp_path / "out")


def test_a_given_frame_has_bias_1_and_the_truth_minus_1(store: Store):
    exo = torch.from_numpy(store.read("exo_frames", [CLIP])[0, 0, 0])
    truth = torch.from_numpy(store.read("ego_frames", [CLIP])[0])
    frozen = exo.expand(5, -1, -1, -1)
    assert measure_video(frozen, truth, exo, None).model_dump() == {
        "view_bias": "not measured",
        "view_bias_pixels": 1.0,
        "last_view_bias": "not measured",
        "last_view_bias_pixels": 1.0,
    }
    turned = torch.cat([exo[None], truth[1:]])
    found = measure_video(turned, truth, exo, None)
    assert (found.view_bias_pixels, found.last_view_bias_pixels) == (1.0, -1.0)


def test_a_family_is_the_mean_over_takes_not_over_videos():
    def video(take: str, bias: float) -> VideoBias:
        return VideoBias(
            clip_id=f"{take}-f0",
            take_name=take,
            family="ego",
            prompt="ego-1",
            view_bias="not measured",
            view_bias_pixels=bias,
            last_view_bias="not measured",
            last_view_bias_pixels=-bias,
        )

    found = family_bias("ego", [video("a", 0.0), video("a", 0.5), video("b", 1.0)])
    assert (found.videos, found.view_bias) == (3, "not measured")
    assert found.view_bias_pixels == pytest.approx((0.25 + 1.0) / 2)
    interval = found.intervals["view_bias_pixels"]
    assert (interval.takes, interval.low, interval.high) == (2, 0.25, 1.0)


def test_the_report_has_every_video_of_both_families_and_a_sheet(
    store: Store, stock: Path, tmp_path: Path
):
    report = probed(store, stock, tmp_path, clips=ClipChoice())
    clips = store.select(evaluation_set="test-1")
    assert [(v.clip_id, v.prompt) for v in report.videos] == [
        (clip, prompt) for clip in clips for prompt in ("general-1", "ego-1", "ego-2")
    ]
    assert report.families["ego"].videos == 2 * len(clips)
    for video in report.videos:
        exo = torch.from_numpy(store.read("exo_frames", [video.clip_id])[0, 0, 0])
        truth = torch.from_numpy(store.read("ego_frames", [video.clip_id])[0])
        frames = frames_of(tmp_path, video.prompt, video.clip_id)
        expected = measure_video(frames, truth, exo, None).model_dump()
        assert video.model_dump(include=set(expected)) == expected
    written = json.loads((tmp_path / "bias.json").read_text())
    assert BiasReport.model_validate(written) == report
    assert written["provenance"]["wan"]["boundary_ratio"] == 0.9
    assert written["provenance"]["sampler"] == {"steps": 3, "shift": 3.0, "guidance": 3.5}
    with Image.open(tmp_path / "bias.png") as sheet:
        assert sheet.width == 5 * 48


def test_each_prompts_folder_is_scored_like_any_samples(store: Store, stock: Path, tmp_path: Path):
    probed(store, stock, tmp_path)
    folder = tmp_path / "ego-2"
    scores = evaluate(store, folder, clips=ClipChoice("test-1"))
    assert list(scores.clips) == [CLIP]
    assert len(scores.missing) == 2
    baseline = read_manifest(folder).settings.baseline
    assert baseline is not None
    assert (baseline["name"], baseline["prompt"]) == ("stock-wan", "first view")


def test_a_probe_goes_on_where_it_was_stopped(store: Store, stock: Path, tmp_path: Path):
    told = {"prompts": PROMPTS, "clips": ClipChoice(), "steps": 1}
    probe = open_bias(store, str(stock), tmp_path, **told)
    probe.samples(PROMPTS.all[0]).fill(silent)
    before = (tmp_path / "general-1" / f"{CLIP}.safetensors").stat().st_mtime_ns
    plan = probe.plan()
    assert (plan.videos, plan.videos_done) == (9, 3)
    seen = []

    def counted(items: Iterable[Item], /, *, total: int, what: str, unit: str) -> Iterator[Item]:
        seen.append((what, total))
        yield from items

    probe.run(counted)
    assert seen == [("sample", 3), ("sample", 3), ("view bias", 9)]
    assert (tmp_path / "general-1" / f"{CLIP}.safetensors").stat().st_mtime_ns == before


def test_a_folder_of_other_prompts_is_refused(store: Store, stock: Path, tmp_path: Path):
    probed(store, stock, tmp_path)
    for other in ({"general": ("a bike",)}, {"negative": "a view"}):
        with pytest.raises(SamplesFault, match="baseline"):
            probed(store, stock, tmp_path, prompts=PROMPTS.model_copy(update=other))


def test_a_plan_writes_nothing(store: Store, stock: Path, tmp_path: Path):
    out = tmp_path / "out"
    plan = open_bias(store, str(stock), out, prompts=PROMPTS, clips=ONE, steps=1).plan()
    assert (plan.videos, plan.videos_done) == (3, 0)
    assert not out.exists()


def without(part: str) -> Callable[[dict[str, object]], dict[str, object]]:
    return lambda index: index | {part: [None, None]}


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (without("transformer_2"), "no transformer_2"),
        (without("text_encoder"), "no text_encoder"),
        (lambda index: index | {"boundary_ratio": None}, "boundary_ratio"),
        (lambda index: index | {"_class_name": "WanPipeline"}, "a pipeline WanPipeline"),
    ],
)
def test_a_pipeline_that_is_not_all_of_wan22_is_refused_before_it_is_loaded(
    store: Store,
    stock: Path,
    tmp_path: Path,
    change: Callable[[dict[str, object]], dict[str, object]],
    got: str,
):
    folder = tmp_path / "wan"
    folder.mkdir()
    index = json.loads((stock / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(change(index)))
    with pytest.raises(WeightsFault, match=got):
        probed(store, folder, tmp_path / "out")


def test_a_folder_without_a_pipeline_and_one_with_a_part_missing_are_refused(
    store: Store, stock: Path, tmp_path: Path
):
    with pytest.raises(WeightsFault, match=r"model_index\.json"):
        probed(store, stock / "vae", tmp_path / "out")
    copy = shutil.copytree(stock, tmp_path / "copy")
    config = copy / "transformer" / "config.json"
    whole = config.read_text()
    config.write_text(json.dumps(json.loads(whole) | {"in_channels": 16}))
    with pytest.raises(WeightsFault, match="16 input channels"):
        probed(store, copy, tmp_path / "out")
    config.write_text(whole)
    (copy / "transformer_2" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(WeightsFault, match="transformer_2"):
        probed(store, copy, tmp_path / "out")


def test_a_view_that_is_not_there_and_clips_without_pictures_are_faults(
    store: Store, stock: Path, tmp_path: Path
):
    with pytest.raises(SceneFault, match="3"):
        probed(store, stock, tmp_path, view=3)
    with pytest.raises(StoreFault, match="exo_frames"):
        probed(store, stock, tmp_path, clips=ClipChoice(split="train"))


def test_the_shipped_prompts_have_both_families_and_one_file_of_ones_own_is_read(tmp_path: Path):
    shipped = read_prompts()
    assert {prompt.family for prompt in shipped.all} == {"general", "ego"}
    assert all("first-person" in t.lower() or "ego" in t.lower() for t in shipped.ego)
    path = tmp_path / "prompts.toml"
    path.write_text('general = ["a"]\nego = ["b", "c"]\nnegative = "d"')
    assert read_prompts(path) == Prompts(general=("a",), ego=("b", "c"), negative="d")
    assert [prompt.name for prompt in read_prompts(path).all] == ["general-1", "ego-1", "ego-2"]


@pytest.mark.parametrize(
    "text",
    ['general = ["a"]', 'general = []\nego = ["b"]', "ego = [", 'ego = [" "]\ngeneral = ["a"]'],
)
def test_prompts_that_are_not_two_families_are_a_fault(text: str, tmp_path: Path):
    path = tmp_path / "prompts.toml"
    path.write_text(text)
    with pytest.raises(PromptsFault, match="two families"):
        read_prompts(path)
    with pytest.raises(PromptsFault, match="two families"):
        read_prompts(tmp_path / "absent.toml")


def test_a_sheet_shows_its_pictures_and_frames_in_red_those_that_are_marked(tmp_path: Path):
    pictures = [np.full((32, 48, 3), level, np.uint8) for level in (40, 80, 120)]
    row = SheetRow(["a line " * 30], pictures, ["a", "b", "c"], [False, True, False])
    write_sheet(tmp_path / "sheet.png", [row, row])
    with Image.open(tmp_path / "sheet.png") as opened:
        sheet = np.asarray(opened)
    assert sheet.shape[1] == 3 * 48
    bottom = sheet[-32:]
    for number, level in enumerate((40, 80, 120)):
        assert (bottom[8:24, 48 * number + 8 : 48 * number + 40] == level).all()
    assert (bottom[0, 48:96] == NOT_EGO).all()
    assert (bottom[0, :48] == 40).all()


def test_the_command_prints_families_and_with_json_the_whole_report(
    store: Store, store_path: Path, stock: Path, tmp_path: Path
):
    prompts = tmp_path / "prompts.toml"
    prompts.write_text('general = ["a person"]\nego = ["first view"]')
    words = ["bias", "--store", store_path, "--wan", stock, "--out", tmp_path / "out"]
    words += ["--prompts", prompts, "--clip", CLIP, "--steps", 1, "--device", "cpu"]
    words = [str(word) for word in words]
    plan = CliRunner().invoke(app, [*words, "--dry-run", "--json"], catch_exceptions=False)
    assert json.loads(plan.stdout)["videos"] == 2
    assert not (tmp_path / "out").exists()
    told = CliRunner().invoke(app, words, catch_exceptions=False)
    assert told.exit_code == 0, told.stderr
    assert "general" in told.stdout and "not measured" in told.stdout
    again = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert json.loads(again.stdout) == json.loads((tmp_path / "out" / "bias.json").read_text())
    wrong = CliRunner().invoke(app, [*words, "--wan", str(tmp_path)], catch_exceptions=False)
    assert wrong.exit_code == 2
    assert "fix:" in wrong.stderr and "Traceback" not in wrong.stderr


def test_a_row_of_the_sheet_shows_and_marks_what_it_says():
    exo, truth, *frames = (np.full((16, 24, 3), level, np.uint8) for level in range(11))
    row = video_row("a line", exo, truth, np.stack(frames), (0.25, -0.5))
    assert [int(picture[0, 0, 0]) for picture in row.pictures] == [0, 1, 2, 6, 10]
    assert row.marked == [False, False, True, False, False]
    assert row.captions[2:] == ["frame 0, bias +0.25", "frame 4", "frame 8, bias -0.50"]
