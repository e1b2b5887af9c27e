"""The page's half, by Node's own test runner, and as the one module that pages without a server get."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cellstore_kernel import assets

HERE = Path(__file__).parent / "js"
node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")


def run(*words: str, text: str | None = None) -> str:
    done = subprocess.run(["node", *words], input=text, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@node
@pytest.mark.node
def test_codec_machine_and_links() -> None:
    run("--test", *map(str, sorted(HERE.glob("*.test.mjs"))))


@node
@pytest.mark.node
def test_all_modules_work_as_one() -> None:
    check = assets.bundle() + '\nif (typeof initialize !== "function" || typeof render !== "function") throw 1;'
    run("--input-type=module", "-", text=check)


def test_every_module_is_in_the_bundle() -> None:
    files = {path.stem for path in assets.STATIC.glob("*.js")} - {"loader"}
    assert files == set(assets.MODULES)


def test_modules_import_only_those_before_them() -> None:
    for at, name in enumerate(assets.MODULES):
        text = (assets.STATIC / f"{name}.js").read_text()
        used = set(re.findall(r'from "\./(\w+)\.js"', text))
        assert used <= set(assets.MODULES[:at]), name


def test_nothing_is_loaded_from_elsewhere() -> None:
    for path in assets.STATIC.glob("*.js"):
        assert not re.search(r"https?://(?!www\.w3\.org)", path.read_text()), path.name


def test_no_value_is_parsed_as_html_but_the_users_own_drawings() -> None:
    for path in assets.STATIC.glob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", path.read_text()), (
            path.name
        )


def test_what_every_widget_carries_is_small() -> None:
    assert len(assets.loader()) < 2500
