"""Which clips are meant: a set, a split, by name; and how processes share them."""

import pytest

from exo2ego.evaluation.clip_choice import ClipChoice, chosen_clips
from exo2ego.evaluation.shards import Shard, ShardFault, parse_shard, shard_of_environment
from stores.errors import StoreFault
from stores.reading import Store

TEST_1 = ["cmu_bike02_1-f000000", "cmu_bike02_3-f000000", "nus_covidtest_9-f000000"]
TEST_ALL = ["cmu_bike02_1-f000000", "cmu_bike02_1-f000036", *TEST_1[1:]]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (ClipChoice(), TEST_1),
        (ClipChoice(split="test"), TEST_1),
        (ClipChoice("test-all"), TEST_ALL),
        (ClipChoice("test-all", split="test"), TEST_ALL),
        (ClipChoice("test-all", clip_ids=(TEST_ALL[1],)), [TEST_ALL[1]]),
        (ClipChoice("test-all", limit=2), TEST_ALL[:2]),
    ],
)
def test_a_choice_without_a_set_means_one_clip_a_test_take(
    choice: ClipChoice, expected: list[str], store: Store
):
    assert chosen_clips(store, choice) == expected


def test_another_split_means_all_its_clips(store: Store):
    assert chosen_clips(store, ClipChoice(split="train")) == store.select(split="train")


@pytest.mark.parametrize(
    ("choice", "named"),
    [
        (ClipChoice("test-9"), "test-9"),
        (ClipChoice(split="val"), "val"),
        (ClipChoice("test-1", split="train"), "train"),
        (ClipChoice(clip_ids=(TEST_ALL[1],)), TEST_ALL[1]),
    ],
)
def test_clips_that_are_not_there_are_a_fault(choice: ClipChoice, named: str, store: Store):
    with pytest.raises(StoreFault, match=named):
        chosen_clips(store, choice)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_are_all_clips_each_once(count: int):
    items = list("abcdefg")
    shares = [Shard(number, count).share(items) for number in range(1, count + 1)]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "-1/3", "1/0"])
def test_a_share_that_does_not_exist_is_a_fault(text: str):
    with pytest.raises(ShardFault, match="torchrun"):
        parse_shard(text)


def test_a_process_of_torchrun_knows_its_share():
    assert shard_of_environment({"RANK": "2", "WORLD_SIZE": "4"}) == parse_shard("3/4")
    assert shard_of_environment({"WORLD_SIZE": "4"}) == Shard(1, 1)
