"""Every mistake in a manifest is named with its row, all of them at once."""

import pytest

from helpers import COLUMNS
from imginav_jax.datasets.manifest import read_manifest
from imginav_jax.system import csv_table
from imginav_jax.system.errors import UserError


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


GOOD = [("a", "scene", "0", "0.png", "false"), ("a", "room", "1", "1.png", "0"), ("b", "room", "2", "2.png", "true")]


def as_text(rows=GOOD, delimiter=",", end="\n", columns=COLUMNS):
    return "".join(delimiter.join(row) + end for row in [columns, *rows])


DIALECTS = {
    "semicolons": as_text(delimiter=";").encode(),
    "tabs": as_text(delimiter="\t").encode(),
    "Excel's first line": ("sep=;\r\n" + as_text(delimiter=";", end="\r\n")).encode(),
    "Excel's first line, saved again with commas": ("sep=,,,,\r\n" + as_text(end=",,\r\n")).encode(),
    "byte order mark": as_text().encode("utf-8-sig"),
    "UTF-16": as_text(delimiter="\t", end="\r\n").encode("utf-16"),
    "UTF-16, the other way round": b"\xfe\xff" + as_text().encode("utf-16-be"),
    "old Mac": as_text(end="\r").encode(),
    "mixed line ends": as_text().replace("\n", "\r\n", 2).replace("false\r\n", "false\r").encode(),
    "no last line end": as_text().rstrip().encode(),
    "empty first lines": b"\n \r\n,,,,\n" + as_text().encode() + b",,,,\n\n",
    "an index column": "".join(
        f"{number},{line}\n" for number, line in zip(["", 0, 1, 2], as_text().split(), strict=True)
    ).encode(),
    "quotes": as_text([tuple(f'"{value}"' for value in row) for row in GOOD]).encode(),
    "spaces": as_text(
        [tuple(f" {value} " for value in row) for row in GOOD], columns=[f" {each}" for each in COLUMNS]
    ).encode(),
    "capitals": as_text([(*row[:4], row[4].upper()) for row in GOOD], columns=[x.upper() for x in COLUMNS]).encode(),
    "numbers for truths": as_text().replace("false", "0.0").replace("true", "1.0").encode(),
    "no path": as_text([*GOOD[:2], ("b", "room", "2", "NaN", "false")]).encode(),
    "a note over two lines": (
        as_text(columns=(*COLUMNS, "note")).replace("0.png,false\n", '0.png,false,"one\ntwo, ""three"""\n').encode()
    ),
    "a long note": as_text(columns=(*COLUMNS, "note")).replace("0.png,false", "0.png,false," + "x" * 10**6).encode(),
}


@pytest.mark.parametrize("kind", DIALECTS)
def test_what_spreadsheets_and_pandas_write_is_read(tmp_path, kind):
    (tmp_path / "layouts.csv").write_bytes(DIALECTS[kind])
    manifest = read_manifest(tmp_path / "layouts.csv")
    manifest.raise_problems()
    assert [(row.scene_id, row.type, row.room_id, row.path.name) for row in manifest.rows] == [
        row[:4] for row in GOOD[:2]
    ]
    assert manifest.skipped_empty + manifest.skipped_without_path == 1


def test_rows_are_counted_as_an_editor_counts_lines(tmp_path):
    (tmp_path / "layouts.csv").write_text(
        "\nnote," + as_text([("a,b", *GOOD[0])]).replace("a,b", '"over\ntwo lines"') + "x,,room,1,1.png,0\n"
    )
    manifest = read_manifest(tmp_path / "layouts.csv")
    assert [row.line for row in manifest.rows] == [3]
    assert manifest.problems == [(5, "scene_id is empty")]


STRAY = {
    "opened in two rows": ('s1,scene,"3 ft,2.png,false', 's2,room,"3 ft,5.png,false', [3, 5]),
    "opened in one, at the end of a value in another": ('s1,scene,"3 ft,2.png,false', 's2,room,3 ft",5.png,false', [3]),
    "opened in the last column": ('s1,scene,3,2.png,"false', "s2,room,3,5.png,false", [3]),
    "opened alone": ('"s1,scene,3,2.png,false', "s2,room,3,5.png,false", [3]),
}


