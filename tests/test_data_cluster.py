"""The local cluster: nobody but its own processes reaches it."""

from __future__ import annotations

import asyncio
import os
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace

import psutil
import pytest
from distributed import Security
from distributed.comm import connect as open_comm

from data import cluster
from data.cluster import Workers, connect
from data.errors import SetFileError


def listening() -> list[tuple[str, int]]:
    """(address, port) of every TCP port on which this process or one that it started waits for others."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    connections = [c for process in processes for c in process.net_connections("inet")]
    return [(c.laddr.ip, c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN]


def test_a_dashboard_is_for_this_machine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda _: SimpleNamespace())  # without bokeh Dask has a page that says so
    with connect(None, 1, 1, 500, dashboard=True) as found:
        assert "dashboard: http://127.0.0.1:" in capsys.readouterr().err
        assert {address for address, _ in listening()} == {"127.0.0.1"}
        port = found.client.dashboard_link.split(":")[-1].removesuffix("/status")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            assert answer.status == 200


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with connect(None, 1, 1, 500) as found:
        found.client.wait_for_workers(1, timeout=60)
        yield found


def test_it_listens_on_this_machine_only_and_has_no_pages(workers: Workers) -> None:
    assert workers.count() == 1
    found = listening()
    assert len(found) >= 2
    assert {address for address, _ in found} == {"127.0.0.1"}
    pages = ("status", "info/main/workers.html", "json/identity.json", "metrics", "health")
    for _, port in found:
        for page in pages:
            with pytest.raises(OSError, match=r"404|closed|reset|refused"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=5)


async def reach(address: str, security: Security | None) -> None:
    """Connect as a stranger would: at best until the other side hangs up."""
    options = security.get_connection_args("client") if security else {}
    comm = await open_comm(address, timeout=2, **options)
    try:
        await comm.write({"op": "identity", "reply": True})
        await comm.read()
    finally:
        comm.abort()


@pytest.mark.parametrize("key", [None, "another"])
def test_who_has_no_key_of_the_run_is_kept_out(workers: Workers, key: str | None) -> None:
    addresses = [workers.client.scheduler.address, *workers.client.scheduler_info()["workers"]]
    assert len(addresses) == 2
    for address in addresses:
        assert address.startswith("tls://127.0.0.1:")
        stranger = Security.temporary() if key else None
        with pytest.raises(OSError, match=r"."):
            asyncio.run(reach(address if key else address.replace("tls://", "tcp://"), stranger))
    assert workers.client.submit(os.getpid).result(timeout=60) != os.getpid()


def test_without_cryptography_it_says_once_that_there_is_no_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster._security.cache_clear()
    monkeypatch.setattr(cluster, "find_spec", lambda _: None)
    try:
        assert cluster._security() is None
        assert cluster._security() is None
    finally:
        cluster._security.cache_clear()
    errors = capsys.readouterr().err
    assert errors.count("ask for no key, as `cryptography` is not installed") == 1
    assert errors.endswith("pip install cryptography\n")


def test_a_dashboard_that_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(SetFileError, match="--dashboard is of the local cluster"),
        connect("tcp://x", 1, 1, 500, (), True),
    ):
        pass
    monkeypatch.setattr(cluster, "find_spec", lambda _: None)
    with pytest.raises(SetFileError, match="--dashboard needs bokeh"), connect(None, 1, 1, 500, dashboard=True):
        pass
