"""The ladder that finds a kernel's server, on made-up surroundings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cellstore.client.discovery import Running, Surroundings, find, parse_url, read_server
from cellstore.client.transport import Address
from cellstore.errors import CallerError, Disconnected

HERE = Path("/home/ann/project")
OURS = Running(10, "http://localhost:8888/", "t1", "/home/ann")
THEIRS = Running(11, "http://localhost:8889/", "t2", "/home/bob")


def ladder(
    environ: dict[str, str] | None = None,
    servers: list[Running] | None = None,
    kernel_id: str | None = None,
    answering: set[str] | None = None,
    kernels: dict[int, str] | None = None,
):
    """`find` in these surroundings; servers in `answering` (all, by default) answer the handshake."""

    def probe(address: Address) -> dict[str, str]:
        if answering is not None and address.url not in answering:
            raise Disconnected(f"{address.url} does not answer")
        return {"name": "cellstore"}

    around = Surroundings(environ or {}, HERE, servers or [], kernel_id)
    return find(around, probe, lambda server, kernel: (kernels or {}).get(server.pid) == kernel)


def test_the_environment_comes_first_and_carries_the_secret():
    env = {
        "CELLSTORE_SERVER_URL": "http://localhost:9000/a%40b",
        "CELLSTORE_SERVER_SECRET": "s",
        "JPY_PARENT_PID": "10",
    }
    found = ladder(env, [OURS])
    assert found.address.url == "http://localhost:9000/a%40b/"
    assert found.address.headers == {"X-Cellstore-Kernel": "s"}
    assert found.address.socket_url == "ws://localhost:9000/a%40b/cellstore/api/sync"
    assert "environment" in found.rung


def test_an_environment_that_does_not_answer_falls_to_the_parent():
    env = {"CELLSTORE_SERVER_URL": "http://gone:1/", "JPY_PARENT_PID": "11"}
    found = ladder(env, [OURS, THEIRS], answering={OURS.url, THEIRS.url})
    assert found.address.url == THEIRS.url
    assert found.address.headers == {"Authorization": "token t2"}
    assert "parent" in found.rung


def test_a_server_that_lists_this_kernel_is_ours():
    found = ladder(servers=[OURS, THEIRS], kernel_id="k1", kernels={11: "k1"})
    assert found.address.url == THEIRS.url
    assert "lists this kernel" in found.rung


def test_the_only_server_over_the_working_directory_is_ours():
    assert ladder(servers=[THEIRS, OURS]).address.url == OURS.url


def test_between_two_servers_nobody_guesses():
    second = Running(12, "http://localhost:8890/", "t3", "/home")
    with pytest.raises(Disconnected, match="say which one you mean") as caught:
        ladder(servers=[OURS, second])
    assert "8888" in caught.value.message
    assert "8890" in caught.value.message


def test_nothing_found_tells_why_and_what_to_do():
    with pytest.raises(Disconnected, match=r"does not answer.*jupyter lab.*cs\.open") as caught:
        ladder({"CELLSTORE_SERVER_URL": "http://gone:1/"}, [OURS], answering=set())
    assert "http://gone:1/" in caught.value.message


def test_a_unix_socket_cannot_be_dialled_and_is_named():
    server = Running(10, "http+unix://%2Frun%2Fjupyter.sock/", "", "/home/ann")
    with pytest.raises(Disconnected, match="UNIX socket"):
        ladder({"JPY_PARENT_PID": "10"}, [server])


@pytest.mark.parametrize(
    ("pasted", "base", "token"),
    [
        ("http://localhost:8888", "http://localhost:8888/", None),
        ("localhost:8888/", "http://localhost:8888/", None),
        ("http://localhost:8888/lab/tree/a.ipynb?token=x", "http://localhost:8888/", "x"),
        ("http://hub/user/ann/tree?token=y", "http://hub/user/ann/", "y"),
        ("ws://localhost:8888/cellstore/", "http://localhost:8888/", None),
        ("https://h/a%40b/", "https://h/a%40b/", None),
    ],
)
def test_an_address_may_be_pasted_from_the_browser(pasted, base, token):
    assert parse_url(pasted) == (base, token)


@pytest.mark.parametrize("text", ["ftp://x/", "http://", ""])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(CallerError, match="no server address"):
        parse_url(text)


def test_a_half_written_server_file_is_passed_over(tmp_path):
    whole, half = tmp_path / "jpserver-1.json", tmp_path / "jpserver-2.json"
    whole.write_text(json.dumps({"pid": 1, "url": "http://h:1/x", "token": "t", "root_dir": "/r"}))
    half.write_text('{"pid": 2')
    assert read_server(whole) == Running(1, "http://h:1/x/", "t", "/r")
    assert read_server(half) is None
