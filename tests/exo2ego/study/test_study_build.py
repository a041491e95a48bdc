"""Building a study: blinded in every trace, whole or not there, and refused where it cannot be."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from exo2ego.evaluation.manifest import MANIFEST, SamplesFault
from exo2ego.evaluation.study.build import build
from exo2ego.evaluation.study.choosing import choose_clips
from exo2ego.evaluation.study.folder import STUDY, VIDEOS, StudyFault, read_study, read_videos
from exo2ego.evaluation.study.key import KEY, read_key
from stores.errors import UserFault
from stores.reading import Store

Build = Callable[..., object]


@pytest.fixture
def own(methods: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Copies of the samples that a test may damage."""
    return {
        name: Path(shutil.copytree(path, tmp_path / "own" / name)) for name, path in methods.items()
    }


def frames_in(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_each_video_is_what_the_key_says(built: Path, methods: dict[str, Path], study_store: Store):
    study = read_study(built)
    key = read_key(built, study)
    for sample in study.samples:
        entry = key.entries[sample.id]
        truth = study_store.read("ego_frames", [entry.clip_id])[0]
        ours = load_file(methods["ours"] / f"{entry.clip_id}.safetensors")["frames"]
        shown = {
            name: frames_in(built / VIDEOS / f"{name}.mp4").astype(int)
            for name in (sample.reference, entry.ours, entry.baseline)
        }
        assert shown[sample.reference].shape == truth.shape
        assert np.abs(shown[sample.reference] - truth).mean() < 4
        assert np.abs(shown[entry.ours] - ours).mean() < 5
        assert np.abs(shown[entry.baseline] - truth).mean() > 20
        assert set(sample.candidates) == {entry.ours, entry.baseline}


def test_every_category_has_the_same_number_of_samples(built: Path):
    entries = read_key(built, read_study(built)).entries.values()
    categories = [entry.category for entry in entries]
    assert sorted(categories) == ["Bike"] * 3 + ["Covid Test"] * 3
    assert len({entry.clip_id for entry in entries}) == 6


def test_files_tell_no_method_from_another(built: Path):
    paths = sorted((built / VIDEOS).iterdir())
    stats = [path.stat() for path in paths]
    assert len(paths) == 18
    assert len({(stat.st_size, stat.st_mtime, stat.st_mode) for stat in stats}) == 1
    assert all(len(path.stem) == 32 and int(path.stem, 16) >= 0 for path in paths)
    samples = read_study(built).samples
    assert [sample.id for sample in samples] == sorted(sample.id for sample in samples)


def test_what_the_server_reads_does_not_name_clips_or_methods(built: Path):
    text = (built / STUDY).read_text()
    key = read_key(built, read_study(built))
    words = ["ours", "baseline", "Bike", "Covid", key.ours.folder, key.store_hash]
    assert not [word for word in words if word in text]
    assert not [entry.clip_id for entry in key.entries.values() if entry.clip_id in text]
    assert (built / KEY).stat().st_mode & 0o077 == 0


def test_neither_name_nor_place_among_candidates_depends_on_the_method(
    study_store: Store, methods: dict[str, Path], tmp_path: Path
):
    first = []
    for n in range(6):
        out = tmp_path / f"study{n}"
        build(methods["ours"], methods["baseline"], study_store, out, per_category=3)
        study = read_study(out)
        key = read_key(out, study)
        first += [sample.candidates[0] == key.entries[sample.id].ours for sample in study.samples]
    assert 6 <= sum(first) <= 30  # of 36: outside by chance once in 100,000 times


def test_the_same_seed_chooses_the_same_clips_and_nothing_else_repeats(
    study_store: Store, methods: dict[str, Path], built: Path, tmp_path: Path
):
    out = tmp_path / "again"
    build(methods["ours"], methods["baseline"], study_store, out, per_category=3)
    one, two = read_study(built), read_study(out)
    clips = [
        {entry.clip_id for entry in read_key(where, study).entries.values()}
        for where, study in ((built, one), (out, two))
    ]
    assert clips[0] == clips[1]
    assert not one.digests.keys() & two.digests.keys()
    assert not {s.id for s in one.samples} & {s.id for s in two.samples}


def test_another_seed_chooses_other_clips():
    category_of = {f"clip{n}": "Bike" for n in range(40)}
    chosen = [choose_clips(category_of, 10, seed) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_clips_that_one_method_lacks_are_named_or_left_out_if_asked(
    study_store: Store, own: dict[str, Path], tmp_path: Path
):
    manifest = json.loads((own["baseline"] / MANIFEST).read_text())
    del manifest["clips"]["bike0-f000000"]
    (own["baseline"] / MANIFEST).write_text(json.dumps(manifest))
    out = tmp_path / "study"
    with pytest.raises(StudyFault, match=r"(?s)only ours: 1 \(bike0-f000000\).*--intersect"):
        build(own["ours"], own["baseline"], study_store, out, per_category=3)
    report = build(own["ours"], own["baseline"], study_store, out, per_category=3, intersect=True)
    assert (report.left_out, report.categories) == (1, {"Bike": 3, "Covid Test": 3})


def test_a_category_with_too_few_clips_is_refused(
    study_store: Store, methods: dict[str, Path], tmp_path: Path
):
    with pytest.raises(StudyFault, match="Bike 4, Covid Test 3"):
        build(methods["ours"], methods["baseline"], study_store, tmp_path / "s", per_category=4)


def test_a_method_is_not_compared_with_itself(
    study_store: Store, methods: dict[str, Path], tmp_path: Path
):
    with pytest.raises(StudyFault, match="the same method"):
        build(methods["ours"], methods["ours"], study_store, tmp_path / "study")


def test_samples_of_another_store_are_refused(
    study_store: Store, own: dict[str, Path], tmp_path: Path
):
    manifest = json.loads((own["baseline"] / MANIFEST).read_text())
    manifest["settings"]["store_hash"] = "9c07" * 16
    (own["baseline"] / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(StudyFault, match="another store"):
        build(own["ours"], own["baseline"], study_store, tmp_path / "study")


def test_samples_of_another_camera_path_are_refused_as_they_have_no_reference(
    study_store: Store, own: dict[str, Path], tmp_path: Path
):
    manifest = json.loads((own["ours"] / MANIFEST).read_text())
    identity = [[float(i == k) for k in range(4)] for i in range(4)]
    manifest["settings"]["camera"] = {"relative_to": "first", "poses": [identity]}
    (own["ours"] / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(SamplesFault, match="no truth"):
        build(own["ours"], own["baseline"], study_store, tmp_path / "study")


def test_a_folder_without_samples_is_refused(
    study_store: Store, methods: dict[str, Path], tmp_path: Path
):
    with pytest.raises(SamplesFault):
        build(methods["ours"], tmp_path, study_store, tmp_path / "study")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("gone", "FileNotFoundError"),
        ("cut", "SafetensorError"),
        ("nan", "15 values of which are NaN"),
        ("grey", "uint8"),
        ("size", "differ in frames, height or width"),
    ],
)
def test_videos_that_cannot_be_shown_are_refused_and_leave_no_study(
    damage: str, says: str, study_store: Store, own: dict[str, Path], tmp_path: Path
):
    path = own["baseline"] / "covi1-f000000.safetensors"
    frames = load_file(path)["frames"]
    spoilt = frames.astype(np.float32)
    spoilt[0, 0, :5] = np.nan
    damages = {
        "gone": path.unlink,
        "cut": lambda: path.write_bytes(path.read_bytes()[:50]),
        "nan": lambda: save_file({"frames": spoilt}, path),
        "grey": lambda: save_file({"frames": frames[..., 0]}, path),
        "size": lambda: save_file({"frames": frames[:, ::2].copy()}, path),
    }
    damages[damage]()
    with pytest.raises(UserFault, match=says) as fault:
        build(own["ours"], own["baseline"], study_store, tmp_path / "study", per_category=3)
    assert "covi1-f000000" in str(fault.value)
    assert not (tmp_path / "study").exists()


def test_a_study_is_never_built_over_another_but_over_a_stopped_build(
    study_store: Store, methods: dict[str, Path], folder: Path, tmp_path: Path
):
    both = (methods["ours"], methods["baseline"], study_store)
    before = (folder / KEY).read_bytes()
    with pytest.raises(StudyFault, match="a study"):
        build(*both, folder, per_category=1)
    assert (folder / KEY).read_bytes() == before

    def stops(items, /, **_):
        yield next(iter(items))
        raise KeyboardInterrupt

    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        build(*both, out, per_category=1, track=stops)
    assert not out.exists()
    assert build(*both, out, per_category=1).samples == 2
    assert len(read_videos(out, read_study(out))) == 6


def test_a_key_or_a_video_from_elsewhere_is_refused(folder: Path, built: Path):
    study = read_study(folder)
    key = json.loads((folder / KEY).read_text())
    (folder / KEY).write_text(json.dumps(key | {"study_id": "0" * 32}))
    with pytest.raises(StudyFault, match="another study"):
        read_key(folder, study)
    paths = sorted((folder / VIDEOS).iterdir())
    paths[0].write_bytes(paths[1].read_bytes())
    paths[2].unlink()
    with pytest.raises(StudyFault, match=r"2 others: .*altered.*missing"):
        read_videos(folder, study)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 0}', '{"format": 1, "more": 2}'])
def test_what_is_no_study_is_refused(text: str, folder: Path):
    (folder / STUDY).write_text(text)
    with pytest.raises(StudyFault, match="exo2ego study build"):
        read_study(folder)
