"""The reply cache: safe for several processes, and from being killed or damaged."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from duplexdata.errors import ConfigError, WriterError
from duplexdata.writer.cache import ReplyCache, default_path
from duplexdata.writer.parsing import RawReply

SPAWN = multiprocessing.get_context("spawn")


def key(n: int) -> bytes:
    return n.to_bytes(32, "big")


def reply(text: str) -> RawReply:
    return RawReply(text, "stop", 3, 5)


def test_what_was_put_is_got_by_whoever_asks(tmp_path: Path) -> None:
    strange = RawReply("é\ud800\x00 \U0001f600", "", 0, 0, "no")
    with_both = ReplyCache(tmp_path / "a" / "b.sqlite"), ReplyCache(tmp_path / "a" / "b.sqlite")
    with_both[0].put(key(1), strange)
    with_both[0].put(key(2), reply("two"))
    assert with_both[1].get_many([key(1), key(2), key(3)]) == {key(1): strange, key(2): reply("two")}
    assert with_both[1].get(key(3)) is None
    many = [key(i) for i in range(2000)]
    assert set(with_both[1].get_many(many)) == {key(1), key(2)}
    for cache in with_both:
        cache.close()


def test_the_first_reply_to_a_request_stays(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path / "c")
    assert cache.put(key(1), reply("first")) == reply("first")
    assert cache.put(key(1), reply("second")) == reply("first")
    assert cache.get(key(1)) == reply("first")
    cache.close()


def test_one_asks_and_the_others_wait_for_its_reply(tmp_path: Path) -> None:
    one, other = ReplyCache(tmp_path / "c"), ReplyCache(tmp_path / "c")
    assert one.claim(key(1)) is True
    assert other.claim(key(1)) is False
    assert other.claim(key(2)) is True
    one.put(key(1), reply("here"))
    assert other.claim(key(1)) == reply("here")
    assert one.claim(key(2)) is False
    other.release([key(2)])
    assert one.claim(key(2)) is True
    one.close()
    assert other.claim(key(2)) is True  # who ends gives up what it had claimed
    other.close()


def _claim_and_hang(path: Path, ready: str) -> None:
    cache = ReplyCache(path, lease_sec=1.0)
    assert cache.claim(key(1)) is True
    cache.put(key(2), reply("kept"))
    Path(ready).touch()
    time.sleep(60)


@pytest.mark.slow
def test_claims_of_a_killed_process_become_free_and_those_of_a_living_one_do_not(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    process = SPAWN.Process(target=_claim_and_hang, args=(tmp_path / "c", str(ready)))
    process.start()
    while not ready.exists():
        assert process.is_alive()
        time.sleep(0.02)
    cache = ReplyCache(tmp_path / "c", lease_sec=1.0)
    time.sleep(1.5)
    assert cache.claim(key(1)) is False  # longer than the lease: it was refreshed
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    until = time.monotonic() + 10
    while cache.claim(key(1)) is not True:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert cache.get(key(2)) == reply("kept")
    cache.close()


def _put_many(path: Path, start: int, n: int) -> None:
    cache = ReplyCache(path)
    for i in range(start, start + n):
        cache.claim(key(i))
        cache.put(key(i), reply(str(i)))
    cache.close()


@pytest.mark.slow
def test_four_processes_that_begin_together_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c"
    processes = [SPAWN.Process(target=_put_many, args=(path, 150 * i, 300)) for i in range(4)]
    for p in processes:
        p.start()
    for p in processes:
        p.join()
        assert p.exitcode == 0
    cache = ReplyCache(path)
    assert len(cache.get_many([key(i) for i in range(750)])) == 750
    cache.close()


@pytest.mark.parametrize("damage", ["no database", "pages", "cut", "empty"])
def test_a_damaged_file_is_set_aside_and_never_fatal(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c"
    cache = ReplyCache(path)
    for i in range(500):
        cache.put(key(i), reply("x" * 500))
    cache.close()
    whole = path.read_bytes()
    path.write_bytes(
        {
            "no database": b"hello " * 10_000,
            "pages": whole[:4096] + b"\xff" * (len(whole) - 4096),
            "cut": whole[: len(whole) // 3],
            "empty": b"",
        }[damage]
    )
    cache = ReplyCache(path)
    found = cache.get_many([key(i) for i in range(500)])
    assert all(r == reply("x" * 500) for r in found.values())
    for i in range(600):
        cache.claim(key(i))
        cache.put(key(i), reply("x" * 500))
    assert len(cache.get_many([key(i) for i in range(600)])) == 600
    cache.close()
    assert bool(list(tmp_path.glob("c.damaged-*"))) is (damage != "empty")


def test_a_file_that_is_damaged_while_it_is_open_is_set_aside_too(tmp_path: Path) -> None:
    path = tmp_path / "c"
    cache = ReplyCache(path)
    for i in range(300):
        cache.put(key(i), reply("x" * 3000))
    other = sqlite3.connect(path)
    other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))
    fresh = ReplyCache(path)  # has no pages in memory
    for c in (fresh, cache):
        for i in range(300):
            if c.claim(key(i)) is True:
                c.put(key(i), reply("y"))
        assert set(c.get_many([key(i) for i in range(300)])) == {key(i) for i in range(300)}
        c.close()


def test_a_damaged_row_is_a_request_to_be_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "c"
    cache = ReplyCache(path)
    cache.put(key(1), reply("hello"))
    cache.put(key(2), reply("hello"))
    other = sqlite3.connect(path)
    other.execute("UPDATE replies SET reply = replace(reply, 'hello', 'jello') WHERE key = ?", (key(1),))
    other.commit()
    other.close()
    assert cache.get_many([key(1), key(2)]) == {key(2): reply("hello")}
    assert cache.claim(key(1)) is True
    cache.put(key(1), reply("again"))
    assert cache.get(key(1)) == reply("again")
    cache.close()


def test_another_programs_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE photos (name)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="another program"):
        ReplyCache(path)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriterError, match=r"writer\.cache"):
        ReplyCache(tmp_path / "file" / "c")


def test_threads_share_a_cache(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path / "c")

    def work(start: int) -> None:
        for i in range(start, start + 50):
            cache.put(key(i), reply(str(i)))

    threads = [threading.Thread(target=work, args=(i * 25,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(cache.get_many([key(i) for i in range(125)])) == 125
    cache.close()


def test_the_default_place_is_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/somewhere")
    assert default_path() == Path("/var/somewhere/duplexdata/replies.sqlite")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the XDG specification
    monkeypatch.setenv("HOME", "/home/me")
    assert default_path() == Path("/home/me/.cache/duplexdata/replies.sqlite")
