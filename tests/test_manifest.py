"""Every mistake in a manifest is named with its row, all of them at once."""

import pytest

from conftest import COLUMNS
from imginav_jax.datasets.manifest import read_manifest
from imginav_jax.errors import UserError


def problems(path, **kwargs):
    manifest = read_manifest(path, **kwargs)
    with pytest.raises(UserError) as error:
        manifest.raise_problems()
    return str(error.value)


def test_rows_are_read_and_skipped_ones_counted(write_manifest, tmp_path):
    path = write_manifest(
        [
            ("a", "scene", "0000", "x/1.png", "false"),
            ("a", "room", "3001", str(tmp_path / "2.png"), "0"),
            ("a", "room", "3002", "3.png", "True"),
            ("a", "room", "3003", "", "false"),
            ("b", "room", "3004", "5.png", "FALSE"),
            ("b", "room", "3005", "6.png", "1"),
        ]
    )
    manifest = read_manifest(path)
    manifest.raise_problems()
    assert [(row.line, row.scene_id, row.type, row.room_id) for row in manifest.rows] == [
        (2, "a", "scene", "0000"),
        (3, "a", "room", "3001"),
        (6, "b", "room", "3004"),
    ]
    assert [row.path for row in manifest.rows] == [tmp_path / "x/1.png", tmp_path / "2.png", tmp_path / "5.png"]
    assert (manifest.skipped_empty, manifest.skipped_without_path) == (2, 1)


def test_other_columns_and_a_byte_order_mark_do_no_harm(tmp_path):
    path = tmp_path / "layouts.csv"
    path.write_text("\ufeffscene_id,note,type,room_id,layout_path,is_empty\na,hi,room,1,1.png,0\n", encoding="utf-8")
    assert len(read_manifest(path).rows) == 1


def test_a_missing_file_an_empty_one_and_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.csv does not exist"):
        read_manifest(tmp_path / "nowhere.csv")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(UserError, match=r"empty\.csv is empty; expected the columns scene_id, type"):
        read_manifest(tmp_path / "empty.csv")
    with pytest.raises(UserError, match="cannot be read"):
        read_manifest(tmp_path)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        read_manifest(tmp_path / "binary.csv")


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(write_manifest, column):
    path = write_manifest([], [each for each in COLUMNS if each != column])
    with pytest.raises(UserError, match=f"lacks the column {column}; it has"):
        read_manifest(path)


def test_bad_rows_are_reported_together_with_line_column_and_value(write_manifest):
    path = write_manifest(
        [
            ("a", "kitchen", "1", "1.png", "false"),
            ("a", "room", "1", "1.png", "maybe"),
            ("", "room", "1", "1.png", "false"),
            ("a", "room"),
            ("a", "room", "1", "1.png", "false"),
            ("", "barn", "1", "1.png", "false"),
            ("a", "room", "1", "1.png", "false", "surplus"),
        ]
    )
    message = problems(path)
    assert "6 bad rows" in message
    assert 'row 7: scene_id is empty; type "barn"' in message
    assert "row 8: more values than columns" in message
    assert 'row 2: type "kitchen", expected room or scene' in message
    assert 'row 3: is_empty "maybe", expected true, false, 0 or 1' in message
    assert "row 4: scene_id is empty" in message
    assert "row 5: no value for room_id, layout_path, is_empty" in message


def test_twenty_bad_rows_are_shown_and_the_rest_counted(write_manifest):
    message = problems(write_manifest([("a", "x", "1", "1.png", "0")] * 25))
    assert message.count('type "x"') == 20
    assert "25 bad rows" in message
    assert "... and 5 more" in message


def test_no_path_may_leave_the_root(write_manifest, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    rows = [("a", "room", "1", each, "0") for each in ("in.png", "../out.png", "/etc/passwd", "link/out.png")]
    message = problems(write_manifest(rows), root=root)
    assert "3 bad rows" in message
    assert "row 2" not in message
    assert read_manifest(write_manifest(rows[:1]), root).rows[0].path == root / "in.png"
    with pytest.raises(UserError, match=r"data\.root .* is not a folder"):
        read_manifest(write_manifest(rows[:1]), tmp_path / "nix")
