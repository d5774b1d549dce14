"""The metrics CSV: replaced whole, and read as far as it can be trusted after an editor, a spreadsheet or a crash."""

import csv

import pytest

from imginav_jax.runs import metrics_csv
from imginav_jax.system.errors import UserError

TEXT = "epoch,step,val_MSE_rgb,device\n1,6,0.5,1 cpu\n2,12,0.25,1 cpu\n"
ROWS = [
    {"epoch": "1", "step": "6", "val_MSE_rgb": "0.5", "device": "1 cpu"},
    {"epoch": "2", "step": "12", "val_MSE_rgb": "0.25", "device": "1 cpu"},
]


def read(path, content):
    path.write_bytes(content)
    return metrics_csv.read(path)


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode("utf-8-sig"),
        TEXT.replace("\n", "\r\n").encode(),
        f"{TEXT}\n\r\n,,,\n".encode(),
        f"\n{TEXT}".encode(),
        TEXT.replace(",", ";").encode(),
        TEXT.encode("utf-16"),
        TEXT.replace("1 cpu", '"1 cpu"').encode(),
    ],
)
def test_what_an_editor_leaves_is_read(tmp_path, content):
    assert read(tmp_path / "a.csv", content) == (ROWS, [])


def test_damage_costs_its_line_alone(tmp_path):
    assert read(tmp_path / "a.csv", TEXT[:-3].encode()) == (ROWS[:1], [3])
    assert read(tmp_path / "a.csv", f"{TEXT}3,18,0.1".encode() + bytes(40)) == (ROWS, [4])
    assert read(tmp_path / "a.csv", TEXT.replace("1,6", '"1,6').encode()) == (ROWS[1:], [2])
    assert read(tmp_path / "a.csv", TEXT.encode().replace(b"1 cpu\n2", b"\xff cpu\n2")) == (ROWS[1:], [2])


def test_a_column_that_stands_twice_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.csv has the column step 2 times"):
        read(tmp_path / "a.csv", TEXT.replace("device", "step").encode())


def test_the_csv_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "metrics.csv"
    for last in (3, 2):
        metrics_csv.write_rows(path, [{"epoch": epoch, "loss": 1 / epoch} for epoch in range(1, last + 1)])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [float(row["loss"]) for row in rows] == [1, 1 / 2]
    assert [each.name for each in path.parent.iterdir()] == ["metrics.csv"]
