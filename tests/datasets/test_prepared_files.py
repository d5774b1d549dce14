"""The list of a folder's files, against what a purge does to them."""

from imginav_jax.datasets import prepared_files


def test_what_is_gone_or_of_another_size_is_missing(tmp_path):
    (tmp_path / "below").mkdir()
    for name, content in (("whole", b"a"), ("empty", b""), ("below/cut", b"ab"), ("below/gone", b"")):
        (tmp_path / name).write_bytes(content)
    assert prepared_files.find_missing(tmp_path) is None
    prepared_files.write_list(tmp_path)
    assert prepared_files.find_missing(tmp_path) == []
    (tmp_path / "below" / "cut").write_bytes(b"a")
    (tmp_path / "below" / "gone").unlink()
    assert prepared_files.find_missing(tmp_path) == ["below/cut", "below/gone"]
    assert [prepared_files.size_of(tmp_path / name) for name in ("whole", "empty", "whole/no folder")] == [1, 0, None]
