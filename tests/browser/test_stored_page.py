"""A stored file that is a page with a script in it, opened by somebody who is logged in: it cannot act as them."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from lab import TOKEN, Lab

import cellstore as cs

FUNCTIONS = """
import cellstore as cs

@cs.mutation
def address(ctx):
    return ctx.storage.generate_upload_url()

@cs.query
def place(ctx, id: str):
    return ctx.storage.get_url(id)

@cs.mutation
def note(ctx, who: str):
    ctx.db.insert("notes", {"who": who})

@cs.query
def notes(ctx):
    return [row.who for row in ctx.db.query("notes")]
"""
SCRIPT = """
const base = new URL("/b%40se/", location.href)
const tries = {
  cookie: async () => document.cookie,
  storage: async () => { localStorage.setItem("a", "b"); return "stored" },
  contents: async () => (await fetch(new URL("api/contents", base), {credentials: "include"})).text(),
  mutation: async () => (await fetch(new URL("cellstore/api/mutation", base), {
    method: "POST", credentials: "include", mode: "no-cors",
    body: JSON.stringify({path: "stored:note", args: {who: "the page"}}),
  })).text(),
  sync: () => new Promise((resolve, reject) => {
    const socket = new WebSocket(new URL("cellstore/api/sync", base).href.replace("http", "ws"))
    socket.onerror = () => reject(new Error("refused"))
    socket.onmessage = (event) => resolve(event.data)
    socket.onopen = () => {
      socket.send(JSON.stringify({type: "Mutation", requestId: 0, udfPath: "stored:note", args: [{who: "its socket"}]}))
    }
  }),
}
window.came = (async () => {
  const came = {}
  for (const [name, attempt] of Object.entries(tries)) {
    try { came[name] = await attempt() } catch (error) { came[name] = "refused" }
  }
  return came
})()
"""
HTML = f"<!doctype html><p>stored</p><script>{SCRIPT}</script>"
SVG = f'<svg xmlns="http://www.w3.org/2000/svg"><text y="20">stored</text><script><![CDATA[{SCRIPT}]]></script></svg>'


@pytest.mark.parametrize(
    ("kind", "text"), [("text/html", HTML), ("image/svg+xml", SVG), ("application/xhtml+xml", SVG)]
)
def test_a_script_in_a_stored_file_has_nothing_of_the_login_of_who_opens_it(
    lab: Lab, browser: Any, tmp_path: Path, kind: str, text: str
) -> None:
    (tmp_path / "stored.py").write_text(FUNCTIONS)
    with cs.connect(lab.url, TOKEN) as db:
        db.deploy(tmp_path / "stored.py")
        upload = urllib.request.Request(db.mutation("stored:address"), text.encode(), {"Content-Type": kind})
        id = json.load(urllib.request.urlopen(upload, timeout=30))["storageId"]
        url = db.query("stored:place", id=id)
        page = browser.new_context().new_page()
        page.goto(f"{lab.url}tree?token={TOKEN}")
        assert page.evaluate("fetch('/b%40se/api/contents').then(answer => answer.status)") == 200  # they are logged in
        page.goto(url)
        came = page.evaluate("window.came")
        refused = dict.fromkeys(("cookie", "storage", "contents"), "refused")
        assert came == {**refused, "mutation": "", "sync": came["sync"]}  # it may ask, and is not told what came of it
        assert came["sync"] == "refused" or "not signed in" in came["sync"]
        assert db.query("stored:notes") == []
        page.context.close()
