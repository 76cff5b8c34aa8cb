"""Locks that the kernel keeps: who lives is known without asking a pid."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pytest

from vwo_fast.locks import LockFile, exclusive, lock_file, random_id


def _in_child(function):  # type: ignore[no-untyped-def]
    """Run ``function`` in a forked child and give back its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = int(function())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_ids_are_never_zero_and_fit_an_offset() -> None:
    """A random id is a positive offset that a file lock can take."""
    ids = {random_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(0 < number < 2**62 for number in ids)


def test_a_byte_is_held_by_one_process(tmp_path: Path) -> None:
    """A second process cannot take a held byte, sees it as held, and can take another one."""
    users = LockFile(tmp_path / "users.lock")
    assert users.acquire(5)

    def child() -> bool:
        mine = LockFile(tmp_path / "users.lock")
        return not mine.acquire(5) and mine.is_held(5) and mine.acquire(6) and mine.any_held_by_others()

    assert _in_child(child) == 1
    assert users.is_held(5)
    assert not users.is_held(6)
    assert not users.any_held_by_others()
    assert users.any_held_here()


def test_a_forked_child_holds_nothing(tmp_path: Path) -> None:
    """A child neither inherits its parent's locks nor gives them back when it releases or ends."""
    users = LockFile(tmp_path / "users.lock")
    users.acquire(7)

    def child() -> bool:
        had = users.any_held_here()
        users.release(7)
        return not had and users.is_held(7)

    assert _in_child(child) == 1
    assert _in_child(lambda: LockFile(tmp_path / "users.lock").is_held(7)) == 1


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    """kill -9 frees the bytes of a process at once; while it is only stopped it keeps them."""
    users = lock_file(tmp_path / "users.lock")
    context = multiprocessing.get_context("fork")
    ready = context.Event()

    def hold() -> None:
        lock_file(tmp_path / "users.lock").acquire(9)
        ready.set()
        threading.Event().wait()

    process = context.Process(target=hold, daemon=True)
    process.start()
    assert ready.wait(20)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    assert users.is_held(9)
    os.kill(process.pid, signal.SIGKILL)
    process.join(20)
    assert not users.is_held(9)
    assert users.acquire(9)


def test_one_lock_file_per_process_and_path(tmp_path: Path) -> None:
    """The same file is opened once, because closing a second descriptor would drop the locks; a new file is seen."""
    path = tmp_path / "users.lock"
    first = lock_file(path)
    assert lock_file(path) is first
    path.unlink()
    second = lock_file(path)
    assert second is not first
    assert second.acquire(1)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A lock file that is a symbolic link is refused."""
    (tmp_path / "target").touch()
    (tmp_path / "users.lock").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match=r"users\.lock"):
        LockFile(tmp_path / "users.lock")


def test_exclusive_excludes_threads(tmp_path: Path) -> None:
    """Two threads of one process are never both inside the critical section."""
    inside, seen = [0], []

    def work() -> None:
        for _ in range(50):
            with exclusive(tmp_path / "open.lock"):
                inside[0] += 1
                seen.append(inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {1}


def test_exclusive_is_given_back_although_a_child_was_forked_inside(tmp_path: Path) -> None:
    """A child that was forked inside the section and lives on does not keep the next one out."""
    read, write = os.pipe()
    with exclusive(tmp_path / "open.lock"):
        pid = os.fork()
        if pid == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
    with exclusive(tmp_path / "open.lock"):
        pass
    os.close(read)
    os.close(write)
    os.waitpid(pid, 0)
