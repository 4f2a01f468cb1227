"""Which images a job has, what they become, and whose shard they are."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.jobs.inputs import Input, Shard, find_inputs, parse_shard, plan_tasks


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def test_images_are_named_from_the_input_down(tmp_path):
    touch(tmp_path, "in/a.png", "in/p1/b.tif", "in/p1/c.PNG", "in/p1/note.txt")
    for given, expected in (
        (tmp_path / "in", ["a.png"]),
        (tmp_path / "in" / "*.png", ["a.png"]),
        (tmp_path / "in" / "p1" / "b.tif", ["b.tif"]),
        (tmp_path / "in" / "**" / "*", ["a.png", "p1/b.tif", "p1/c.PNG"]),
        (tmp_path / "in" / "p[1]" / "*", ["p1/b.tif", "p1/c.PNG"]),
    ):
        assert [image.relative for image in find_inputs([given])] == expected


def inputs(*names: str) -> list[Input]:
    return [Input(Path("in") / name, name) for name in names]


def test_shards_hold_each_image_once_and_added_images_move_no_other():
    names = [f"well{i}.tif" for i in range(101)]
    few = {
        name: shard.index
        for shard in (Shard(i, 3) for i in (1, 2, 3))
        for name in names[:50]
        if shard.holds(name)
    }
    assert set(few) == set(names[:50])
    for i in (1, 2, 3):
        planned = plan_tasks(inputs(*names), Path("out"), ["tif"], Shard(i, 3))
        held = {task.source.name for task in planned}
        assert {name for name in names[:50] if name in held} == {
            name for name, index in few.items() if index == i
        }
        assert 20 < len(held) < 50  # and of a like size


def test_the_shard_of_a_name_never_changes():
    # Computed here from the words of the documentation.
    number = int(hashlib.sha256("p1/é.png".encode()).hexdigest()[:16], 16)
    assert Shard(number % 7 + 1, 7).holds("p1/é.png")
    assert Shard(3, 4).part == "-3of4"


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/2", "1/0", "-1/2", "1/2/3", ""])
def test_what_is_no_shard(text):
    with pytest.raises(ConfigError, match="--shard: not a shard"):
        parse_shard(text)


def test_one_shard():
    assert parse_shard("2/4") == Shard(2, 4)
    assert str(parse_shard("2/4")) == "2/4"


def test_names_that_clash_are_refused_whatever_their_shard():
    for i in (1, 2, 3):
        with pytest.raises(ConfigError, match="would write the same files"):
            plan_tasks(inputs("a.png", "a.tif"), Path("out"), ["tif"], Shard(i, 3))


def test_results_beside_the_images_are_no_images(tmp_path):
    touch(tmp_path, "a.png", "a_labels.tif", "b_labels.tif")
    tasks = plan_tasks(find_inputs([tmp_path]), tmp_path, ["tif"])
    assert [task.name for task in tasks] == ["a", "b_labels"]
    elsewhere = plan_tasks(find_inputs([tmp_path]), tmp_path / "out", ["tif"])
    assert [task.name for task in elsewhere] == ["a", "a_labels", "b_labels"]
