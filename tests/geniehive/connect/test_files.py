"""What is written can be undone, and nobody's work is lost."""

import pytest

from geniehive.connect import files
from geniehive.errors import Conflict, NotFound


def test_undo_puts_back_what_was_there_with_its_permissions(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text("mine 👋")
    path.chmod(0o640)
    files.write(path, "first")
    files.write(path, "second")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("second", 0o640)
    assert files.undo(path) is True
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("mine 👋", 0o640)
    assert [each.name for each in tmp_path.iterdir()] == ["settings.json"]
    with pytest.raises(NotFound, match="nothing to undo"):
        files.undo(path)


def test_a_file_that_was_not_there_is_gone_again(tmp_path):
    path = tmp_path / "deep" / "er" / "settings.json"
    files.write(path, "key")
    assert path.stat().st_mode & 0o777 == 0o600
    assert (path.parent / "settings.json.geniehive-undo").stat().st_mode & 0o777 == 0o600
    assert files.undo(path) is False
    assert list(path.parent.iterdir()) == []


def test_a_file_that_was_changed_since_is_not_put_back(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text("mine")
    files.write(path, "ours")
    path.write_text("ours and mine")
    with pytest.raises(Conflict, match="changed since"):
        files.undo(path)
    assert path.read_text() == "ours and mine"
    files.write(path, "ours again")
    files.undo(path)
    assert path.read_text() == "ours and mine"


def test_a_link_is_written_through(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("mine")
    link.symlink_to(real)
    files.write(files.expand(str(link)), "ours")
    assert link.is_symlink()
    assert real.read_text() == "ours"


def test_what_cannot_be_read_or_written_says_why(tmp_path):
    path = tmp_path / "settings.json"
    path.write_bytes(b"\xff")
    with pytest.raises(Conflict, match="UTF-8"):
        files.read(path)
    with pytest.raises(Conflict, match="cannot be"):
        files.write(path / "below", "x")
