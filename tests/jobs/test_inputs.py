"""Which images a job has, what they become, and whose shard they are."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.formats.planes import PlaneAddress
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


def test_a_zarr_folder_is_one_image(tmp_path):
    touch(tmp_path, "in/a.png", "in/b.ome.zarr/.zattrs", "in/c/zarr.json", "in/plain/d.png")
    touch(tmp_path, "in/e.zarr/0/0.0")
    found = find_inputs([tmp_path / "in"])
    assert [image.relative for image in found] == ["a.png", "b.ome.zarr", "c", "e.zarr"]
    assert [image.stem for image in found] == ["a", "b", "c", "e"]
    assert find_inputs([tmp_path / "in" / "b.ome.zarr"]) == [
        Input(tmp_path / "in" / "b.ome.zarr", "b.ome.zarr")
    ]
    by_glob = find_inputs([tmp_path / "in" / "*.zarr"])
    assert [image.relative for image in by_glob] == ["b.ome.zarr", "e.zarr"]


def test_a_list_stands_for_its_lines(tmp_path, monkeypatch):
    touch(tmp_path, "lists/a.png", "lists/p/b.tif", "lists/p/c.png", "d.png", "@odd.png")
    lines = ["# a comment", "", "a.png", "  p/*.png  ", "missing.png", str(tmp_path / "d.png"), "p"]
    text = "\r\n".join(lines)
    (tmp_path / "lists" / "list.txt").write_text(f"\ufeff{text}", encoding="utf-8")
    found = find_inputs([f"@{tmp_path / 'lists' / 'list.txt'}"])
    lists = tmp_path / "lists"
    assert [image.path for image in found] == [
        lists / "a.png", lists / "p" / "c.png", lists / "missing.png", tmp_path / "d.png",
        lists / "p" / "b.tif",
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert [image.path for image in find_inputs(["./@odd.png"])] == [Path("@odd.png")]
    (first, *_) = find_inputs(["@lists/list.txt", "d.png"])
    assert first.path == Path("lists/a.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot read this list of images; got No such file"), ("# none\n", "no images here")],
    ids=["missing", "empty"],
)
def test_lists_that_are_none(tmp_path, text, message):
    if text is not None:
        (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ConfigError, match=rf"list\.txt: {message}"):
        find_inputs([f"@{tmp_path / 'list.txt'}"])


def planes(path: str, *names: str) -> list[Input]:
    return [
        Input(Path("in") / path, f"{path}/{name}", PlaneAddress("", (), name)) for name in names
    ]


def test_planes_have_names_and_shards_of_their_own():
    images = planes("stack.tif", *(f"z{z:03d}" for z in range(29)))
    tasks = plan_tasks(images, Path("out"), ["tif"], channels=["DAPI", 2])
    assert [task.name for task in tasks] == [f"stack_z{z:03d}" for z in range(29)]
    assert tasks[3].outputs == {"tif": Path("out/stack_z003_labels.tif")}
    assert {task.channels for task in tasks} == {("DAPI", 2)}
    assert [task.plane for task in tasks] == [image.plane for image in images]
    parts = [plan_tasks(images, Path("out"), ["tif"], Shard(i, 3)) for i in (1, 2, 3)]
    held = [task.name for part in parts for task in part]
    assert sorted(held) == [task.name for task in tasks]
    assert all(len(part) > 3 for part in parts)


def test_a_file_named_as_a_plane_is_refused():
    with pytest.raises(ConfigError, match=r"would write the same files; got in/a\.tif and in/a_z1"):
        plan_tasks([*planes("a.tif", "z1"), *inputs("a_z1.tif")], Path("out"), ["tif"])


def test_an_output_never_replaces_an_image(tmp_path):
    touch(tmp_path, "a.ome.zarr/.zattrs", "b.png")
    found = find_inputs([tmp_path])
    with pytest.raises(ConfigError, match=r"a\.ome\.zarr: an output would replace an image"):
        plan_tasks(found, tmp_path, ["zarr"])
    assert [task.name for task in plan_tasks(found, tmp_path, ["tif"])] == ["a", "b"]
    assert [task.name for task in plan_tasks(found, tmp_path / "out", ["zarr"])] == ["a", "b"]


def test_zarr_results_beside_the_images_are_no_images(tmp_path):
    touch(tmp_path, "a.png", "a.ome.zarr/.zattrs")
    tasks = plan_tasks(find_inputs([tmp_path]), tmp_path, ["zarr"])
    assert [task.source.name for task in tasks] == ["a.png"]


def test_what_an_error_calls_a_plane():
    (task,) = plan_tasks(planes("a.tif", "z003"), Path("out"), ["tif"])
    assert task.where == "in/a.tif"
    plane = PlaneAddress("1", (("Z", 3),), "s001_z003")
    (task,) = plan_tasks([Input(Path("in/a.tif"), "a.tif/x", plane)], Path("out"), ["tif"])
    assert task.where == "in/a.tif (image 1, z 3)"
