"""Claims about what takes.json and splits.json say of takes: pipeline/takes.py."""

from typing import Any

import pytest

from pipeline.egoexo4d import EgoExo4D


@pytest.mark.parametrize(
    ("name", "category", "by_id", "by_name"),
    [
        ("utokyo_pcr_2001_31_8", "covid", "covid", "unknown"),
        ("nus_covidtest_01_2", "covid", "covid", "covid"),
        ("utokyo_cpr_2005_29_2", "cpr", "cpr", "cpr"),
        ("unc_basketball_03-30-23_02_34", "basketball", "basketball", "basketball"),
        ("georgiatech_Bike_07_10", "bike", "bike", "bike"),
        ("iiith_cooking_58_2", "cooking", "cooking", "unknown"),
    ],
)
def test_categories_by_id_and_as_exo2ego_v_sorts_them(
    root: Any, name: str, category: str, by_id: str, by_name: str
) -> None:
    root.add(name, category=category)
    for rule, expected in (("id", by_id), ("name", by_name)):
        (entry,) = EgoExo4D(root.write(), category_by=rule).takes()
        assert entry.category == expected


def test_a_category_is_asked_for_by_any_of_its_names(root: Any) -> None:
    folder = root.add("utokyo_pcr_2001_31_8", category="covid")
    folder.entry["task_name"] = "Covid-19 Rapid Antigen Test"
    (entry,) = EgoExo4D(root.write()).takes()
    names = ("covid", "2001", "2000", "health", "covid-19-rapid-antigen-test")
    assert all(map(entry.is_of, names))
    assert not any(map(entry.is_of, ("cpr", "2005", "bike", "200", "")))


def test_by_name_the_parent_task_opens_no_other_door(root: Any) -> None:
    root.add("unc_court_1", category="basketball")
    (entry,) = EgoExo4D(root.write(), category_by="name").takes()
    assert not entry.is_of("basketball")
    assert entry.is_of("6000")
