"""`cellstore lab` and what it starts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from server_process import free_port


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_jupyterlab_ends_with_the_command_that_started_it(tmp_path: Path, how: signal.Signals) -> None:
    places = ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    command = [sys.executable, "-m", "cellstore.cli", "lab", "tour", "--no-browser", "--port", str(free_port())]
    environment = {**os.environ, **{name: str(tmp_path / name) for name in places}}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as lab:
        assert lab.stdout is not None
        url = next(found[0] for line in lab.stdout if (found := re.search(r"http://\S+", line)))
        with urlopen(url, timeout=10) as page:
            disabled = re.findall(r'"disabledExtensions": \[.*?\]', page.read().decode())
            assert "announcements" in "".join(disabled)  # what asks whether it may fetch news
        lab.send_signal(how)
        assert lab.wait(30) == 0
    assert (tmp_path / "tour" / "01_tour.ipynb").exists()
    with pytest.raises(URLError):
        urlopen(url, timeout=10)