@pytest.mark.parametrize("kind", STRAY)
def test_a_quote_that_is_never_closed_swallows_no_row(tmp_path, kind):
    first, second, bad = STRAY[kind]
    rows = ["s0,room,0,0.png,false", first, "s1,room,2,2.png,false", second, "s3,room,3,3.png,false"]
    (tmp_path / "layouts.csv").write_text("\n".join([",".join(COLUMNS), *rows]))
    manifest = read_manifest(tmp_path / "layouts.csv")
    assert manifest.problems == [(line, "a quote is opened in this line and never closed") for line in bad]
    assert [row.line for row in manifest.rows] == [line for line in range(2, 7) if line not in bad]


def count_looks(bad_rows):
    """How often a line is looked at in a table of this many rows whose quotes are never closed."""
    looks = 0

    class Lines(list):
        def __iter__(self):
            nonlocal looks
            for line in super().__iter__():
                looks += 1
                yield line

        def __getitem__(self, index):
            nonlocal looks
            looks += 1
            return super().__getitem__(index)

    table = csv_table.Table("layouts.csv", list(COLUMNS))
    csv_table._read_records(table, Lines(['s,room,1,"a.png,false'] * bad_rows), 0, ",", {})
    assert [line for line, _ in table.problems] == list(range(1, bad_rows + 1))
    return looks


def test_a_line_is_looked_at_as_often_in_a_long_table_of_bad_rows_as_in_a_short_one():
    assert count_looks(400) < 3 * count_looks(200)


def test_a_swallowed_row_is_noticed_in_an_ignored_column_too(tmp_path):
    text = as_text(columns=(*COLUMNS, "note")).replace("0.png,false", '0.png,false,"3 ft')
    (tmp_path / "layouts.csv").write_text(text.replace("1.png,0", '1.png,0,3 ft"'))
    assert problems(tmp_path / "layouts.csv").endswith("row 2: a quote is opened in this line and never closed")


def test_a_line_break_in_a_column_of_ours_is_named(tmp_path):
    (tmp_path / "layouts.csv").write_text(as_text([("a", "room", '"1\n2"', "1.png", "0"), *GOOD]))
    assert "row 2: room_id holds a line break" in problems(tmp_path / "layouts.csv")


@pytest.mark.parametrize("column", ["layout_path", "Layout_Path "])
def test_a_column_that_stands_twice_is_refused(write_manifest, column):
    with pytest.raises(UserError, match=r"has the column layout_path 2 times \(columns 4 and 6\)"):
        read_manifest(write_manifest([], [*COLUMNS, column]))
    assert len(read_manifest(write_manifest([GOOD[0]], [*COLUMNS, "note", "note"])).rows) == 1


BYTES = {
    "cp1252": (as_text().replace("a,scene", "Café,scene").encode("cp1252"), "row 2: is not UTF-8 (byte 0xe9)"),
    "a NUL byte": (as_text().replace("a,room", "a,ro\0om").encode(), "row 3: holds a NUL byte"),
    "a path of a page": (as_text().replace("1.png", "1" * 5000).encode(), "row 3: layout_path holds a line break or"),
}


@pytest.mark.parametrize("kind", BYTES)
def test_bytes_that_are_no_text_cost_their_row_alone(tmp_path, kind):
    content, message = BYTES[kind]
    (tmp_path / "layouts.csv").write_bytes(content)
    assert message in problems(tmp_path / "layouts.csv")
    assert len(read_manifest(tmp_path / "layouts.csv").problems) == 1


@pytest.mark.parametrize(
    "content",
    [
        as_text().encode("utf-16-le"),
        as_text().encode("utf-16")[:-1],
        b"PK\3\4\xff\n",
        b'"scene_id,' + as_text().encode(),
        b'"' + b"x" * 10**6 + b'",' + as_text().encode(),
    ],
)
def test_a_file_that_is_no_text_is_one_line(tmp_path, content):
    (tmp_path / "layouts.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"layouts\.csv cannot be read as a CSV file: .*") as error:
        read_manifest(tmp_path / "layouts.csv")
    assert len(str(error.value).splitlines()) == 1
