"""Files in odd surroundings: permissions, links, full and read-only folders, file systems without locks."""

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest
import torch

from agave.errors import UserError
from agave.files import atomic_write, sha256
from agave.runtime.checkpoints import RollingState


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077])
def test_the_umask_decides_the_permissions(tmp_path, umask):
    earlier = os.umask(umask)
    try:
        with atomic_write(tmp_path / "deep/er/file.txt") as temporary:
            temporary.write_text("whole", encoding="utf-8")
    finally:
        os.umask(earlier)
    assert stat.S_IMODE((tmp_path / "deep/er/file.txt").stat().st_mode) == 0o666 & ~umask
    assert os.listdir(tmp_path / "deep/er") == ["file.txt"]


def test_a_link_is_replaced_and_the_longest_name_can_be_written(tmp_path):
    (tmp_path / "cache").write_text("shared", encoding="utf-8")
    (tmp_path / "link.txt").symlink_to(tmp_path / "cache")
    for name in ("link.txt", "n" * 251 + ".txt"):
        with atomic_write(tmp_path / name) as temporary:
            temporary.write_text("own", encoding="utf-8")
        assert (tmp_path / name).read_text(encoding="utf-8") == "own"
    assert (tmp_path / "cache").read_text(encoding="utf-8") == "shared"


def test_where_nothing_can_be_written_is_one_line_and_nothing_changes(tmp_path):
    (tmp_path / "file").write_text("1", encoding="utf-8")
    (tmp_path / "folder.txt").mkdir()
    for path in (tmp_path / "file" / "below.txt", tmp_path / "folder.txt", Path("/proc/no.txt")):
        message = rf"{path}: not written \(.*\); accepted: a file in a folder that can be written to"
        with pytest.raises(UserError, match=message) as caught, atomic_write(path) as temporary:
            temporary.write_text("2", encoding="utf-8")
        assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.txt"]


def test_an_error_while_writing_leaves_what_was_there(tmp_path):
    (tmp_path / "file").write_text("before", encoding="utf-8")
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("after", encoding="utf-8")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text(encoding="utf-8") == "before"


def test_a_file_system_that_cannot_flush_is_no_error(tmp_path, monkeypatch):
    def fsync(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    for number in (errno.EINVAL, errno.ENOTSUP):
        with atomic_write(tmp_path / "file") as temporary:
            temporary.write_text(str(number), encoding="utf-8")
        assert (tmp_path / "file").read_text(encoding="utf-8") == str(number)
    number = errno.EIO
    with pytest.raises(UserError, match="not written"), atomic_write(tmp_path / "file"):
        pass


def test_a_checksum_of_what_cannot_be_read_is_one_line(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError, match=rf"{path}: cannot be read \("):
            sha256(path)


def test_a_second_training_is_kept_out(tmp_path):
    first = RollingState(tmp_path / "state")
    with pytest.raises(UserError, match="another process is training with this state"):
        RollingState(tmp_path / "state")
    first.close()
    RollingState(tmp_path / "state").close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_a_note(tmp_path, monkeypatch, capsys, number):
    def flock(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    state = RollingState(tmp_path)
    state.save(3, {"a": torch.ones(2)}, {"step": 3})
    found = state.load()
    assert found is not None and found[1] == {"step": 3}
    state.close()
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert f"{tmp_path}: locks do not work there ({os.strerror(number)})" in printed
