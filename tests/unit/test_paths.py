"""Folders: only a real folder of this user that nobody else may enter is used."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from vwo_fast import paths
from vwo_fast.config import load_settings
from vwo_fast.errors import ConfigError, QueueError


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_makes_the_folder_and_its_parents_private(tmp_path: Path) -> None:
    """Every folder that is made is 0700; a parent that was there keeps its mode."""
    (tmp_path / "there").mkdir(mode=0o755)
    previous = os.umask(0)
    try:
        made = paths.private_folder(tmp_path / "there" / "a" / "b")
    finally:
        os.umask(previous)
    assert made == tmp_path / "there" / "a" / "b"
    assert (mode_of(made), mode_of(made.parent), mode_of(tmp_path / "there")) == (0o700, 0o700, 0o755)
    assert paths.private_folder(made) == made


def test_absent_folder_is_not_made_unless_asked(tmp_path: Path) -> None:
    """With create=False an absent folder is an error that names it, and stays absent."""
    with pytest.raises(QueueError, match="absent: does not exist"):
        paths.private_folder(tmp_path / "absent", create=False)
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o750, 0o755, 0o777, 0o704, 0o720])
def test_refuses_a_folder_that_others_may_enter(tmp_path: Path, mode: int) -> None:
    """Any permission of group or others is refused, with the command that mends it."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(QueueError, match=f"{mode:04o}.*chmod 700 {folder}"):
        paths.private_folder(folder)


def test_refuses_a_folder_that_its_owner_may_not_use(tmp_path: Path) -> None:
    """A folder without all permissions of its owner is refused here, not later at some file."""
    folder = tmp_path / "shut"
    folder.mkdir()
    folder.chmod(0o500)
    with pytest.raises(QueueError, match="chmod 700"):
        paths.private_folder(folder)


def test_refuses_links_and_files(tmp_path: Path) -> None:
    """A symbolic link, also a dangling one, and a file are refused by name."""
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    link, dangling, file = tmp_path / "link", tmp_path / "dangling", tmp_path / "file"
    link.symlink_to(target)
    dangling.symlink_to(tmp_path / "nowhere")
    file.touch()
    for path, said in ((link, "symbolic link"), (dangling, "symbolic link"), (file, "not a folder")):
        with pytest.raises(QueueError, match=f"{path}: is.*{said}"):
            paths.private_folder(path)
    with pytest.raises(QueueError, match="below"):
        paths.private_folder(file / "below")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_refuses_a_folder_of_another_user(tmp_path: Path) -> None:
    """A folder that somebody else made is refused, and both users are named."""
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, -1)
    with pytest.raises(QueueError, match="12345"):
        paths.private_folder(folder)


def test_a_swap_between_look_and_open_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is exchanged after it was looked at is refused."""
    folder, other = tmp_path / "folder", tmp_path / "other"
    folder.mkdir(mode=0o700)
    other.mkdir(mode=0o700)
    real = os.open

    def swap(path: Path, flags: int) -> int:
        folder.rename(tmp_path / "gone")
        other.rename(folder)
        return real(path, flags)

    monkeypatch.setattr(os, "open", swap)
    with pytest.raises(QueueError, match="replaced"):
        paths.private_folder(folder)


def test_losing_the_race_to_make_it_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that another process made first is judged like one that was there."""
    real = os.mkdir

    def slower(path: Path, mode: int) -> None:
        real(path, mode)
        real(path, mode)

    monkeypatch.setattr(os, "mkdir", slower)
    assert paths.private_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"


def test_queue_folder_and_spool_folder(tmp_path: Path) -> None:
    """The folders of a queue are made below run_dir and spool_dir, each private."""
    settings = load_settings("shop", environ={}, run_dir=tmp_path / "run", spool_dir=tmp_path / "spool")
    assert paths.queue_folder(settings) == tmp_path / "run" / "shop"
    assert paths.spool_folder(settings) == tmp_path / "spool" / "shop"
    for folder in ("run", "run/shop", "spool", "spool/shop"):
        assert mode_of(tmp_path / folder) == 0o700


def test_an_open_run_dir_is_refused(tmp_path: Path) -> None:
    """Also the folder above the queue's must be ours alone: who may change it could exchange the queue."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(QueueError, match="run: others may enter"):
        paths.queue_folder(load_settings("shop", environ={}, run_dir=tmp_path / "run"))


def test_too_long_a_path_for_a_socket(tmp_path: Path) -> None:
    """A run_dir at the limit of a socket's path is taken, one byte more is a ConfigError with length and limit."""
    base = tmp_path / "r"
    room = paths.CTL_PATH_MAX - len(os.fsencode(base / "x" / "shop" / "ctl")) + 1
    assert room > 0
    fits = load_settings("shop", environ={}, run_dir=base / ("x" * room))
    assert len(os.fsencode(paths.queue_folder(fits) / "ctl")) == paths.CTL_PATH_MAX
    longer = load_settings("shop", environ={}, run_dir=base / ("x" * (room + 1)))
    with pytest.raises(ConfigError, match=rf"run_dir=.*{paths.CTL_PATH_MAX + 1} bytes.*{paths.CTL_PATH_MAX}"):
        paths.queue_folder(longer)
    assert not longer.run_dir.exists()


def test_the_limit_counts_bytes(tmp_path: Path) -> None:
    """A letter of two bytes counts twice."""
    name = "ä" * (paths.CTL_PATH_MAX // 2)
    with pytest.raises(ConfigError, match="run_dir"):
        paths.queue_folder(load_settings("shop", environ={}, run_dir=f"/{name}"))


def test_default_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shared memory by default, the temporary folder where there is none; the user id keeps users apart."""
    name = f"vwo_fast-{os.geteuid()}"
    assert paths.default_spool_dir() == Path("/var/tmp") / name
    if sys.platform.startswith("linux") and os.access("/dev/shm", os.W_OK):
        assert paths.default_run_dir() == Path("/dev/shm") / name
    monkeypatch.setattr(paths, "_SHARED_MEMORY", str(tmp_path / "none"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert paths.default_run_dir() == tmp_path / name


def test_what_is_no_file_of_ours_is_not_there(tmp_path: Path) -> None:
    """A pipe, a link, a folder: not found, at once; a file is read up to the limit."""
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert paths.read_private(path, 4) == b"1234"
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "folder", "pipe", "absent"):
        with pytest.raises(FileNotFoundError):
            paths.read_private(tmp_path / name, 4)
