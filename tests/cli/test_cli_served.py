"""The commands against a real `cellstore serve`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from server_process import TOKEN, ServerProcess, free_port

from cellstore.cli import main
from cellstore.transaction.database import Engine


def test_run_prints_a_result_as_json_and_what_the_function_printed_beside_it(tasks: Any) -> None:
    added = tasks("run", "tasks:add", '{"text": "milk"}')
    assert added.exit_code == 0, added.output
    assert len(json.loads(added.stdout)) == 32
    assert added.stderr == "adding milk\n"
    assert "milk" in json.loads(tasks("run", "tasks:texts", '{"limit": 100}').stdout)
    assert json.loads(tasks("run", "tasks:shout", '{"text": "hey"}').stdout) == "HEY"


def test_run_works_from_a_shell(tasks: Any, server: ServerProcess) -> None:
    command = [sys.executable, "-m", "cellstore.cli", "run", "tasks:shout", '{"text": "ü"}']
    done = subprocess.run(
        [*command, "--url", server.url, "--token", TOKEN], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ('"Ü"\n', "", 0)


def test_each_mistake_is_one_clear_error(tasks: Any) -> None:
    mistakes = {
        ("run", "tasks:ad", "{}"): "'tasks:add'",
        ("run", "tasks:add", '{"text": 5}'): "expected str",
        ("run", "tasks:add", "{}"): "text",
        ("run", "tasks:add", "{nonsense"): "not JSON",
        ("run", "tasks:add", "[1]"): "one JSON object",
        ("run", "tasks:stumble"): "KeyError: 'no such key'",
    }
    for words, said in mistakes.items():
        result = tasks(*words)
        assert result.exit_code != 0, words
        assert said in result.output, words
        assert isinstance(result.exception, SystemExit), words


def test_a_wrong_token_and_a_server_that_is_not_there_are_said(tasks: Any) -> None:
    refused = tasks("functions", token="wrong")
    assert refused.exit_code == 1
    assert "token" in refused.output
    nobody = CliRunner().invoke(main, ["functions", "--url", f"http://127.0.0.1:{free_port()}"])
    assert nobody.exit_code == 1
    assert "Is it running?" in nobody.output


def test_functions_and_tables_are_listed(tasks: Any) -> None:
    listed = tasks("functions").output
    assert [line.split()[:3] for line in listed.splitlines() if "tasks:" in line] == [
        ["tasks:add", "mutation", "public"],
        ["tasks:shout", "action", "public"],
        ["tasks:stumble", "mutation", "public"],
        ["tasks:texts", "query", "public"],
    ]
    tasks("run", "tasks:add", '{"text": "bread"}')
    (row,) = [line.split() for line in tasks("data").output.splitlines() if line.split()[0] == "tasks"]
    assert int(row[1]) >= 1
    assert "by_done" in row


def test_a_pipe_gets_ids_and_texts_whole(tasks: Any) -> None:
    text = "a long text " * 20
    id = json.loads(tasks("run", "tasks:add", json.dumps({"text": text})).stdout)
    (line,) = [line for line in tasks("data", "tasks", "--limit", "1").output.splitlines() if id in line]
    assert text.strip() in line


def test_a_command_talks_to_the_deployment_that_is_named(tasks: Any, server: ServerProcess) -> None:
    other = server.root / ".cellstore" / "other" / "store.db"
    other.parent.mkdir()
    with Engine.open(other) as engine:
        engine.run(lambda transaction: transaction.insert("elsewhere", {"n": 1}))
    here, there = tasks("data"), tasks("data", "--deployment", "other")
    assert ("elsewhere" in here.output, "elsewhere" in there.output) == (False, True)
    named = ("run", "data", "functions", "deploy", "logs", "export", "import")
    assert all("--deployment" in tasks(name, "--help").output for name in named)


def test_import_says_what_to_do_in_its_own_options(tasks: Any, tmp_path: Path) -> None:
    tasks("run", "tasks:add", '{"text": "there"}')
    (tmp_path / "tasks.jsonl").write_text('{"text": "more"}\n')
    refused = tasks("import", str(tmp_path / "tasks.jsonl"))
    told = " ".join(refused.output.split())  # lines are broken where the path happens to end
    assert "import with --mode append" in told
    assert "mode='" not in told
    assert tasks("import", str(tmp_path / "tasks.jsonl"), "--mode", "append").exit_code == 0


def test_deploy_takes_a_directory_and_refuses_what_cannot_travel_by_name(tasks: Any, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("import cellstore as cs\n@cs.query\ndef one(ctx):\n    return 1\n")
    (tmp_path / "two.py").write_text("import cellstore as cs\n@cs.query\ndef two(ctx):\n    return 2\n")
    assert tasks("deploy", str(tmp_path)).output.count("deployed") == 2
    assert json.loads(tasks("run", "two:two").stdout) == 2
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import threading, cellstore as cs\nlock = threading.Lock()\n@cs.query\ndef q(ctx):\n    return lock.locked()\n"
    )
    refused = tasks("deploy", str(bad))
    assert refused.exit_code == 1
    assert "q uses `lock`" in refused.output


def test_drop_takes_functions_away_and_names_those_that_are_not_there(tasks: Any, tmp_path: Path) -> None:
    (tmp_path / "gone.py").write_text(
        "import cellstore as cs\n@cs.query\ndef a(ctx): ...\n@cs.query\ndef b(ctx): ...\n@cs.query\ndef c(ctx): ...\n"
    )
    tasks("deploy", str(tmp_path))
    assert "there is no function 'gone:x'" in tasks("drop", "gone:a", "gone:x").output
    assert tasks("drop", "gone:a").output == "dropped gone:a\n"
    assert tasks("drop", "gone").output == "dropped gone:b\ndropped gone:c\n"


def test_drop_table_asks_first_and_takes_its_documents_along(tasks: Any, tmp_path: Path) -> None:
    (tmp_path / "old.jsonl").write_text('{"n": 1}\n{"n": 2}\n')
    tasks("import", str(tmp_path / "old.jsonl"))
    assert tasks("drop-table", "old").exit_code == 1, "nobody said yes"
    assert "old" in tasks("data").output
    assert tasks("drop-table", "old", "--yes").output == "dropped the table old\n"
    assert "old" not in [line.split()[0] for line in tasks("data").output.splitlines()]
    assert "there is no table 'old'" in tasks("drop-table", "old", "--yes").output


def test_the_admin_key_opens_the_door(tasks: Any, server: ServerProcess) -> None:
    key = CliRunner().invoke(main, ["admin-key", "--root", str(server.root)]).output.strip()
    body = json.dumps({"path": "tasks:shout", "args": {"text": "a"}}).encode()
    answer = server.post("/api/action", body, {"Authorization": f"Convex {key}"})
    assert answer["value"] == "A"


def test_check_says_who_has_the_store_open(server: ServerProcess) -> None:
    result = CliRunner().invoke(main, ["check", "--root", str(server.root)])
    assert result.exit_code == 1
    assert server.process is not None
    assert str(server.process.pid) in result.output


def test_logs_show_what_functions_said_how_their_calls_ended_and_go_on(tasks: Any, monkeypatch: Any) -> None:
    tasks("run", "tasks:add", '{"text": "for the log"}')
    tasks("run", "tasks:stumble")
    lines = tasks("logs", "-n", "20").output.splitlines()
    failed = [line for line in lines if "ERROR" in line][-1]
    assert "tasks:stumble" in failed
    assert "KeyError: 'no such key'" in failed
    assert any("  ok  " in line and "tasks:add" in line and " ms" in line for line in lines)
    seen: list[str] = []

    def print_then_stop(line: str) -> None:
        seen.append(line)
        if "tasks:shout" in line:
            raise KeyboardInterrupt  # as a person would

    calling = threading.Timer(0.3, lambda: tasks("run", "tasks:shout", '{"text": "a"}'))
    monkeypatch.setattr("cellstore.cli.click.echo", print_then_stop)
    calling.start()
    followed = tasks("logs", "-f", "-n", "1")
    calling.join()
    assert followed.exit_code == 0
    assert any("tasks:shout" in line for line in seen)


def test_deploy_watch_deploys_again_until_it_is_interrupted(tasks: Any, server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "watched_by_cli.py"
    file.write_text("import cellstore as cs\n@cs.query\ndef one(ctx):\n    return 1\n")
    words = ["deploy", str(tmp_path), "--watch", "--url", server.url, "--token", TOKEN]
    watching = subprocess.Popen(
        [sys.executable, "-u", "-m", "cellstore.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert watching.stdout is not None
    try:
        assert "added watched_by_cli:one" in watching.stdout.readline()
        file.write_text("import cellstore as cs\n@cs.query\ndef one(ctx):\n    return 'two'\n")
        assert "changed watched_by_cli:one" in watching.stdout.readline()
        assert json.loads(tasks("run", "watched_by_cli:one").stdout) == "two"
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 0
    finally:
        watching.kill()
        watching.stdout.close()


def test_environment_variables_are_set_listed_and_removed(tasks: Any) -> None:
    assert tasks("env", "COLOUR=blue", "SECRET=a=b").output.split() == ["COLOUR", "SECRET"]
    assert tasks("env", "--values").output.split() == ["COLOUR=blue", "SECRET=a=b"]
    assert tasks("env", "--remove", "SECRET", "COLOUR=red", "--values").output.split() == ["COLOUR=red"]
    assert "NAME=VALUE" in tasks("env", "COLOUR").output
    assert "digits" in tasks("env", "9LIVES=1").output
    assert tasks("env", "--remove", "COLOUR").output == ""


def test_a_deployment_that_is_not_there_is_an_error_that_names_those_there_are(
    tasks: Any, server: ServerProcess, tmp_path: Path
) -> None:
    for words in (["functions"], ["data"], ["run", "tasks:texts"], ["export", str(tmp_path / "x.zip")], ["logs"]):
        said = tasks(*words, "--deployment", "stagging")
        assert said.exit_code == 1
        assert "there is no deployment 'stagging'; there are: default" in said.stderr
    assert not (server.root / ".cellstore" / "stagging").exists()
    file = tmp_path / "birds.jsonl"
    file.write_text('{"n": 1}\n')
    assert tasks("import", str(file), "--deployment", "staging").exit_code == 0
    assert "birds" in tasks("data", "--deployment", "staging").stdout
    assert ", staging" in tasks("data", "--deployment", "stagging").stderr
