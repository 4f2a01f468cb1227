from __future__ import annotations

import itertools

import numpy as np
import pyarrow
import pytest
from label_scenes import EMPTY, LARGE, SMALL
from pyarrow import parquet

from cellseg1_rt.errors import InputError, MissingExtraError
from cellseg1_rt.formats import JobTable, measure_cells, table_from_cells, write_cells_parquet
from cellseg1_rt.results import Cells

GREY, RGB = "uint16 grey", "uint8 RGB"


def table_of(labels, kind=GREY, pixel_size=None):
    count = int(labels.max())
    rng = np.random.default_rng(count)
    cells = Cells(
        label=np.arange(1, count + 1, dtype=np.int32),
        area_px=np.bincount(labels.ravel(), minlength=count + 1)[1:],
        box_xyxy=rng.integers(0, 99, (count, 4), dtype=np.int32),
        centroid_xy=rng.random((count, 2)),
        score=rng.random(count, np.float32),
        stability=rng.random(count, np.float32),
        point_xy=rng.random((count, 2), np.float32),
    )
    if kind == GREY:
        pixels = rng.integers(0, 65_536, labels.shape, np.uint16)
    else:
        pixels = rng.integers(0, 256, (*labels.shape, 3), np.uint8)
    return table_from_cells(cells, pixel_size, measure_cells(labels, pixels, pixel_size))


@pytest.mark.parametrize("labels", [EMPTY, LARGE["blobs"]], ids=["no_cells", "cells"])
def test_the_table_of_an_image_comes_back(tmp_path, labels):
    table = table_of(labels, pixel_size=(0.5, 0.25))
    write_cells_parquet(tmp_path / "a.parquet", table)
    found = parquet.read_table(tmp_path / "a.parquet")
    assert found.column_names == list(table)
    for name, values in table.items():
        np.testing.assert_array_equal(found[name].to_numpy(), values)
    assert found.schema.field("label").type == pyarrow.int32()
    assert found.schema.field("max_0").type == pyarrow.float64()
    write_cells_parquet(tmp_path / "b.parquet", table)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


IMAGES = {
    "b.png": table_of(LARGE["blobs"], RGB),
    "a.png": table_of(SMALL["touching"], GREY, (0.5, 0.25)),
    "c/a.png": table_of(EMPTY, GREY),
    "é.tif": table_of(SMALL["comb"], GREY),
}


def write_job(folder, names):
    job = JobTable(folder / "cells.parquet")
    for name in names:
        part = folder / f"part_{list(IMAGES).index(name)}.parquet"
        write_cells_parquet(part, IMAGES[name])
        job.add(name, part)
    job.close()
    return folder / "cells.parquet"


def plain_rows():
    """What a reader should see: one dictionary a row."""
    return [
        {"image": name} | {column: values[i].item() for column, values in IMAGES[name].items()}
        for name in sorted(IMAGES)
        for i in range(len(IMAGES[name]["label"]))
    ]


def test_the_table_of_a_job_holds_every_row_once(tmp_path):
    found = parquet.read_table(write_job(tmp_path, IMAGES))
    columns = set(itertools.chain(*(IMAGES.values()))) | {"image"}
    assert found.column_names[0] == "image"
    assert set(found.column_names) == columns
    assert found.to_pylist() == [
        {name: row.get(name) for name in found.column_names} for row in plain_rows()
    ]


def test_the_order_of_images_does_not_matter(tmp_path):
    first = write_job(tmp_path, IMAGES).read_bytes()
    for names in itertools.permutations(IMAGES):
        assert write_job(tmp_path, names).read_bytes() == first


@pytest.mark.parametrize("rows", [1, 2, 7, 19, 1000])
def test_row_groups_are_bounded_and_change_no_row(tmp_path, monkeypatch, rows):
    monkeypatch.setattr("cellseg1_rt.formats.parquet._ROWS_IN_MEMORY", rows)
    path = write_job(tmp_path, IMAGES)
    file = parquet.ParquetFile(path)
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert max(sizes) <= rows
    assert [row["image"] for row in file.read().to_pylist()] == [r["image"] for r in plain_rows()]


def test_a_job_without_images_is_a_table_without_rows(tmp_path):
    job = JobTable(tmp_path / "cells.parquet")
    job.close()
    found = parquet.read_table(tmp_path / "cells.parquet")
    assert (found.num_rows, found.column_names) == (0, ["image"])


def test_two_tables_for_one_image_are_refused(tmp_path):
    job = JobTable(tmp_path / "cells.parquet")
    write_cells_parquet(tmp_path / "1", IMAGES["a.png"])
    job.add("a.png", tmp_path / "1")
    with pytest.raises(InputError, match=r"a\.png: two tables for one image; got .*1 and .*2; exp"):
        job.add("a.png", tmp_path / "2")


@pytest.mark.parametrize("kind", ["gone", "cut_off", "damaged"])
def test_a_table_that_cannot_be_read_is_named(tmp_path, kind):
    path = tmp_path / "part.parquet"
    write_cells_parquet(path, IMAGES["a.png"])
    job = JobTable(tmp_path / "cells.parquet")
    job.add("a.png", path)
    if kind == "gone":
        path.unlink()
    elif kind == "cut_off":
        path.write_bytes(path.read_bytes()[:99])
    else:
        data = bytearray(path.read_bytes())
        data[4:200] = bytes(196)
        path.write_bytes(data)
    with pytest.raises(InputError, match=r"part\.parquet: a table that cannot be read; got"):
        job.close()
    assert [each.name for each in tmp_path.iterdir()] == ([] if kind == "gone" else [path.name])


def test_what_is_missing_is_told_with_its_install_line(tmp_path, monkeypatch):
    monkeypatch.setattr("cellseg1_rt.extras.find_spec", lambda name: None)
    line = r"needs the package 'pyarrow', which is not installed\. Fix: pip install .*\[tables\]"
    with pytest.raises(MissingExtraError, match=line):
        write_cells_parquet(tmp_path / "a.parquet", {})
    with pytest.raises(MissingExtraError, match=line):
        JobTable(tmp_path / "cells.parquet")
